"""fade_in and its adjoint: low repeated 2x2 where it has half the size, blended with high.

Work is cut by the full-size tensors: a program takes a tile of TILE elements in each line of a pair, or FLAT elements
where the sizes agree, 8 or 16 a thread, in 16-byte accesses where a line is a multiple of 16 elements. The 2x2 blocks
cross a tile's vectors where a pixel has channels; the half-size side is gathered there, from L1.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import cdiv, launch
from pggan_fast.kernels.lines import blend, blend_weight, line_tile, lines_of, tile_shape, tiles, twice
from torch import Tensor

TILE = 1024
FLAT = 2048


@triton.jit
def blend_same(high, low, alpha, out, elements, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < elements
    v = blend(tl.load(low + i, real).to(tl.float32), tl.load(high + i, real).to(tl.float32), blend_weight(alpha))
    tl.store(out + i, v.to(out.dtype.element_ty), real)


@triton.jit
def blend_up(high, low, alpha, out, lines, wide, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """`lines` are low's, `wide` is high's: [lines, 2, wide] from [lines, wide / 2]."""
    a = blend_weight(alpha)
    line, start, real = line_tile(tl.program_id(0), lines, wide, ROWS, COLS)
    i = tl.arange(0, COLS)[None, :]
    top = line * 2 * wide + start + i
    first, second = tl.load(high + top, real), tl.load(high + top + wide, real)
    if C == 1:
        j = start // 2 + tl.arange(0, COLS // 2)[None, :]
        v = twice(tl.load(low + line * (wide // 2) + j, (line < lines) & (j < wide // 2)), ROWS, COLS)
    else:
        j = start % (2 * C) + i
        v = tl.load(low + line * (wide // 2) + start // (2 * C) * C + (j // (2 * C) * C + j % C), real)
    v = v.to(tl.float32)
    tl.store(out + top, blend(v, first.to(tl.float32), a).to(out.dtype.element_ty), real)
    tl.store(out + top + wide, blend(v, second.to(tl.float32), a).to(out.dtype.element_ty), real)


@triton.jit
def split_same(dy, alpha, dlow, dhigh, elements, BLOCK: tl.constexpr):
    a = blend_weight(alpha)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < elements
    g = tl.load(dy + i, real).to(tl.float32)
    tl.store(dlow + i, (g * (1.0 - a)).to(dlow.dtype.element_ty), real)
    tl.store(dhigh + i, (g * a).to(dhigh.dtype.element_ty), real)


@triton.jit
def split_up(dy, alpha, dlow, dhigh, lines, wide, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """dhigh [lines, 2, wide] and dlow [lines, wide / 2], the sums of 2x2 blocks."""
    a = blend_weight(alpha)
    line, start, real = line_tile(tl.program_id(0), lines, wide, ROWS, COLS)
    pair = line * 2 * wide
    top = pair + start + tl.arange(0, COLS)[None, :]
    first, second = tl.load(dy + top, real).to(tl.float32), tl.load(dy + top + wide, real).to(tl.float32)
    tl.store(dhigh + top, (first * a).to(dhigh.dtype.element_ty), real)
    tl.store(dhigh + top + wide, (second * a).to(dhigh.dtype.element_ty), real)

    i = tl.arange(0, COLS // 2)[None, :]
    half = start // 2
    real = (line < lines) & (half + i < wide // 2)
    if C == 1:
        total = tl.sum(tl.reshape(first + second, (ROWS, COLS // 2, 2)), axis=2)
    else:
        j = half % C + i
        left = pair + half // C * (2 * C) + (j // C * (2 * C) + j % C)
        total = tl.load(dy + left, real).to(tl.float32) + tl.load(dy + left + C, real).to(tl.float32)
        left += wide
        total += tl.load(dy + left, real).to(tl.float32) + tl.load(dy + left + C, real).to(tl.float32)
    tl.store(dlow + line * (wide // 2) + half + i, (total * (1.0 - a)).to(dlow.dtype.element_ty), real)


def fade_in_forward(low: Tensor, high: Tensor, alpha: Tensor, out: Tensor, channels_last: bool) -> None:
    """low [N, C, H, W] or half that, high and out [N, C, H, W]."""
    if low.shape == high.shape:
        launch(blend_same, (cdiv(high.numel(), FLAT),), high, low, alpha, out, high.numel(), BLOCK=FLAT, num_warps=4)
        return
    lines, wide, c = lines_of(high, channels_last)
    shape = tile_shape(lines // 2, wide, TILE)
    launch(
        blend_up, (tiles(lines // 2, wide, shape),), high, low, alpha, out, lines // 2, wide, C=c, ROWS=shape[0],
        COLS=shape[1], num_warps=4,
    )  # fmt: skip


def fade_in_backward(dy: Tensor, alpha: Tensor, dlow: Tensor, dhigh: Tensor, channels_last: bool) -> None:
    """dy and dhigh [N, C, H, W]; dlow the same or half that."""
    if dlow.shape == dy.shape:
        launch(split_same, (cdiv(dy.numel(), FLAT),), dy, alpha, dlow, dhigh, dy.numel(), BLOCK=FLAT, num_warps=4)
        return
    lines, wide, c = lines_of(dy, channels_last)
    shape = tile_shape(lines // 2, wide, TILE)
    launch(
        split_up, (tiles(lines // 2, wide, shape),), dy, alpha, dlow, dhigh, lines // 2, wide, C=c, ROWS=shape[0],
        COLS=shape[1], num_warps=4,
    )  # fmt: skip
