"""Foreign networks in float64 numpy, straight from their variables, as their own code computes them.

Nothing here knows of our layers, our layouts or torch, so that agreement with a converted network means something:
fused layers of the official code are the strided convolutions of 4x4 kernels that they are there, Theano's convolutions
are true ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Variables = Mapping[str, Floats]
Layer = Callable[[Floats], Floats]
ROOT2 = math.sqrt(2.0)


def conv(x: Floats, weight: Floats, pad: int | None = None) -> Floats:
    """Correlation, stride 1, of x [N, C, H, W] with weight [O, C, k, k]; `pad` keeps the size if not given."""
    k = weight.shape[2]
    p = (k - 1) // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
    y = np.zeros((len(x), len(weight), height, width))
    for i in range(k):
        for j in range(k):
            part = x[:, :, i : i + height, j : j + width].reshape(*x.shape[:2], -1)
            y += np.matmul(weight[:, :, i, j], part).reshape(y.shape)
    return y


def true_conv(x: Floats, weight: Floats, pad: int | None = None) -> Floats:
    """Convolution as mathematics has it, which turns the kernel round: Theano's."""
    return conv(x, weight[:, :, ::-1, ::-1], pad)


def transposed_conv(x: Floats, weight: Floats) -> Floats:
    """Stride 2, of x [N, C, H, W] with weight [C, O, 4, 4], less a border of one: [N, O, 2H, 2W]."""
    n, _, h, w = x.shape
    y = np.zeros((n, weight.shape[1], 2 * h + 2, 2 * w + 2))
    for i in range(4):
        for j in range(4):
            part = np.matmul(weight[:, :, i, j].T, x.reshape(n, x.shape[1], -1)).reshape(n, -1, h, w)
            y[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += part
    return y[:, :, 1:-1, 1:-1]


def box(weight: Floats) -> Floats:
    """[..., 3, 3] -> [..., 4, 4]: the four shifts of the kernel, added."""
    p = np.pad(weight, [(0, 0)] * (weight.ndim - 2) + [(1, 1), (1, 1)])
    return p[..., 1:, 1:] + p[..., :-1, 1:] + p[..., 1:, :-1] + p[..., :-1, :-1]


def up(x: Floats) -> Floats:
    return x.repeat(2, axis=2).repeat(2, axis=3)


def down(x: Floats) -> Floats:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


def lrelu(x: Floats, slope: float = 0.2) -> Floats:
    return np.where(x > 0.0, x, slope * x)


def norm(x: Floats, eps: float = 1e-8) -> Floats:
    return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + eps)


def bias(x: Floats, b: Floats) -> Floats:
    return x + b.reshape((1, -1) + (1,) * (x.ndim - 2))


def stddev(x: Floats, deviation: Floats) -> Floats:
    """x with one more map, of a number for each sample."""
    n, _, h, w = x.shape
    return np.concatenate([x, np.broadcast_to(deviation.reshape(n, 1, 1, 1), (n, 1, h, w))], axis=1)


def strided_stddev(x: Floats, group: int) -> Floats:
    """The official code's: sample n is in group n mod (N / group)."""
    group = min(group, len(x))
    y = x.reshape(group, -1, *x.shape[1:])
    s = np.sqrt(y.var(axis=0) + 1e-8).mean(axis=(1, 2, 3))
    return stddev(x, np.tile(s, group))


def adjacent_stddev(x: Floats, group: int = 4) -> Floats:
    """Some ports': groups are neighbours, variances are unbiased."""
    group = min(group, len(x))
    y = x.reshape(-1, group, *x.shape[1:])
    s = np.sqrt(y.var(axis=1, ddof=1) + 1e-8).mean(axis=(1, 2, 3)) if group > 1 else np.zeros(len(x))
    return stddev(x, np.repeat(s, group))


def levels(resolution: int) -> list[int]:
    return [4 << k for k in range(resolution.bit_length() - 2)]


def _fade(low: Floats, high: Floats, alpha: float) -> Floats:
    return high if alpha >= 1.0 else (1.0 - alpha) * low + alpha * high


def grown(blocks: Sequence[Layer], rgb: Sequence[Layer], x: Floats, resolution: int, alpha: float) -> Floats:
    """A generator's image: blocks from 4x4 on, of which each enlarges its own input; RGB images are blended."""
    k = resolution.bit_length() - 3
    for block in blocks[:k]:
        x = block(x)
    image = rgb[k](blocks[k](x))
    return _fade(up(rgb[k - 1](x)), image, alpha) if k and alpha < 1.0 else image


