"""rosinality/progressive-gan-pytorch: files are whole pickled modules, of G's running average.

conv -> pixel norm -> leaky ReLU; toRGB is plain; z is normalised alone, then an embedding of the label joins it. Our
labels are one-hot, so the embedding is multiplied into the first layer's weights for them, which changes no image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pggan_fast.convert import numpy_families
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.family import Family, Side, Sizes, State, count, dense_from_conv, he, shape
from pggan_fast.convert.layout import Layer, name

_FIRST, _EMBED = "progression.0.conv.0.conv.weight_orig", "label_embed.weight"
_JOINED = f"{_FIRST} over {_EMBED}"


def _with_embedding(state: State) -> State:
    """The first weight for z and one-hot labels, as one tensor of its own."""
    if _FIRST not in state or _EMBED not in state:
        return state
    weight, embedding = state[_FIRST], state[_EMBED]
    n = embedding.shape[0] if embedding.ndim == 2 and embedding.shape[0] == embedding.shape[1] else 0
    if weight.ndim != 4 or not 0 < n < weight.shape[1]:
        raise ConversionError(
            f"{_EMBED}: shape {tuple(embedding.shape)} does not fit {tuple(weight.shape)} of {_FIRST}"
        )
    labels = torch.einsum("oekl,ne->onkl", weight[:, -n:].double(), embedding.double()).to(weight.dtype)
    return {**state, _JOINED: torch.cat([weight[:, :-n], labels], dim=1)}


def _without_embedding(state: dict[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """With an embedding that leaves one-hot labels as they are."""
    if not sizes.labels:
        raise ConversionError("G: label_dim is 0; rosinality's networks have a label or more")
    weight = state.pop(_JOINED)
    return {**state, _FIRST: weight, _EMBED: torch.eye(sizes.labels, dtype=weight.dtype)}


def _sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    labels = shape(state, _EMBED, 2)[0]
    inputs = shape(state, _FIRST, 4)[1]
    levels = count(state, r"to_rgb\.(\d+)\.weight")
    rgb = [shape(state, f"to_rgb.{k}.weight", 4) for k in range(levels)]
    maps = tuple(s[1] for s in rgb)
    return Sizes(maps, rgb[0][0], inputs - labels, labels, unused={_FIRST, _EMBED})


def _layers(sizes: Sizes) -> list[Layer]:
    def layer(ours: str, theirs: str, fan_in: int) -> Layer:
        return Layer(ours, f"{theirs}.conv.weight_orig", f"{theirs}.conv.bias", (), he(fan_in))

    inputs, first = sizes.latent + sizes.labels, sizes.maps[0]
    dense = dense_from_conv(first, inputs, flipped=True)
    layers = [Layer("blocks.4x4.dense", _JOINED, "progression.0.conv.0.conv.bias", dense, he(16 * inputs))]
    layers.append(layer("blocks.4x4.conv", "progression.0.conv.3", 9 * first))
    for k, (r, maps) in enumerate(sizes.levels):
        if k:
            layers.append(layer(f"blocks.{name(r)}.conv_up", f"progression.{k}.conv.0", 9 * sizes.maps[k - 1]))
            layers.append(layer(f"blocks.{name(r)}.conv", f"progression.{k}.conv.3", 9 * maps))
        layers.append(Layer(f"to_rgb.{name(r)}", f"to_rgb.{k}.weight", f"to_rgb.{k}.bias", (), 1.0))
    return layers


FAMILY = Family(
    "rosinality",
    Side(re.compile(r"^progression\.0\.conv\.3\.conv\.weight_orig$"), _sizes, _layers,
         {"latent_norm": "z", "pixel_norm": "before_act"}, forward=numpy_families.rosinality_g,
         prepare=_with_embedding, restore=_without_embedding, labels=True),
    Side(re.compile(r"^progression\.\d+\.conv\.2\.conv\.weight_orig$"),
         refused="its minibatch statistic is the deviation of the images, ours that of the 4x4 features"),
)  # fmt: skip
