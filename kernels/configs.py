"""Tile sizes of the products: a short list per problem, and the rule that orders it where nothing has been measured."""

from __future__ import annotations

import functools
from typing import NamedTuple

from pggan_fast.kernels.launch import cdiv, power_of_2

# This many output channels, by the bytes of an element, fit in one program's registers, and with them the pixel norm:
# the most without spills on any architecture. With more, or without tensor cores, the norm is a pass of its own.
ALL_CHANNELS = {2: 512, 4: 256}
PLAIN = 64  # channels a tile without tensor cores
# The longest step where each column has an address of its own (a step that spans taps), and of narrow phases: in planes
# their addresses and the norm together spill.
SHORT_STEP = 32
FEW_TILES = 96  # fewer leave most of a large chip idle: split the sum
MANY_TILES = 192
MAX_SPLITS = 32
GRADIENT_PROGRAMS = 256
STEPS = ((64, 3), (64, 2), (32, 3), (32, 2), (16, 3), (16, 2))  # (BK, stages), the deepest that fits first


class ConvConfig(NamedTuple):
    """A program's tile: bm rows (pixels; column-matrix rows in the weight gradient) x bn channels, bk at a time."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int


class ConvPlan(NamedTuple):
    """How a convolution runs: fused, the epilogue in the same program; else a pass over the sums of `splits` parts."""

    config: ConvConfig
    splits: int
    fused: bool


class ConvProblem(NamedTuple):
    """What the choice depends on, and so what a measurement is kept for."""

    pixels: int  # of one phase, all images; see `bucketed`
    phases: int  # 1, or 4 for "up"
    inputs: int  # input channels
    columns: int  # of the column matrix: taps x input channels
    channels: int  # of the output
    itemsize: int
    norm: bool  # the epilogue needs all channels of a pixel
    tensor_cores: bool  # False: float32 in IEEE precision, by multiply-adds
    shared: int  # bytes of shared memory that a program may have
    pool: bool = False  # a 2x2 mean after the activation: always fused


def bucketed(p: ConvProblem) -> ConvProblem:
    """Pixels counted up to the next power of two: close sizes share a plan, and a measurement of it."""
    return p._replace(pixels=power_of_2(p.pixels))


@functools.lru_cache(4096)  # asked for at every call
def conv_plans(p: ConvProblem) -> tuple[ConvPlan, ...]:
    """The plans worth trying, the default first."""
    fused, split = _fused(p), _split(p)
    plans = [split] if fused is None else [fused] if p.pool else [fused, split]
    if fused is not None and _tiles(p, fused.config) < FEW_TILES:
        plans.reverse()
    if p.tensor_cores:  # half the pixels: more programs, fewer registers each
        plans += [plan._replace(config=_config(p, plan.config.bn, plan.config.bm // 2)) for plan in plans]
    return tuple(dict.fromkeys(plan for plan in plans if plan.config.bm >= 16))


def _fused(p: ConvProblem) -> ConvPlan | None:
    """All the epilogue in one program; None where the channels of a pixel do not fit."""
    if p.norm and p.channels > (ALL_CHANNELS[p.itemsize] if p.tensor_cores else PLAIN):
        return None
    bn = max(16, power_of_2(p.channels))
    if not p.norm:
        bn = _widest(p)
    return ConvPlan(_config(p, bn), 1, True)


def _widest(p: ConvProblem) -> int:
    """Channels of a tile where a pixel's need not be together; stores to rows that start anywhere take registers."""
    aligned = p.channels * p.itemsize % 16 == 0
    return min(max(16, power_of_2(p.channels)), 128 if p.tensor_cores and aligned else PLAIN)


def _split(p: ConvProblem) -> ConvPlan:
    """Small tiles, the sum split until there are enough of them; the epilogue in a pass of its own."""
    config = _config(p, _widest(p))
    tiles = _tiles(p, config)
    steps = cdiv(p.columns, config.bk)
    splits = max(1, min(cdiv(MANY_TILES, max(1, tiles)), MAX_SPLITS, steps // 4)) if tiles < FEW_TILES else 1
    return ConvPlan(config, cdiv(steps, cdiv(steps, splits)), False)  # none of the splits is empty


def _config(p: ConvProblem, bn: int, bm: int = 128) -> ConvConfig:
    if not p.tensor_cores:
        return ConvConfig(32 if bn == PLAIN else 64, bn, 16, 4, 2)
    bm = min(bm, 64 if bn == ALL_CHANNELS[p.itemsize] else 128)
    bm = min(bm, max(16, power_of_2(p.pixels)))
    bk, stages = _steps(bm, bn, p)
    return ConvConfig(bm, bn, bk, 8 if bm >= 128 or bm * bn >= 16384 else 4, stages)


def _steps(bm: int, bn: int, p: ConvProblem) -> tuple[int, int]:
    longest = max(16, power_of_2(p.columns))
    for bk, stages in STEPS:
        if bk > SHORT_STEP and (p.inputs % bk or (p.phases > 1 and bn <= 64)):
            continue
        if bk <= longest and stages * (bm + bn) * bk * p.itemsize <= p.shared:
            return bk, stages
    return 16, 1


def _tiles(p: ConvProblem, config: ConvConfig) -> int:
    return cdiv(p.pixels, config.bm) * cdiv(p.channels, config.bn) * p.phases


@functools.lru_cache(4096)
def gradient_plans(p: ConvProblem) -> tuple[ConvPlan, ...]:
    """Plans of a weight gradient, the default first; `columns` are rows there, and pixels what is summed over."""
    largest = 128 if p.tensor_cores else PLAIN
    rows = min(largest, max(16, power_of_2(p.columns)))
    while p.inputs % rows and rows > 64:  # a tile within one tap needs no arithmetic per column
        rows //= 2
    bn = min(largest, max(16, power_of_2(p.channels)))
    plans = []
    for r, n in ((rows, bn), (rows // 2, bn), (rows, bn // 2)):
        if min(r, n) >= 16:
            plans.append(_gradient_plan(p, r, n))
    return tuple(dict.fromkeys(plans))


def _gradient_plan(p: ConvProblem, rows: int, bn: int) -> ConvPlan:
    bk, stages = _steps(rows, bn, p._replace(columns=p.pixels, inputs=0)) if p.tensor_cores else (16, 2)
    config = ConvConfig(rows, bn, min(bk, 32), 8 if rows * bn >= 16384 else 4, stages)
    tiles = cdiv(p.columns, rows) * cdiv(p.channels, bn) * p.phases
    steps = cdiv(p.pixels, config.bk)
    splits = max(1, min(GRADIENT_PROGRAMS // tiles, steps // 4))
    return ConvPlan(config, cdiv(steps, cdiv(steps, splits)) if steps else 1, False)