def shrunk(blocks: Sequence[Layer], rgb: Sequence[Layer], image: Floats, alpha: float, fade_from: int = 1) -> Floats:
    """A discriminator's features behind its 8x8 block: blocks from 4x4 on (the first unused), each halves its input."""
    k = image.shape[2].bit_length() - 3
    x = rgb[k](image)
    for level in range(k, 0, -1):
        x = blocks[level](x)
        if level == k and k >= fade_from:
            x = _fade(rgb[k - 1](down(image)), x, alpha) if alpha < 1.0 else x
    return x


def _std(weight: Floats, gain: float, fan_in: int, kwargs: Mapping[str, Any]) -> Floats:
    return weight * (gain / math.sqrt(fan_in)) if kwargs["use_wscale"] else weight


def official_g(
    v: Variables, kwargs: Mapping[str, Any], z: Floats, labels: Floats | None, *, resolution: int, alpha: float
) -> Floats:
    """G_paper of the TensorFlow code; kwargs has every argument of it. alpha is 1 - (lod - floor(lod))."""
    eps, slope = kwargs["pixelnorm_epsilon"], 0.2 if kwargs["use_leakyrelu"] else 0.0
    top = kwargs["resolution"].bit_length() - 1

    def finish(x: Floats, name: str) -> Floats:
        y = lrelu(bias(x, v[f"{name}/bias"]), slope)
        return norm(y, eps) if kwargs["use_pixelnorm"] else y

    def plain(x: Floats, name: str, gain: float = ROOT2) -> Floats:
        w = v[f"{name}/weight"]
        return conv(x, _std(w, gain, w.shape[0] * w.shape[1] * w.shape[2], kwargs).transpose(3, 2, 0, 1))

    def fused(x: Floats, name: str) -> Floats:
        w = v[f"{name}/weight"]  # [k, k, out, in]
        return transposed_conv(x, box(_std(w, ROOT2, 9 * w.shape[3], kwargs).transpose(3, 2, 0, 1)))

    def first(x: Floats) -> Floats:
        w = v["4x4/Dense/weight"]
        x = norm(x, eps) if kwargs["normalize_latents"] else x
        x = (x @ _std(w, ROOT2 / 4, w.shape[0], kwargs)).reshape(len(x), -1, 4, 4)
        return finish(plain(finish(x, "4x4/Dense"), "4x4/Conv"), "4x4/Conv")

    def block(r: int) -> Layer:
        at = f"{r}x{r}"
        if kwargs["fused_scale"]:
            enlarge = lambda x: finish(fused(x, f"{at}/Conv0_up"), f"{at}/Conv0_up")  # noqa: E731
        else:
            enlarge = lambda x: finish(plain(up(x), f"{at}/Conv0"), f"{at}/Conv0")  # noqa: E731
        return lambda x: finish(plain(enlarge(x), f"{at}/Conv1"), f"{at}/Conv1")

    def rgb(r: int) -> Layer:
        at = f"ToRGB_lod{top - r.bit_length() + 1}"
        return lambda x: bias(plain(x, at, 1.0), v[f"{at}/bias"])

    joined = z if labels is None else np.concatenate([z, labels], axis=1)
    steps = levels(kwargs["resolution"])
    return grown([first, *map(block, steps[1:])], [rgb(r) for r in steps], joined, resolution, alpha)


