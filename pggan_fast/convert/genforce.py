"""genforce/genforce (its converter's files: {"generator", "discriminator", "generator_smooth"}).

The official networks under other names: a layer's norm stands at the start of the next one, the first layer is a padded
4x4 convolution. z is normalised twice, alone and again once the label has joined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pggan_fast.convert import numpy_families
from pggan_fast.convert.family import Family, Side, Sizes, State, count, dense_from_conv, shape
from pggan_fast.convert.layout import Layer, Step, name


def _g_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    levels = count(state, r"output(\d+)\.weight")
    rgb = [shape(state, f"output{k}.weight", 4) for k in range(levels)]
    inputs, labels = shape(state, "layer0.weight", 4)[1], int(beside.get("labels", 0))
    made = Sizes(tuple(s[1] for s in rgb), rgb[0][0], inputs - labels, labels, unused={"lod"})
    if "labels" not in beside:
        made.assumed.append("no D beside it that tells the number of labels: all inputs are z")
    made.assumed.append("final_tanh, fused_scale off and use_wscale on, the defaults: the file does not say")
    return made


def _d_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    levels = count(state, r"input(\d+)\.weight")
    rgb = [shape(state, f"input{k}.weight", 4) for k in reversed(range(levels))]
    dense = shape(state, f"layer{2 * levels - 1}.weight", 2)[0]
    outputs = shape(state, f"layer{2 * levels}.weight", 2)[0]
    made = Sizes(tuple(s[0] for s in rgb), rgb[0][1], labels=outputs - 1, dense=dense, unused={"lod"})
    extra = shape(state, f"layer{2 * levels - 2}.weight", 4)[1] - rgb[0][0]
    made.options["stddev_group"] = 16 if extra else 0
    if extra:
        made.assumed.append("groups of 16 in the minibatch stddev, the default: the file does not say")
    made.assumed.append("fused_scale off and use_wscale on, the defaults: the file does not say")
    return made


def _layer(ours: str, theirs: str, *steps: Step) -> Layer:
    return Layer(ours, f"{theirs}.weight", f"{theirs}.bias", steps)


def _g_layers(sizes: Sizes) -> list[Layer]:
    dense = dense_from_conv(sizes.maps[0], sizes.latent + sizes.labels, flipped=True)
    layers = [_layer("blocks.4x4.dense", "layer0", *dense)]
    for k, (r, _) in enumerate(sizes.levels):
        if k:
            layers.append(_layer(f"blocks.{name(r)}.conv_up", f"layer{2 * k}"))
        layers.append(_layer(f"blocks.{name(r)}.conv", f"layer{2 * k + 1}"))
        layers.append(_layer(f"to_rgb.{name(r)}", f"output{k}"))
    return layers


def _d_layers(sizes: Sizes) -> list[Layer]:
    last = len(sizes.maps) - 1
    layers = [_layer("blocks.4x4.dense", f"layer{2 * last + 1}"), _layer("blocks.4x4.head", f"layer{2 * last + 2}")]
    for k, (r, _) in enumerate(sizes.levels):
        layers.append(_layer(f"blocks.{name(r)}.conv", f"layer{2 * (last - k)}"))
        if k:
            layers.append(_layer(f"blocks.{name(r)}.conv_down", f"layer{2 * (last - k) + 1}"))
        layers.append(_layer(f"from_rgb.{name(r)}", f"input{last - k}"))
    return layers


def _with_lod(state: dict[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """Its buffer, which says that the highest level is shown."""
    return {**state, "lod": torch.zeros((), dtype=state["layer1.weight"].dtype)}


FAMILY = Family(
    "genforce",
    Side(re.compile(r"^output0\.weight$"), _g_sizes, _g_layers,
         {"latent_norm": "both"}, forward=numpy_families.genforce_g, restore=_with_lod, labels=True),
    Side(re.compile(r"^input0\.weight$"), _d_sizes, _d_layers,
         {"downsample": "pool"}, {"stddev_group": (0, 16)}, numpy_families.genforce_d,
         restore=_with_lod, labels=True),
    keys={"G": ("generator",), "D": ("discriminator",), "G_ema": ("generator_smooth",)},
)  # fmt: skip
