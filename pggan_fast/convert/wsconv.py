"""The WSConv2d tutorial (aladdinpersson/Machine-Learning-Collection): files {"state_dict", "optimizer"}, one each.

Every scaled layer has sqrt(2 / fan_in), toRGB too; the first, a transposed convolution, has none, and no norm follows
it. Images above 4x4 pass tanh. D widens in a block's first convolution, and its statistic is the unbiased deviation of
the whole batch without an epsilon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pggan_fast.convert import numpy_families
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.family import Family, Side, Sizes, State, count, dense_over_maps, he, shape
from pggan_fast.convert.layout import TRANSPOSE, Layer, Step, name, view
from pggan_fast.convert.words import WHOLE_BATCH


def _without_twin(last: bool) -> Any:
    """The 4x4 RGB layer stands under two names."""

    def prepare(state: State) -> State:
        rest = dict(state)
        k = count(state, r"rgb_layers\.(\d+)\.conv\.weight") - 1 if last else 0
        for part in ("conv.weight", "bias"):
            twin, own = rest.pop(f"initial_rgb.{part}", None), rest.get(f"rgb_layers.{k}.{part}")
            if twin is not None and own is not None and not torch.equal(twin, own):
                raise ConversionError(f"initial_rgb.{part} and rgb_layers.{k}.{part} should be one tensor, and differ")
        return rest

    return prepare


def _with_twin(last: bool) -> Any:
    def restore(state: dict[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
        k = count(state, r"rgb_layers\.(\d+)\.conv\.weight") - 1 if last else 0
        twins = {f"initial_rgb.{part}": state[f"rgb_layers.{k}.{part}"].clone() for part in ("conv.weight", "bias")}
        return {**state, **twins}

    return restore


def _g_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    latent = shape(state, "initial.1.weight", 4)[0]
    levels = count(state, r"rgb_layers\.(\d+)\.conv\.weight")
    rgb = [shape(state, f"rgb_layers.{k}.conv.weight", 4) for k in range(levels)]
    tanh = {"tanh_from": 8 if levels > 1 else None}
    return Sizes(tuple(s[1] for s in rgb), rgb[0][0], latent, options=tanh)


def _d_sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    levels = count(state, r"rgb_layers\.(\d+)\.conv\.weight")
    rgb = [shape(state, f"rgb_layers.{k}.conv.weight", 4) for k in reversed(range(levels))]
    dense = shape(state, "final_block.2.conv.weight", 4)[0]
    return Sizes(tuple(s[0] for s in rgb), rgb[0][1], dense=dense)


def _layer(ours: str, theirs: str, fan_in: int, *steps: Step) -> Layer:
    return Layer(ours, f"{theirs}.conv.weight", f"{theirs}.bias", steps, he(fan_in))


def _g_layers(sizes: Sizes) -> list[Layer]:
    z, first = sizes.latent, sizes.maps[0]
    turned = view((z, first, 4, 4), (z, 16 * first)), TRANSPOSE
    layers = [Layer("blocks.4x4.dense", "initial.1.weight", "initial.1.bias", turned, 1.0)]
    layers.append(_layer("blocks.4x4.conv", "initial.3", 9 * first))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            layers.append(_layer(f"blocks.{name(r)}.conv_up", f"prog_blocks.{k - 1}.conv1", 9 * sizes.maps[k - 1]))
            layers.append(_layer(f"blocks.{name(r)}.conv", f"prog_blocks.{k - 1}.conv2", 9 * maps))
        layers.append(_layer(f"to_rgb.{name(r)}", f"rgb_layers.{k}", maps))
    return layers


def _d_layers(sizes: Sizes) -> list[Layer]:
    last, first, dense = len(sizes.maps) - 1, sizes.maps[0], sizes.dense or sizes.maps[0]
    layers = [_layer("blocks.4x4.conv", "final_block.0", 9 * (first + 1))]
    layers.append(_layer("blocks.4x4.dense", "final_block.2", 16 * first, *dense_over_maps(dense, first)))
    layers.append(_layer("blocks.4x4.head", "final_block.4", dense, view((1, dense, 1, 1), (1, dense))))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            below = sizes.maps[k - 1]
            layers.append(_layer(f"blocks.{name(r)}.conv", f"prog_blocks.{last - k}.conv1", 9 * maps))
            layers.append(_layer(f"blocks.{name(r)}.conv_down", f"prog_blocks.{last - k}.conv2", 9 * below))
        layers.append(_layer(f"from_rgb.{name(r)}", f"rgb_layers.{last - k}", sizes.channels))
    return layers


FAMILY = Family(
    "wsconv",
    Side(re.compile(r"^initial\.1\.weight$"), _g_sizes, _g_layers,
         {"first_norm": False}, {"tanh_from": (None, 8)}, numpy_families.wsconv_g,
         prepare=_without_twin(last=False), restore=_with_twin(last=False)),
    Side(re.compile(r"^final_block\.4\.conv\.weight$"), _d_sizes, _d_layers,
         {"downsample": "pool", "widen_first": True, "stddev_group": WHOLE_BATCH, "stddev_grouping": "adjacent",
          "stddev_unbiased": True, "stddev_eps": 0.0}, forward=numpy_families.wsconv_d,
         prepare=_without_twin(last=True), restore=_with_twin(last=True)),
)  # fmt: skip
