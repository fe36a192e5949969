"""The generator's whole blocks by the backend "cuda": what lies between their layers never reaches memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pggan_fast.backends import cuda, cuda_layer, layout
from pggan_fast.backends.native import DTYPES, NORMS, unsupported_image_channels
from pggan_fast.backends.registry import implement

NO_LAYER: tuple[Any, ...] = (None, None, 1.0, 1.0)
"""weight, bias and their scales where there is no layer."""


def _arguments(
    x: Tensor, packed: tuple[Tensor, Tensor], y: Tensor | None, image: Tensor | None, c: int, image_channels: int,
    biases: tuple[Tensor | None, Tensor | None], conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any,
    alpha: Tensor | None, slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Any, ...]:  # fmt: skip
    """Of generator_stage in csrc/bind/arguments.h."""
    n, cin, h, w = x.shape
    to_rgb, to_rgb_low = to_rgb or NO_LAYER, to_rgb_low or NO_LAYER
    rgb = [layout.contiguous(t) for t in (*to_rgb[:2], *to_rgb_low[:2])]
    codes = [0 if t is None else DTYPES[t.dtype] for t in (*biases, *rgb)]
    return (
        x, packed[0], biases[0], packed[1], biases[1], *rgb, alpha, y, image, DTYPES[x.dtype], *codes, n, 2 * h, 2 * w,
        cin, c, image_channels, image is not None and layout.is_channels_last(image), cuda_layer.ieee(x, 3),
        conv_up.bias_scale, conv.bias_scale, 1.0 if slope is None else slope, NORMS[norm], eps, eps_mode == "inside",
        *to_rgb[2:], *to_rgb_low[2:],
    )  # fmt: skip


def _unsupported(x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, *others: Any) -> str | None:
    c = conv.weight.shape[0]
    if (reason := cuda_layer.unsupported_channels(x, c)) is not None:
        return reason
    if to_rgb is not None and (reason := unsupported_image_channels(to_rgb.weight.shape[0])) is not None:
        return reason
    nothing = None, None
    if x.numel() and not cuda.launch(
        "generator_stage_rows", *_arguments(x, (x, x), x, None, c, 0, nothing, conv_up, conv, None, *others)
    ):
        return "the weights of both convolutions and a tile take more shared memory than the device has"
    return None


@implement("cuda", "generator_stage", supports=_unsupported)
def generator_stage(
    x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, slope: float | None,
    norm: str, eps: float, eps_mode: str,
) -> Tensor:  # fmt: skip
    """Of ops.generator_stage, without gradients."""
    n, _, h, w = x.shape
    c = conv.weight.shape[0]
    rgb = 0 if to_rgb is None else to_rgb.weight.shape[0]
    out = layout.empty((n, rgb or c, 2 * h, 2 * w), x, layout.is_channels_last(x) or not rgb)
    packed = (
        cuda_layer.packed(conv_up.weight, x, conv_up.weight_scale, "up", False),
        cuda_layer.packed(conv.weight, x, conv.weight_scale, "none", False),
    )
    biases = layout.contiguous(conv_up.bias), layout.contiguous(conv.bias)
    y, image = (None, out) if rgb else (out, None)
    dense = layout.dense(x, True)
    layers = conv_up, conv, to_rgb, to_rgb_low
    cuda.launch(
        "generator_stage",
        *_arguments(dense, packed, y, image, c, rgb, biases, *layers, alpha, slope, norm, eps, eps_mode),
    )
    return layout.conform(out, x)
