"""nashory/pggan-pytorch: files {"resl", "state_dict", "optimizer"} of one network each.

A layer's scale is the root of the mean square of that run's own random start, and no file holds it: its expectation,
1 / sqrt(fan_in), is off by about 1 / sqrt(2 n) of itself for n weights. So a file alone does not say what its network
computed; the conversion, which takes the expectation, has to be asked for. A network knows toRGB of its highest level,
while it fades in also of the one below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pggan_fast.convert import numpy_families
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.family import Family, Side, Sizes, State, dense_from_conv, he, shape
from pggan_fast.convert.layout import Layer, Step, name

_BLOCK = re.compile(r"^(model\.intermediate_\d+x\d+_(\d+)x\2\.high_resl_block)\.1\.(conv\.)?weight$")
_NEW = "model.concat_block.layer2.high_resl_block"
_TOP = re.compile(
    r"^(model\.(to_rgb_block(\.high_resl_to_rgb)?|concat_block\.layer2\.high_resl_to_rgb)\.0)\.(conv\.)?weight$"
)
_OLDER = re.compile(r"^(model\.concat_block\.layer1\.low_resl_to_rgb(\.\w+)*?\.0)\.(conv\.)?weight$")


def _sizes(state: State, beside: Mapping[str, Any]) -> Sizes:
    plain = "model.first_block.0.weight" in state or "model.first_block.1.weight" in state
    if not plain and not beside.get("nominal_scale"):
        raise ConversionError("no file holds its layers' scales, which are those of that run's random start; "
                              "--nominal-scale takes their expectation, 1 / sqrt(fan_in)")  # fmt: skip
    part = "weight" if plain else "conv.weight"
    at = next((k for k in (0, 1) if f"model.first_block.{k}.{part}" in state), None)
    if at is None:
        raise ConversionError("model.first_block has no layer where one is expected")
    normed = f"model.first_block.{at + 3}.{part}" in state
    first, latent = shape(state, f"model.first_block.{at}.{part}", 4)[:2]
    blocks = {int(m.group(2)): m.group(1) for key in state if (m := _BLOCK.match(key))}
    if len(blocks) > 20:
        raise ConversionError(f"{len(blocks)} levels, expected at most 20")
    fading = any(key.startswith(_NEW) for key in state)
    if fading:
        blocks[8 << len(blocks)] = _NEW
    if sorted(blocks) != [8 << k for k in range(len(blocks))]:
        raise ConversionError(f"blocks of the levels {sorted(blocks)}, expected those from 8 on")
    stems = [stem for _, stem in sorted(blocks.items())]
    maps = [first, *(shape(state, f"{stem}.1.{part}", 4)[0] for stem in stems)]
    top, older = (next((m.group(1) for key in state if (m := p.match(key))), None) for p in (_TOP, _OLDER))
    made = Sizes(tuple(maps), shape(state, f"{top}.{part}", 4)[0], latent)
    made.options = {"latent_norm": "joined" if at else "none", "pixel_norm": "after_act" if normed else "none"}
    made.how = {"plain": plain, "stems": stems, "top": top, "older": older if fading else None}
    shown = {4 << len(blocks), 2 << len(blocks) if older else 4 << len(blocks)}
    made.absent = [f"to_rgb.{name(r)}" for r, _ in made.levels if r not in shown]
    if made.absent:
        made.assumed.append(f"{', '.join(made.absent)}: the file has none, so these levels show nothing")
    if not plain:
        made.assumed.append("scales are their expectation, 1 / sqrt(fan_in); the run's own are lost")
    made.assumed.append("flag_leaky on and flag_tanh off, the defaults: the file does not say")
    return made


def _layers(sizes: Sizes) -> list[Layer]:
    how, normed = sizes.how, sizes.options["pixel_norm"] == "after_act"
    plain, step = how.get("plain", False), 3 if normed else 2
    at = int(sizes.options["latent_norm"] == "joined")

    def layer(ours: str, theirs: str, fan_in: int, *steps: Step) -> Layer:
        weight = f"{theirs}.weight" if plain else f"{theirs}.conv.weight"
        return Layer(ours, weight, f"{theirs}.bias", steps, 1.0 if plain else he(fan_in, 1.0))

    first, z = sizes.maps[0], sizes.latent
    dense = dense_from_conv(first, z, flipped=True)
    layers = [layer("blocks.4x4.dense", f"model.first_block.{at}", 16 * z, *dense)]
    layers.append(layer("blocks.4x4.conv", f"model.first_block.{at + step}", 9 * first))
    usual = [f"model.intermediate_{r // 2}x{r // 2}_{r}x{r}.high_resl_block" for r, _ in sizes.levels[1:]]
    for k, stem in enumerate(how.get("stems", usual), start=1):
        r, maps = sizes.levels[k]
        layers.append(layer(f"blocks.{name(r)}.conv_up", f"{stem}.1", 9 * sizes.maps[k - 1]))
        layers.append(layer(f"blocks.{name(r)}.conv", f"{stem}.{1 + step}", 9 * maps))
    top = "model.to_rgb_block.high_resl_to_rgb.0" if len(sizes.maps) > 1 else "model.to_rgb_block.0"
    layers.append(layer(f"to_rgb.{name(sizes.levels[-1][0])}", how.get("top", top), sizes.maps[-1]))
    if how.get("older"):
        layers.append(layer(f"to_rgb.{name(sizes.levels[-2][0])}", how["older"], sizes.maps[-2]))
    return layers


FAMILY = Family(
    "nashory",
    Side(re.compile(r"^model\.first_block\."), _sizes, _layers,
         free={"latent_norm": ("joined", "none"), "pixel_norm": ("after_act", "none")},
         forward=numpy_families.nashory_g),
    Side(re.compile(r"^model\.last_block\."),
         refused="its minibatch statistic is a mean over feature maps, one per pixel; ours is one per group"),
)  # fmt: skip
