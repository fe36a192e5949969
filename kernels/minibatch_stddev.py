"""minibatch_stddev: s = sqrt(sum over a group of d^2 / divisor + eps) per element, d = x - mean, and its mean as a map.

Within a sample the statistics do not depend on the memory format, so a program takes a piece of a sample's elements for
all members of one group: up to MEMBERS in registers, more in rounds that read them again through the cache. Sums over a
sample are formed of one number per piece, which a second, small kernel adds; pieces depend on the shape alone.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import cdiv, launch, power_of_2
from torch import Tensor

MEMBERS = 16
TILE = 8192  # elements of a piece times members: 64 a thread, 32 in the gradient, which has two addresses for each
LONGEST = 1024
MAP_BLOCK = 256  # pixels of the additional channel


def pieces_of(elements: int, group: int) -> int:
    """Into how many pieces a sample of `elements` is cut: the sums that forward needs room for, per group."""
    return cdiv(elements, _piece(elements, group))


def _piece(elements: int, group: int) -> int:
    return min(power_of_2(elements), LONGEST, TILE // _members(group))


def _members(group: int) -> int:
    return min(power_of_2(group), MEMBERS)


@triton.jit
def sample_of(group, member, GROUPS, GROUP: tl.constexpr, STRIDED: tl.constexpr):
    """The member's number in the batch, int64."""
    if STRIDED:
        return member.to(tl.int64) * GROUPS + group
    return group.to(tl.int64) * GROUP + member


