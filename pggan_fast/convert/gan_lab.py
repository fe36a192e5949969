"""gan-lab 0.4: {"gen_model_state_dict", "disc_model_state_dict", ...}.

The official scales and D's order (mean, bias, activation); the first bias has a value per unit; the statistic is
unbiased over neighbours. A network knows toRGB (fromRGB) of its highest level and of the one below alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pggan_fast.convert import numpy_families
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.family import Family, Side, Sizes, State, count, dense_over_maps, shape
from pggan_fast.convert.layout import Layer, Step, name, view

_ASSUMED = ("equalised learning rate, no blur and lrmul 1, the defaults of its networks",)


def _older(sizes: Sizes, state: State, ours: str, theirs: str) -> Sizes:
    """What the file has not of RGB layers."""
    below = name(2 << (len(sizes.maps) - 1))
    sizes.how["older"] = f"{theirs}.weight" in state
    sizes.absent = [f"{ours}.{name(r)}" for r, _ in sizes.levels[:-1] if not (sizes.how["older"] and name(r) == below)]
    if sizes.absent:
        sizes.assumed.append(f"{', '.join(sizes.absent)}: the file has none, so these levels show nothing")
    return sizes


def _g_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    _, latent = shape(state, "gen_blocks.0.0.linear.weight", 2)
    normed = "gen_blocks.0.4.conv2d.weight" in state
    first, inputs = shape(state, f"gen_blocks.0.{4 if normed else 3}.conv2d.weight", 4)[:2]
    if first != inputs:
        raise ConversionError(
            f"its first layer has {inputs} feature maps and the 4x4 level {first}: in our networks these are one number"
        )
    levels = count(state, r"gen_blocks\.(\d+)\..*")
    maps = [first, *(shape(state, f"gen_blocks.{k}.1.0.conv2d.weight", 4)[0] for k in range(1, levels))]
    made = Sizes(tuple(maps), shape(state, "torgb.conv2d.weight", 4)[0], latent)
    made.options["pixel_norm"] = "after_act" if normed else "none"
    made.assumed.append("normalize_z on, the default: the file does not say; labels are a part of z")
    return _older(made, state, "to_rgb", "prev_torgb.conv2d")


def _d_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    levels = count(state, r"disc_blocks\.(\d+)\..*")
    stddev = f"disc_blocks.{levels - 1}.1.conv2d.weight" in state
    first = shape(state, f"disc_blocks.{levels - 1}.{int(stddev)}.conv2d.weight", 4)[0]
    maps = [shape(state, f"disc_blocks.{levels - 1 - k}.0.0.conv2d.weight", 4)[0] for k in range(1, levels)]
    made = Sizes((first, *maps), shape(state, "fromrgb.0.conv2d.weight", 4)[1], dense=first)
    made.options["stddev_group"] = 4 if stddev else 0
    if stddev:
        made.assumed.append("groups of 4 in the minibatch stddev, the default: the file does not say")
        made.assumed.append("where 4 does not divide the batch, theirs takes it as one group, and ours raises")
    return _older(made, state, "from_rgb", "prev_fromrgb.0.conv2d")


def _layer(ours: str, theirs: str, *steps: Step) -> Layer:
    return Layer(ours, f"{theirs}.weight", f"{theirs}.bias", steps)


def _rgb(sizes: Sizes, ours: str, theirs: str, older: str) -> list[Layer]:
    top = len(sizes.maps) - 1
    layers = [_layer(f"{ours}.{name(4 << top)}", theirs)]
    if top and sizes.how.get("older", True):
        layers.append(_layer(f"{ours}.{name(4 << (top - 1))}", older))
    return layers


def _g_layers(sizes: Sizes) -> list[Layer]:
    second = 4 if sizes.options["pixel_norm"] == "after_act" else 3
    layers = [_layer("blocks.4x4.dense", "gen_blocks.0.0.linear")]
    layers.append(_layer("blocks.4x4.conv", f"gen_blocks.0.{second}.conv2d"))
    for k, (r, _) in enumerate(sizes.levels[1:], start=1):
        layers.append(_layer(f"blocks.{name(r)}.conv_up", f"gen_blocks.{k}.0.1.conv2d"))
        layers.append(_layer(f"blocks.{name(r)}.conv", f"gen_blocks.{k}.1.0.conv2d"))
    return [*layers, *_rgb(sizes, "to_rgb", "torgb.conv2d", "prev_torgb.conv2d")]


def _d_layers(sizes: Sizes) -> list[Layer]:
    last, first, dense = len(sizes.maps) - 1, sizes.maps[0], sizes.dense or sizes.maps[0]
    at = int(bool(sizes.options["stddev_group"]))
    end = f"disc_blocks.{last}"
    layers = [_layer("blocks.4x4.conv", f"{end}.{at}.conv2d")]
    layers.append(_layer("blocks.4x4.dense", f"{end}.{at + 2}.conv2d", *dense_over_maps(dense, first)))
    layers.append(_layer("blocks.4x4.head", f"{end}.{at + 5}.linear"))
    for k, (r, _) in enumerate(sizes.levels[1:], start=1):
        block, below = f"disc_blocks.{last - k}", sizes.maps[k - 1]
        layers.append(_layer(f"blocks.{name(r)}.conv", f"{block}.0.0.conv2d"))
        bias = (view((1, below, 1, 1), (below,)),)
        layers.append(
            Layer(f"blocks.{name(r)}.conv_down", f"{block}.1.0.conv2d.weight", f"{block}.1.2.bias", bias_steps=bias)
        )
    return [*layers, *_rgb(sizes, "from_rgb", "fromrgb.0.conv2d", "prev_fromrgb.0.conv2d")]


FAMILY = Family(
    "gan_lab",
    Side(re.compile(r"^gen_blocks\.0\.0\.linear\.weight$"), _g_sizes, _g_layers,
         {"unit_bias": True}, {"pixel_norm": ("after_act", "none")}, numpy_families.gan_lab_g),
    Side(re.compile(r"^disc_blocks\.0\..*conv2d\.weight$"), _d_sizes, _d_layers,
         {"stddev_grouping": "adjacent", "stddev_unbiased": True}, {"stddev_group": (0, 4)}, numpy_families.gan_lab_d),
    keys={"G": ("gen_model_state_dict",), "D": ("disc_model_state_dict",), "G_ema": ("gen_model_lagged_state_dict",)},
    assumed=_ASSUMED,
)  # fmt: skip
