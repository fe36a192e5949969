"""fade_reals: an image blended with the 2x2 means of itself, in one pass.

A program takes a tile of TILE elements in each line of a pair, 8 a thread. An element's other half of the pair of
pixels is a neighbour in registers where planes are apart, and C elements away, read again from L1, where they are not.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import launch
from pggan_fast.kernels.lines import blend, blend_weight, line_tile, lines_of, tile_shape, tiles, twice
from torch import Tensor

TILE = 1024


@triton.jit
def blend_means(image, alpha, out, lines, wide, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """`lines` are pairs: image and out [lines, 2, wide]."""
    a = blend_weight(alpha)
    line, start, real = line_tile(tl.program_id(0), lines, wide, ROWS, COLS)
    i = tl.arange(0, COLS)[None, :]
    top = line * 2 * wide + start + i
    first, second = tl.load(image + top, real).to(tl.float32), tl.load(image + top + wide, real).to(tl.float32)
    if C == 1:
        total = twice(tl.sum(tl.reshape(first + second, (ROWS, COLS // 2, 2)), axis=2), ROWS, COLS)
    else:
        is_left = (start % (2 * C) + i) % (2 * C) < C
        other = top + tl.where(is_left, C, -C)
        other_first, other_second = tl.load(image + other, real), tl.load(image + other + wide, real)
        # the same order in both halves of a pair
        total = (first + other_first.to(tl.float32)) + (second + other_second.to(tl.float32))
    mean = total * 0.25
    tl.store(out + top, blend(mean, first, a).to(out.dtype.element_ty), real)
    tl.store(out + top + wide, blend(mean, second, a).to(out.dtype.element_ty), real)


def fade_reals(image: Tensor, alpha: Tensor, out: Tensor, channels_last: bool) -> None:
    """image and out [N, C, H, W], H and W even."""
    lines, wide, c = lines_of(image, channels_last)
    shape = tile_shape(lines // 2, wide, TILE)
    launch(
        blend_means, (tiles(lines // 2, wide, shape),), image, alpha, out, lines // 2, wide, C=c, ROWS=shape[0],
        COLS=shape[1], num_warps=4,
    )  # fmt: skip