@triton.jit
def extended(sample, i, elements, plane, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where element i of a sample lies in a tensor with one channel more."""
    if CHANNELS_LAST:
        return sample * (elements + plane) + i + i // C
    return sample * (elements + plane) + i


@triton.jit
def load_members(
    x, first, group, i, real, elements, GROUPS, GROUP: tl.constexpr, M: tl.constexpr, STRIDED: tl.constexpr
):
    """(x [M, piece] as float32, sample [M, 1], which exist) of members first, first + 1, ..."""
    member = first + tl.arange(0, M)[:, None]
    sample = sample_of(group, member, GROUPS, GROUP, STRIDED)
    real = (member < GROUP) & real
    return tl.load(x + sample * elements + i, real, other=0.0).to(tl.float32), sample, real


@triton.jit
def piece_of(elements, pieces, PIECE: tl.constexpr):
    """(group, elements [1, PIECE] (int64), which exist) of this program."""
    group = tl.program_id(0) // pieces
    i = (tl.program_id(0) % pieces).to(tl.int64) * PIECE + tl.arange(0, PIECE)[None, :]
    return group, i, i < elements


@triton.jit
def statistics(
    x, group, i, real, elements, GROUPS, eps, GROUP: tl.constexpr, DIVISOR: tl.constexpr, M: tl.constexpr,
    PIECE: tl.constexpr, STRIDED: tl.constexpr,
):  # fmt: skip
    """mean and s [PIECE] over the members of a group: of the differences from the mean, which lose no digits."""
    total = tl.zeros((PIECE,), tl.float32)
    for first in range(0, GROUP, M):
        total += tl.sum(load_members(x, first, group, i, real, elements, GROUPS, GROUP, M, STRIDED)[0], axis=0)
    mean = total / GROUP
    squares = tl.zeros((PIECE,), tl.float32)
    for first in range(0, GROUP, M):
        v, _, there = load_members(x, first, group, i, real, elements, GROUPS, GROUP, M, STRIDED)
        d = tl.where(there, v - mean[None, :], 0.0)
        squares += tl.sum(d * d, axis=0)
    return mean, tl.sqrt(squares / DIVISOR + eps)


@triton.jit
def copy_and_sum(
    x, out, sums, elements, plane, pieces, GROUPS, eps, C: tl.constexpr, GROUP: tl.constexpr, DIVISOR: tl.constexpr,
    M: tl.constexpr, PIECE: tl.constexpr, STRIDED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """x into its channels of out, and the sum of s over a piece of a group into sums [GROUPS, pieces]."""
    group, i, real = piece_of(elements, pieces, PIECE)
    _, s = statistics(x, group, i, real, elements, GROUPS, eps, GROUP, DIVISOR, M, PIECE, STRIDED)
    for first in range(0, GROUP, M):
        v, sample, there = load_members(x, first, group, i, real, elements, GROUPS, GROUP, M, STRIDED)
        at = extended(sample, i, elements, plane, C, CHANNELS_LAST)
        tl.store(out + at, v.to(out.dtype.element_ty), there)
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(tl.where(real, s[None, :], 0.0), axis=1), axis=0))


@triton.jit
def group_of(sample, GROUPS, GROUP: tl.constexpr, STRIDED: tl.constexpr):
    return sample % GROUPS if STRIDED else sample // GROUP


@triton.jit
def extra_map(sample, i, elements, plane, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Where pixel i of the additional channel lies."""
    start = sample * (elements + plane)
    return start + i * (C + 1) + C if CHANNELS_LAST else start + elements + i


@triton.jit
def write_map(
    out, sums, elements, plane, pieces, blocks, GROUPS, C: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
    STRIDED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """A block of pixels of one sample's additional channel, from sums [GROUPS, pieces] of its group."""
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, pieces, BLOCK):
        at = group_of(sample, GROUPS, GROUP, STRIDED) * pieces + first + i
        total += tl.load(sums + at, first + i < pieces, other=0.0)
    value = tl.sum(total, axis=0) / elements
    pixel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + i
    at = extra_map(sample, pixel, elements, plane, C, CHANNELS_LAST)
    tl.store(out + at, (tl.zeros((BLOCK,), tl.float32) + value).to(out.dtype.element_ty), pixel < plane)


@triton.jit
def sum_map(
    dy, q, elements, plane, pixels, GROUPS, factor, C: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
    STRIDED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """q [GROUPS]: factor times the sum of the additional channel of dy over a group, of GROUP * plane pixels."""
    group = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, pixels, BLOCK):
        i = first + tl.arange(0, BLOCK)
        sample = sample_of(group, i // plane, GROUPS, GROUP, STRIDED)
        at = extra_map(sample, (i % plane).to(tl.int64), elements, plane, C, CHANNELS_LAST)
        total += tl.load(dy + at, i < pixels, other=0.0).to(tl.float32)
    tl.store(q + group, tl.sum(total, axis=0) * factor)


@triton.jit
def add_gradient(
    x, dy, q, dx, elements, plane, pieces, GROUPS, eps, C: tl.constexpr, GROUP: tl.constexpr, DIVISOR: tl.constexpr,
    M: tl.constexpr, PIECE: tl.constexpr, STRIDED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """dx = dy + q * d / s, dy [N, C + 1, H, W] without its additional channel."""
    group, i, real = piece_of(elements, pieces, PIECE)
    mean, s = statistics(x, group, i, real, elements, GROUPS, eps, GROUP, DIVISOR, M, PIECE, STRIDED)
    slope = (tl.load(q + group) / s)[None, :]
    for first in range(0, GROUP, M):
        v, sample, there = load_members(x, first, group, i, real, elements, GROUPS, GROUP, M, STRIDED)
        at = extended(sample, i, elements, plane, C, CHANNELS_LAST)
        g = tl.load(dy + at, there).to(tl.float32) + (v - mean[None, :]) * slope
        tl.store(dx + sample * elements + i, g.to(dx.dtype.element_ty), there)


def minibatch_stddev_forward(
    x: Tensor, out: Tensor, sums: Tensor, group: int, strided: bool, divisor: int, eps: float, channels_last: bool
) -> None:
    """x [N, C, H, W], out [N, C + 1, H, W], sums float32 [N / group, number of pieces]."""
    n, c, h, w = x.shape
    groups, pieces = sums.shape
    elements, plane, blocks = c * h * w, h * w, cdiv(h * w, MAP_BLOCK)
    shared = {"C": c, "GROUP": group, "STRIDED": strided, "CHANNELS_LAST": channels_last, "num_warps": 4}
    launch(
        copy_and_sum, (groups * pieces,), x, out, sums, elements, plane, pieces, groups, eps, DIVISOR=divisor,
        M=_members(group), PIECE=_piece(elements, group), **shared,
    )  # fmt: skip
    launch(write_map, (n * blocks,), out, sums, elements, plane, pieces, blocks, groups, BLOCK=MAP_BLOCK, **shared)


def minibatch_stddev_backward(
    dy: Tensor, x: Tensor, dx: Tensor, q: Tensor, group: int, strided: bool, divisor: int, eps: float,
    channels_last: bool,
) -> None:  # fmt: skip
    """dy [N, C + 1, H, W], x and dx [N, C, H, W], q float32 [N / group], written before it is read."""
    _, c, h, w = x.shape
    groups, elements, plane = q.shape[0], c * h * w, h * w
    shared = {"C": c, "GROUP": group, "STRIDED": strided, "CHANNELS_LAST": channels_last, "num_warps": 8}
    factor = 1.0 / max(1, divisor * elements)
    launch(sum_map, (groups,), dy, q, elements, plane, group * plane, groups, factor, BLOCK=MAP_BLOCK, **shared)
    pieces = pieces_of(elements, group)
    launch(
        add_gradient, (groups * pieces,), x, dy, q, dx, elements, plane, pieces, groups, eps, DIVISOR=divisor,
        M=_members(group), PIECE=_piece(elements, group), **shared,
    )  # fmt: skip
