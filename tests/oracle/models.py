"""Float64 numpy forms of the whole networks, from a dictionary of their raw N(0, 1) parameters.

Level r has images of base_shape * r / 4; its keys say "rxr" whatever the base shape is. Weights are scaled at run time
by gain / sqrt(fan_in), biases are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .ops import Array, bias_act, down2, f64, fade_in, minibatch_stddev, pixel_norm, scaled_conv2d, scaled_linear

State = Mapping[str, npt.NDArray[Any]]

LRELU_SLOPE = 0.2
GAIN = math.sqrt(2.0)
FIRST_DENSE_GAIN = math.sqrt(2.0) / 4.0
LINEAR_GAIN = 1.0  # toRGB and D's last dense layer: no activation follows


def feature_maps(stage: int, fmap_base: int = 8192, fmap_decay: float = 1.0, fmap_max: int = 512) -> int:
    """nf(stage); resolution 2^res uses nf(res - 1)."""
    return min(int(fmap_base / 2.0 ** (stage * fmap_decay)), fmap_max)


def levels(resolution: int) -> list[int]:
    """4, 8, ..., resolution."""
    return [2**i for i in range(2, int(math.log2(resolution)) + 1)]


def generator_shapes(
    resolution: int = 1024,
    *,
    latent_dim: int = 512,
    label_dim: int = 0,
    channels: int = 3,
    base_shape: tuple[int, int] = (4, 4),
    **fmap: float,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of G."""
    nf = _width(fmap)
    height, width = base_shape
    shapes: dict[str, tuple[int, ...]] = {
        "blocks.4x4.dense.weight": (height * width * nf(4), latent_dim + label_dim),
        "blocks.4x4.dense.bias": (nf(4),),
        **_conv_shapes("blocks.4x4.conv", nf(4), nf(4), 3),
    }
    for r in levels(resolution)[1:]:
        shapes |= _conv_shapes(f"blocks.{r}x{r}.conv_up", nf(r), nf(r // 2), 3)
        shapes |= _conv_shapes(f"blocks.{r}x{r}.conv", nf(r), nf(r), 3)
    for r in levels(resolution):
        shapes |= _conv_shapes(f"to_rgb.{r}x{r}", channels, nf(r), 1)
    return shapes


def discriminator_shapes(
    resolution: int = 1024,
    *,
    label_dim: int = 0,
    channels: int = 3,
    base_shape: tuple[int, int] = (4, 4),
    **fmap: float,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of D."""
    nf = _width(fmap)
    shapes: dict[str, tuple[int, ...]] = {}
    for r in levels(resolution):
        shapes |= _conv_shapes(f"from_rgb.{r}x{r}", nf(r), channels, 1)
    for r in levels(resolution)[1:]:
        shapes |= _conv_shapes(f"blocks.{r}x{r}.conv", nf(r), nf(r), 3)
        shapes |= _conv_shapes(f"blocks.{r}x{r}.conv_down", nf(r // 2), nf(r), 3)
    shapes |= _conv_shapes("blocks.4x4.conv", nf(4), nf(4) + 1, 3)
    shapes |= _linear_shapes("blocks.4x4.dense", nf(2), base_shape[0] * base_shape[1] * nf(4))  # nf(2): stage 0
    return shapes | _linear_shapes("blocks.4x4.head", 1 + label_dim, nf(2))


def generator(
    state: State,
    z: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    resolution: int,
    alpha: float = 1.0,
    base_shape: tuple[int, int] = (4, 4),
) -> Array:
    """G's image at the active `resolution`: toRGB of its block, blended with the enlarged toRGB of the block before."""
    latent = f64(z) if labels is None else np.concatenate([f64(z), f64(labels)], axis=1)
    hidden = pixel_norm(latent)  # the concatenation is normalised, not z alone
    dense = _linear(state, "blocks.4x4.dense", hidden, gain=FIRST_DENSE_GAIN, bias=False)
    y = bias_act(
        dense.reshape(len(latent), len(state["blocks.4x4.dense.bias"]), *base_shape),
        state["blocks.4x4.dense.bias"],
        negative_slope=LRELU_SLOPE,
        pixel_norm="after_act",
    )
    y = _conv(state, "blocks.4x4.conv", y, pixel_norm="after_act")
    image = _to_rgb(state, 4, y)
    for r in levels(resolution)[1:]:
        previous = y
        y = _conv(state, f"blocks.{r}x{r}.conv_up", y, resample="up", pixel_norm="after_act")
        y = _conv(state, f"blocks.{r}x{r}.conv", y, pixel_norm="after_act")
        if r == resolution:
            image = fade_in(_to_rgb(state, r // 2, previous), _to_rgb(state, r, y), alpha)
    return image


def discriminator(
    state: State,
    image: npt.ArrayLike,
    *,
    alpha: float = 1.0,
    base_shape: tuple[int, int] = (4, 4),
    downsample: str = "down",
    stddev_group: int = 4,
) -> tuple[Array, Array | None]:
    """(score [N], label logits [N, L] or None). The active resolution is the image's height over the base height."""
    image = f64(image)
    resolution = 4 * image.shape[2] // base_shape[0]
    y = _from_rgb(state, resolution, image)
    for r in reversed(levels(resolution)[1:]):
        y = _conv(state, f"blocks.{r}x{r}.conv", y)
        y = _conv(state, f"blocks.{r}x{r}.conv_down", y, resample=downsample)
        if r == resolution:
            y = fade_in(_from_rgb(state, r // 2, down2(image)), y, alpha)
    y = _conv(state, "blocks.4x4.conv", minibatch_stddev(y, stddev_group))
    flat = y.reshape(len(image), int(np.prod(y.shape[1:])))  # [N, C * H * W], channels outermost
    y = _linear(state, "blocks.4x4.dense", flat, gain=GAIN, negative_slope=LRELU_SLOPE)
    out = _linear(state, "blocks.4x4.head", y, gain=LINEAR_GAIN)  # [N, 1 + L]
    return out[:, 0], out[:, 1:] if out.shape[1] > 1 else None


def _width(fmap: Mapping[str, Any]) -> Callable[[int], int]:
    return lambda resolution: feature_maps(int(math.log2(resolution)) - 1, **fmap)


def _conv_shapes(name: str, out: int, inp: int, k: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inp, k, k), f"{name}.bias": (out,)}


def _linear_shapes(name: str, out: int, inp: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inp), f"{name}.bias": (out,)}


def _std(weight: npt.NDArray[Any], gain: float) -> float:
    return gain / math.sqrt(math.prod(weight.shape[1:]))  # fan_in = Cin * k * k, or Cin


def _conv(state: State, name: str, x: Array, **options: Any) -> Array:
    w, b = state[f"{name}.weight"], state[f"{name}.bias"]
    return scaled_conv2d(x, w, b, weight_scale=_std(w, GAIN), negative_slope=LRELU_SLOPE, **options)


def _linear(state: State, name: str, x: Array, *, gain: float, bias: bool = True, **options: Any) -> Array:
    w = state[f"{name}.weight"]
    return scaled_linear(x, w, state[f"{name}.bias"] if bias else None, weight_scale=_std(w, gain), **options)


def _to_rgb(state: State, r: int, x: Array) -> Array:
    w, b = state[f"to_rgb.{r}x{r}.weight"], state[f"to_rgb.{r}x{r}.bias"]
    return scaled_conv2d(x, w, b, weight_scale=_std(w, LINEAR_GAIN))


def _from_rgb(state: State, r: int, image: Array) -> Array:
    return _conv(state, f"from_rgb.{r}x{r}", image)
