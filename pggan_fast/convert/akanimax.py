"""akanimax/pro_gan_pytorch (PyPI: pro-gan-pth 3): {"generator": {"conf", "state_dict"}, "discriminator", ...}.

Every scale is sqrt(2 / fan_in), toRGB's too; the first layer is a transposed convolution whose fan_in leaves its kernel
out, and no norm follows it. There are twice the official feature maps from 64x64 on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pggan_fast.convert import numpy_families
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.family import Family, Side, Sizes, State, count, dense_over_maps, he, shape
from pggan_fast.convert.layout import TRANSPOSE, Layer, Step, name, view


def _about(made: Sizes, beside: Mapping[str, Any]) -> Sizes:
    made.how["equalised"] = bool(beside.get("use_eql", True))
    if "use_eql" not in beside:
        made.assumed.append("no conf beside the weights: equalised learning rate")
    return made


def _g_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    latent = shape(state, "layers.0.conv_1.weight", 4)[0]
    levels = count(state, r"rgb_converters\.(\d+)\.weight")
    rgb = [shape(state, f"rgb_converters.{k}.weight", 4) for k in range(levels)]
    return _about(Sizes(tuple(s[1] for s in rgb), rgb[0][0], latent), beside)


def _d_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    levels = count(state, r"from_rgb\.(\d+)\.0\.weight")
    rgb = [shape(state, f"from_rgb.{k}.0.weight", 4) for k in reversed(range(levels))]
    last = f"layers.{levels - 1}"
    if f"{last}.label_embedder.weight" in state:
        raise ConversionError("its score is a projection onto an embedding of the label, which our networks have not")
    dense = shape(state, f"{last}.conv_2.weight", 4)[0]
    return _about(Sizes(tuple(s[0] for s in rgb), rgb[0][1], dense=dense), beside)


def _layer(sizes: Sizes, ours: str, theirs: str, fan_in: int, *steps: Step) -> Layer:
    scale = he(fan_in) if sizes.how.get("equalised", True) else 1.0
    return Layer(ours, f"{theirs}.weight", f"{theirs}.bias", steps, scale)


def _g_layers(sizes: Sizes) -> list[Layer]:
    z, first = sizes.latent, sizes.maps[0]
    turned = view((z, first, 4, 4), (z, 16 * first)), TRANSPOSE
    layers = [_layer(sizes, "blocks.4x4.dense", "layers.0.conv_1", z, *turned)]
    layers.append(_layer(sizes, "blocks.4x4.conv", "layers.0.conv_2", 9 * first))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv_up", f"layers.{k}.conv_1", 9 * sizes.maps[k - 1]))
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv", f"layers.{k}.conv_2", 9 * maps))
        layers.append(_layer(sizes, f"to_rgb.{name(r)}", f"rgb_converters.{k}", maps))
    return layers


def _d_layers(sizes: Sizes) -> list[Layer]:
    last, first, dense = len(sizes.maps) - 1, sizes.maps[0], sizes.dense or sizes.maps[0]
    layers = [_layer(sizes, "blocks.4x4.conv", f"layers.{last}.conv_1", 9 * (first + 1))]
    layers.append(
        _layer(sizes, "blocks.4x4.dense", f"layers.{last}.conv_2", 16 * first, *dense_over_maps(dense, first))
    )
    head = view((1, dense, 1, 1), (1, dense))
    layers.append(_layer(sizes, "blocks.4x4.head", f"layers.{last}.conv_3", dense, head))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv", f"layers.{last - k}.conv_1", 9 * maps))
            layers.append(_layer(sizes, f"blocks.{name(r)}.conv_down", f"layers.{last - k}.conv_2", 9 * maps))
        layers.append(_layer(sizes, f"from_rgb.{name(r)}", f"from_rgb.{last - k}.0", sizes.channels))
    return layers


FAMILY = Family(
    "akanimax",
    Side(re.compile(r"^rgb_converters\.0\.weight$"), _g_sizes, _g_layers,
         {"first_norm": False}, forward=numpy_families.akanimax_g),
    Side(re.compile(r"^from_rgb\.0\.0\.weight$"), _d_sizes, _d_layers,
         {"downsample": "pool"}, forward=numpy_families.akanimax_d),
    keys={"G": ("generator", "state_dict"), "D": ("discriminator", "state_dict"),
          "G_ema": ("shadow_generator", "state_dict")},
)  # fmt: skip
