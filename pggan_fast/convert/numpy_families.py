"""The PyTorch families' networks in float64 numpy, straight from their state dicts, as their own code computes them.

For each family its G, (variables, sizes, z, labels, resolution=, alpha=), and its D, (variables, sizes, image, alpha=).
alpha is the weight of the newest level. `sizes` only tells what is not in the variables; see `numpy_forward`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pggan_fast.convert.numpy_forward import (
    Floats,
    Layer,
    Variables,
    adjacent_stddev,
    bias,
    conv,
    down,
    grown,
    layer_unused,
    lrelu,
    norm,
    shrunk,
    stddev,
    strided_stddev,
    up,
)

if TYPE_CHECKING:
    from pggan_fast.convert.family import Sizes


def _fan(weight: Floats) -> int:
    return math.prod(weight.shape[1:])


def _from_pixel(x: Floats, weight: Floats) -> Floats:
    """A transposed convolution of [N, C] as one pixel, with weight [C, O, 4, 4]."""
    return np.einsum("nc,cohw->nohw", x, weight)


def _range(sizes: Sizes) -> range:
    return range(len(sizes.maps))


def gan_zoo_g(v: Variables, sizes: Sizes, z: Floats, labels: None, *, resolution: int, alpha: float) -> Floats:
    slope = sizes.options["negative_slope"]

    def layer(x: Floats, name: str) -> Floats:
        w, b = v[f"{name}.module.weight"], v[f"{name}.module.bias"]
        y = bias(x @ w.T if w.ndim == 2 else conv(x, w), b)
        return y * math.sqrt(2 / _fan(w)) if sizes.how["equalised"] else y

    def first(x: Floats) -> Floats:
        x = norm(lrelu(layer(norm(x), "formatLayer"), slope).reshape(len(x), -1, 4, 4))
        return norm(lrelu(layer(x, "groupScale0.0"), slope))

    def block(k: int) -> Layer:
        def run(x: Floats) -> Floats:
            x = norm(lrelu(layer(up(x), f"scaleLayers.{k}.0"), slope))
            return norm(lrelu(layer(x, f"scaleLayers.{k}.1"), slope))

        return run

    rgb = [lambda x, k=k: layer(x, f"toRGBLayers.{k}") for k in _range(sizes)]
    return grown([first, *map(block, range(len(rgb) - 1))], rgb, z, resolution, alpha)


def gan_zoo_d(v: Variables, sizes: Sizes, image: Floats, *, alpha: float) -> Floats:
    slope = sizes.options["negative_slope"]

    def layer(x: Floats, name: str) -> Floats:
        w, b = v[f"{name}.module.weight"], v[f"{name}.module.bias"]
        y = bias(x @ w.T if w.ndim == 2 else conv(x, w), b)
        return y * math.sqrt(2 / _fan(w)) if sizes.how["equalised"] else y

    def block(k: int) -> Layer:
        return lambda x: down(lrelu(layer(lrelu(layer(x, f"scaleLayers.{k}.0"), slope), f"scaleLayers.{k}.1"), slope))

    rgb = [lambda x, k=k: lrelu(layer(x, f"fromRGBLayers.{k}"), slope) for k in _range(sizes)]
    x = shrunk([layer_unused, *map(block, range(len(rgb) - 1))], rgb, image, alpha, fade_from=2)
    if v["groupScaleZero.0.module.weight"].shape[1] > x.shape[1]:
        x = adjacent_stddev(x)
    x = lrelu(layer(x, "groupScaleZero.0"), slope).reshape(len(x), -1)
    return layer(lrelu(layer(x, "groupScaleZero.1"), slope), "decisionLayer")


def _akanimax(v: Variables, sizes: Sizes, x: Floats, name: str, own: int | None = None) -> Floats:
    w = v[f"{name}.weight"]
    scale = math.sqrt(2 / (own or _fan(w))) if sizes.how["equalised"] else 1.0
    pad = 0 if w.shape[2] == 4 else None
    y = conv(x, w * scale, pad) if own is None else _from_pixel(x, w * scale)
    return bias(y, v[f"{name}.bias"])


def akanimax_g(v: Variables, sizes: Sizes, z: Floats, labels: None, *, resolution: int, alpha: float) -> Floats:
    def first(x: Floats) -> Floats:
        y = lrelu(_akanimax(v, sizes, norm(x), "layers.0.conv_1", own=x.shape[1]))
        return norm(lrelu(_akanimax(v, sizes, y, "layers.0.conv_2")))

    def block(k: int) -> Layer:
        def run(x: Floats) -> Floats:
            x = norm(lrelu(_akanimax(v, sizes, up(x), f"layers.{k}.conv_1")))
            return norm(lrelu(_akanimax(v, sizes, x, f"layers.{k}.conv_2")))

        return run

    rgb = [lambda x, k=k: _akanimax(v, sizes, x, f"rgb_converters.{k}") for k in _range(sizes)]
    return grown([first, *map(block, range(1, len(rgb)))], rgb, z, resolution, alpha)


def akanimax_d(v: Variables, sizes: Sizes, image: Floats, *, alpha: float) -> Floats:
    last = len(sizes.maps) - 1  # lists begin with the highest level

    def layer(x: Floats, name: str) -> Floats:
        return lrelu(_akanimax(v, sizes, x, name))

    def block(k: int) -> Layer:
        return lambda x: down(layer(layer(x, f"layers.{last - k}.conv_1"), f"layers.{last - k}.conv_2"))

    rgb = [lambda x, k=k: layer(x, f"from_rgb.{last - k}.0") for k in _range(sizes)]
    x = strided_stddev(shrunk([layer_unused, *map(block, range(1, last + 1))], rgb, image, alpha), 4)
    x = layer(layer(x, f"layers.{last}.conv_1"), f"layers.{last}.conv_2")
    return _akanimax(v, sizes, x, f"layers.{last}.conv_3")[:, :, 0, 0]


def rosinality_g(v: Variables, sizes: Sizes, z: Floats, labels: Floats, *, resolution: int, alpha: float) -> Floats:
    def layer(x: Floats, name: str, pad: int = 1) -> Floats:
        w = v[f"{name}.conv.weight_orig"]
        return lrelu(norm(bias(conv(x, w * math.sqrt(2 / _fan(w)), pad), v[f"{name}.conv.bias"])))

    def block(k: int) -> Layer:
        if not k:
            return lambda x: layer(layer(x, "progression.0.conv.0", 3), "progression.0.conv.3")
        return lambda x: layer(layer(up(x), f"progression.{k}.conv.0"), f"progression.{k}.conv.3")

    rgb = [lambda x, k=k: bias(conv(x, v[f"to_rgb.{k}.weight"]), v[f"to_rgb.{k}.bias"]) for k in _range(sizes)]
    embedded = v["label_embed.weight"][labels.argmax(axis=1)]
    x = np.concatenate([norm(z), embedded], axis=1)[:, :, None, None]
    return grown([block(k) for k in _range(sizes)], rgb, x, resolution, alpha)


def _wsconv(v: Variables, x: Floats, name: str, pad: int | None = None) -> Floats:
    w = v[f"{name}.conv.weight"]
    return bias(conv(x * math.sqrt(2 / _fan(w)), w, pad), v[f"{name}.bias"])


def wsconv_g(v: Variables, sizes: Sizes, z: Floats, labels: None, *, resolution: int, alpha: float) -> Floats:
    def first(x: Floats) -> Floats:
        y = lrelu(bias(_from_pixel(norm(x), v["initial.1.weight"]), v["initial.1.bias"]))
        return norm(lrelu(_wsconv(v, y, "initial.3")))

    def block(k: int) -> Layer:
        def run(x: Floats) -> Floats:
            x = norm(lrelu(_wsconv(v, up(x), f"prog_blocks.{k}.conv1")))
            return norm(lrelu(_wsconv(v, x, f"prog_blocks.{k}.conv2")))

        return run

    rgb = [lambda x, k=k: _wsconv(v, x, f"rgb_layers.{k}") for k in _range(sizes)]
    image = grown([first, *map(block, range(len(rgb) - 1))], rgb, z, resolution, alpha)
    return image if resolution == 4 else np.tanh(image)


def wsconv_d(v: Variables, sizes: Sizes, image: Floats, *, alpha: float) -> Floats:
    last = len(sizes.maps) - 1

    def block(k: int) -> Layer:
        at = f"prog_blocks.{last - k}"
        return lambda x: down(lrelu(_wsconv(v, lrelu(_wsconv(v, x, f"{at}.conv1")), f"{at}.conv2")))

    rgb = [lambda x, k=k: lrelu(_wsconv(v, x, f"rgb_layers.{last - k}")) for k in _range(sizes)]
    x = shrunk([layer_unused, *map(block, range(1, last + 1))], rgb, image, alpha)
    x = stddev(x, np.full(len(x), x.std(axis=0, ddof=1).mean()))
    x = lrelu(_wsconv(v, x, "final_block.0"))
    return _wsconv(v, lrelu(_wsconv(v, x, "final_block.2", 0)), "final_block.4")[:, :, 0, 0]


def genforce_g(
    v: Variables, sizes: Sizes, z: Floats, labels: Floats | None, *, resolution: int, alpha: float
) -> Floats:
    """A layer begins with the norm of its input, toRGB too."""

    def layer(
        x: Floats, name: str, gain: float = math.sqrt(2), pad: int | None = None, enlarged: bool = False
    ) -> Floats:
        x = up(norm(x)) if enlarged else norm(x)
        w = v[f"{name}.weight"]
        return bias(conv(x, w * (gain / math.sqrt(_fan(w))), pad), v[f"{name}.bias"])

    def block(k: int) -> Layer:
        if not k:
            return lambda x: lrelu(layer(lrelu(layer(x, "layer0", pad=3)), "layer1"))
        return lambda x: lrelu(layer(lrelu(layer(x, f"layer{2 * k}", enlarged=True)), f"layer{2 * k + 1}"))

    rgb = [lambda x, k=k: layer(x, f"output{k}", 1.0) for k in _range(sizes)]
    z = norm(z) if labels is None else np.concatenate([norm(z), labels], axis=1)
    return grown([block(k) for k in _range(sizes)], rgb, z[:, :, None, None], resolution, alpha)


def genforce_d(v: Variables, sizes: Sizes, image: Floats, *, alpha: float) -> Floats:
    last = len(sizes.maps) - 1

    def layer(x: Floats, name: str, gain: float = math.sqrt(2)) -> Floats:
        w = v[f"{name}.weight"] * (gain / math.sqrt(_fan(v[f"{name}.weight"])))
        return bias(x.reshape(len(x), -1) @ w.T if w.ndim == 2 else conv(x, w), v[f"{name}.bias"])

    def block(k: int) -> Layer:
        at = 2 * (last - k)
        return lambda x: down(lrelu(layer(lrelu(layer(x, f"layer{at}")), f"layer{at + 1}")))

    rgb = [lambda x, k=k: lrelu(layer(x, f"input{last - k}")) for k in _range(sizes)]
    x = shrunk([layer_unused, *map(block, range(1, last + 1))], rgb, image, alpha)
    if v[f"layer{2 * last}.weight"].shape[1] > x.shape[1]:
        x = strided_stddev(x, 16)
    x = lrelu(layer(lrelu(layer(x, f"layer{2 * last}")), f"layer{2 * last + 1}"))
    return layer(x, f"layer{2 * last + 2}", 1.0)


def _gan_lab(v: Variables, x: Floats, name: str, square: float = 2.0, pad: int | None = None) -> Floats:
    """Without its bias."""
    w = v[f"{name}.weight"]
    x = x * math.sqrt(square / _fan(w))
    return x @ w.T if w.ndim == 2 else conv(x, w, pad)


def _biased(v: Variables, x: Floats, name: str, square: float = 2.0, pad: int | None = None) -> Floats:
    return bias(_gan_lab(v, x, name, square, pad), v[f"{name}.bias"])


def gan_lab_g(v: Variables, sizes: Sizes, z: Floats, labels: None, *, resolution: int, alpha: float) -> Floats:
    normed, top = "gen_blocks.0.4.conv2d.weight" in v, len(sizes.maps) - 1

    def finish(x: Floats) -> Floats:
        return norm(lrelu(x)) if normed else lrelu(x)

    def first(x: Floats) -> Floats:
        x = finish(_biased(v, norm(x), "gen_blocks.0.0.linear", 2 / 16).reshape(len(x), -1, 4, 4))
        return finish(_biased(v, x, f"gen_blocks.0.{4 if normed else 3}.conv2d"))

    def block(k: int) -> Layer:
        at = f"gen_blocks.{k}"
        return lambda x: finish(_biased(v, finish(_biased(v, up(x), f"{at}.0.1.conv2d")), f"{at}.1.0.conv2d"))

    names = {top: "torgb.conv2d", top - 1: "prev_torgb.conv2d"}
    rgb = [lambda x, k=k: _biased(v, x, names[k], 1.0) for k in _range(sizes)]
    return grown([first, *map(block, range(1, top + 1))], rgb, z, resolution, alpha)


def gan_lab_d(v: Variables, sizes: Sizes, image: Floats, *, alpha: float) -> Floats:
    top, names = len(sizes.maps) - 1, {0: "fromrgb.0.conv2d", 1: "prev_fromrgb.0.conv2d"}

    def block(k: int) -> Layer:
        at = f"disc_blocks.{top - k}"

        def run(x: Floats) -> Floats:
            x = lrelu(_biased(v, x, f"{at}.0.0.conv2d"))
            return lrelu(down(_gan_lab(v, x, f"{at}.1.0.conv2d")) + v[f"{at}.1.2.bias"])

        return run

    rgb = [lambda x, k=k: lrelu(_biased(v, x, names[top - k])) for k in _range(sizes)]
    x = shrunk([layer_unused, *map(block, range(1, top + 1))], rgb, image, alpha)
    end, first = f"disc_blocks.{top}", 1 if f"disc_blocks.{top}.1.conv2d.weight" in v else 0
    x = adjacent_stddev(x) if first else x
    x = lrelu(_biased(v, x, f"{end}.{first}.conv2d"))
    x = lrelu(_biased(v, x, f"{end}.{first + 2}.conv2d", pad=0))[:, :, 0, 0]
    return _biased(v, x, f"{end}.{first + 5}.linear", 1.0)


def nashory_g(v: Variables, sizes: Sizes, z: Floats, labels: None, *, resolution: int, alpha: float) -> Floats:
    """With the expectation of its scales. Layers stand in nn.Sequential, each a layer, an activation, maybe a norm."""
    numbers = sorted({int(key.split(".")[2]) for key in v if key.startswith("model.first_block.")})
    normed = numbers[1] - numbers[0] == 3
    step = numbers[1] - numbers[0]

    def layer(x: Floats, name: str, pad: int | None = None) -> Floats:
        if f"{name}.weight" in v:
            y = conv(x, v[f"{name}.weight"], pad)
        else:
            w = v[f"{name}.conv.weight"]
            y = conv(x * (1 / math.sqrt(_fan(w))), w, pad)
        return bias(y, v[f"{name}.bias"])

    def finish(x: Floats) -> Floats:
        return norm(lrelu(x)) if normed else lrelu(x)

    def first(x: Floats) -> Floats:
        x = norm(x) if numbers[0] else x
        x = finish(layer(x, f"model.first_block.{numbers[0]}", 3))
        return finish(layer(x, f"model.first_block.{numbers[1]}"))

    def block(stem: str) -> Layer:
        return lambda x: finish(layer(finish(layer(up(x), f"{stem}.1")), f"{stem}.{1 + step}"))

    top = len(sizes.maps) - 1
    names = {top: sizes.how["top"], top - 1: sizes.how["older"]}
    rgb = [lambda x, k=k: layer(x, names[k]) for k in _range(sizes)]
    return grown([first, *map(block, sizes.how["stems"])], rgb, z[:, :, None, None], resolution, alpha)
