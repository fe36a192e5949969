"""facebookresearch/pytorch_GAN_zoo: files {"config", "netG", "netD", "avgG"}.

A layer is (conv(x) + bias) * scale, so our bias is theirs times the scale; every scale is sqrt(2 / fan_in), of the
first layer and of toRGB too; the first bias has a value per unit. D has bias and activation before the mean, and does
not blend at 8x8. alpha there is the weight of the *older* level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pggan_fast.convert import numpy_families
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.family import Family, Side, Sizes, State, count, he, shape
from pggan_fast.convert.layout import Layer, name


def _common(state: State, beside: Mapping[str, Any], maps: tuple[int, ...], **sizes: Any) -> Sizes:
    made = Sizes(maps, **sizes)
    made.how["equalised"] = bool(beside.get("equalizedlR", True))
    made.options["negative_slope"] = float(beside.get("leakyReluLeak", 0.2))
    if "leakyReluLeak" not in beside:
        made.assumed.append("no config beside the weights: equalised learning rate, leaky ReLU 0.2")
    return made


def _g_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    _, latent = shape(state, "formatLayer.module.weight", 2)
    levels = count(state, r"toRGBLayers\.(\d+)\.module\.weight")
    rgb = [shape(state, f"toRGBLayers.{k}.module.weight", 4) for k in range(levels)]
    made = _common(state, beside, tuple(s[1] for s in rgb), channels=rgb[0][0], latent=latent)
    if beside.get("perChannelNormalization") is False:
        raise ConversionError("perChannelNormalization is off, with which that program cannot run its G")
    if beside.get("alpha"):
        made.assumed.append(f"the file's config.alpha is {beside['alpha']:g}: our alpha is one less that")
    made.assumed.append("no tanh at the end, as with its WGAN-GP and logistic losses")
    return made


def _d_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    levels = count(state, r"fromRGBLayers\.(\d+)\.module\.weight")
    rgb = [shape(state, f"fromRGBLayers.{k}.module.weight", 4) for k in range(levels)]
    dense, _ = shape(state, "groupScaleZero.1.module.weight", 2)
    outputs, _ = shape(state, "decisionLayer.module.weight", 2)
    made = _common(state, beside, tuple(s[0] for s in rgb), channels=rgb[0][1], dense=dense, labels=outputs - 1)
    extra = shape(state, "groupScaleZero.0.module.weight", 4)[1] - rgb[0][0]
    made.options["stddev_group"] = 4 if extra else 0
    if extra:
        made.assumed.append(
            "minibatch stddev: where 4 does not divide the batch, theirs takes it as one group; ours raises"
        )
    return made


def _layer(sizes: Sizes, ours: str, theirs: str, fan_in: int) -> Layer:
    scale = he(fan_in) if sizes.how.get("equalised", True) else 1.0
    return Layer(ours, f"{theirs}.module.weight", f"{theirs}.module.bias", (), scale, scale)


def _g_layers(sizes: Sizes) -> list[Layer]:
    first = sizes.maps[0]
    layers = [_layer(sizes, "blocks.4x4.dense", "formatLayer", sizes.latent)]
    layers.append(_layer(sizes, "blocks.4x4.conv", "groupScale0.0", 9 * first))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            below = sizes.maps[k - 1]
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv_up", f"scaleLayers.{k - 1}.0", 9 * below))
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv", f"scaleLayers.{k - 1}.1", 9 * maps))
        layers.append(_layer(sizes, f"to_rgb.{name(r)}", f"toRGBLayers.{k}", maps))
    return layers


def _d_layers(sizes: Sizes) -> list[Layer]:
    first, dense = sizes.maps[0], sizes.dense or sizes.maps[0]
    extra = bool(sizes.options["stddev_group"])
    layers = [_layer(sizes, "blocks.4x4.conv", "groupScaleZero.0", 9 * (first + extra))]
    layers.append(_layer(sizes, "blocks.4x4.dense", "groupScaleZero.1", 16 * first))
    layers.append(_layer(sizes, "blocks.4x4.head", "decisionLayer", dense))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv", f"scaleLayers.{k - 1}.0", 9 * maps))
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv_down", f"scaleLayers.{k - 1}.1", 9 * maps))
        layers.append(_layer(sizes, f"from_rgb.{name(r)}", f"fromRGBLayers.{k}", sizes.channels))
    return layers


FAMILY = Family(
    "gan_zoo",
    Side(re.compile(r"^formatLayer\.module\.weight$"), _g_sizes, _g_layers,
         {"unit_bias": True}, {"negative_slope": (0.2,)}, numpy_families.gan_zoo_g),
    Side(re.compile(r"^decisionLayer\.module\.weight$"), _d_sizes, _d_layers,
         {"downsample": "pool", "stddev_grouping": "adjacent", "stddev_unbiased": True, "fade_from": 16},
         {"stddev_group": (0, 4), "negative_slope": (0.2,)}, numpy_families.gan_zoo_d,
         labels=True),
    keys={"G": ("netG",), "D": ("netD",), "G_ema": ("avgG",)},
)  # fmt: skip