def official_d(v: Variables, kwargs: Mapping[str, Any], image: Floats, *, alpha: float) -> Floats:
    """D_paper of the TensorFlow code: [N, 1 + labels]."""
    top = kwargs["resolution"].bit_length() - 1

    def layer(x: Floats, name: str) -> Floats:
        w = v[f"{name}/weight"]
        y = conv(x, _std(w, ROOT2, w.shape[0] * w.shape[1] * w.shape[2], kwargs).transpose(3, 2, 0, 1))
        return lrelu(bias(y, v[f"{name}/bias"]))

    def halved(x: Floats, name: str) -> Floats:
        w = _std(v[f"{name}/weight"], ROOT2, 9 * x.shape[1], kwargs).transpose(3, 2, 0, 1)
        w = 0.25 * box(w)
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        return lrelu(bias(conv(x, w, 0)[:, :, ::2, ::2], v[f"{name}/bias"]))

    def block(r: int) -> Layer:
        at = f"{r}x{r}"
        if kwargs["fused_scale"]:
            return lambda x: halved(layer(x, f"{at}/Conv0"), f"{at}/Conv1_down")
        return lambda x: down(layer(layer(x, f"{at}/Conv0"), f"{at}/Conv1"))

    def dense(x: Floats, name: str, gain: float) -> Floats:
        w = v[f"{name}/weight"]
        return x @ _std(w, gain, len(w), kwargs) + v[f"{name}/bias"]

    steps = levels(kwargs["resolution"])
    rgb = [lambda x, r=r: layer(x, f"FromRGB_lod{top - r.bit_length() + 1}") for r in steps]
    x = shrunk([layer_unused, *map(block, steps[1:])], rgb, image, alpha)
    if kwargs["mbstd_group_size"] > 1:
        x = strided_stddev(x, kwargs["mbstd_group_size"])
    x = layer(x, "4x4/Conv").reshape(len(x), -1)
    return dense(lrelu(dense(x, "4x4/Dense0", ROOT2)), "4x4/Dense1", 1.0)


def layer_unused(x: Floats) -> Floats:
    """Stands where a discriminator's list has no block."""
    raise AssertionError("the 4x4 block is not one of those that halve")


def _theano_layers(values: Sequence[Floats], kwargs: Mapping[str, Any]) -> Iterator[tuple[Floats, Floats]]:
    """(weight as it takes part, bias) of each layer in the order of the list."""
    stream = iter(values)
    for weight in stream:
        scale = float(next(stream).reshape(())) if kwargs["use_wscale"] else 1.0
        yield weight * scale, next(stream)


def theano_g(
    values: Sequence[Floats],
    kwargs: Mapping[str, Any],
    z: Floats,
    labels: Floats | None,
    *,
    resolution: int,
    alpha: float,
) -> Floats:
    """The Theano code's generator."""
    eps, slope = kwargs["pixelnorm_epsilon"], 0.2 if kwargs["use_leakyrelu"] else 0.0
    stream, steps = _theano_layers(values, kwargs), levels(kwargs["resolution"])

    def layer(pad: int | None = None, enlarged: bool = False) -> Layer:
        w, b = next(stream)

        def run(x: Floats) -> Floats:
            y = lrelu(bias(true_conv(up(x) if enlarged else x, w, pad), b), slope)
            return norm(y, eps) if kwargs["use_pixelnorm"] else y

        return run

    def pair(first: Layer, second: Layer) -> Layer:
        return lambda x: second(first(x))

    def rgb() -> Layer:
        w, b = next(stream)  # [in, out]
        return lambda x: bias(np.einsum("ncij,co->noij", x, w), b)

    blocks = [pair(layer(pad=3), layer())]
    blocks += [pair(layer(enlarged=True), layer()) for _ in steps[1:]]
    shows = [rgb() for _ in steps][::-1]  # the list begins with the highest level
    x = norm(z, eps) if kwargs["normalize_latents"] else z
    return grown(blocks, shows, x[:, :, None, None], resolution, alpha)


def theano_d(values: Sequence[Floats], kwargs: Mapping[str, Any], image: Floats, *, alpha: float) -> Floats:
    """The Theano code's discriminator: [N, 1]."""
    stream, steps = _theano_layers(values, kwargs), levels(kwargs["resolution"])

    def layer(pad: int | None = None) -> Layer:
        w, b = next(stream)
        return lambda x: lrelu(bias(true_conv(x, w, pad), b))

    def rgb() -> Layer:
        w, b = next(stream)
        return lambda x: lrelu(bias(np.einsum("ncij,co->noij", x, w), b))

    def pair(first: Layer, second: Layer) -> Layer:
        return lambda x: down(second(first(x)))

    shows, blocks = [rgb()], []
    for _ in steps[1:]:
        blocks.append(pair(layer(), layer()))
        shows.append(rgb())
    x = shrunk([layer_unused, *blocks[::-1]], shows[::-1], image, alpha)
    x = layer()(strided_stddev(x, kwargs["mbstd_group_size"]))
    x = layer(pad=0)(x)[:, :, 0, 0]
    w, b = next(stream)
    return x @ w + b
