"""Images as lines of pixels: what the fades and the RGB layers share, on the device and in their launchers.

A line is W pixels of C channels. No channel mixes with another in a fade: there a plain [N, C, H, W] is N * C images of
one channel. H is even wherever lines come in pairs, so line l of the half-size tensor belongs to lines 2 l and 2 l + 1.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import cdiv, power_of_2
from torch import Tensor


def lines_of(x: Tensor, channels_last: bool) -> tuple[int, int, int]:
    """(lines, elements of a line, channels of a pixel) of a dense [N, C, H, W]."""
    n, c, h, w = x.shape
    return (n * h, w * c, c) if channels_last else (n * c * h, w, 1)


def tile_shape(lines: int, wide: int, size: int) -> tuple[int, int]:
    """(lines, columns) of a tile of at most `size` elements, all powers of two.

    Of the widths up to a line's, padded, that leaving the fewest columns past the line's end; 32 at least, so that
    accesses stay whole sectors, where the line and `size` are that long.
    """
    longest = min(power_of_2(wide), size)
    widths = [longest >> k for k in range(longest.bit_length()) if longest >> k >= min(32, longest)]
    columns = min(widths, key=lambda width: cdiv(wide, width) * width)
    return min(size // columns, power_of_2(lines)), columns


def tiles(lines: int, wide: int, shape: tuple[int, int]) -> int:
    """How many tiles cover the lines: the programs of `line_tile`."""
    return cdiv(lines, shape[0]) * cdiv(wide, shape[1])


@triton.jit
def line_tile(tile, lines, wide, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Tile number `tile`: its lines [ROWS, 1] (int64), its first column (int64), and which elements exist."""
    across = (wide - 1) // COLS + 1
    line = (tile // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    start = (tile % across).to(tl.int64) * COLS
    return line, start, (line < lines) & (start + tl.arange(0, COLS)[None, :] < wide)


@triton.jit
def pixel_tile(tile, lines, width, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Tile number `tile` of pixels: line and column [ROWS * COLS] (int64), and which pixels exist."""
    across = (width - 1) // COLS + 1
    i = tl.arange(0, ROWS * COLS)
    line = (tile // across).to(tl.int64) * ROWS + i // COLS
    column = (tile % across).to(tl.int64) * COLS + i % COLS
    return line, column, (line < lines) & (column < width)


@triton.jit
def blend_weight(alpha):
    """alpha, clamped to [0, 1]; NaN stays, as torch's clamp leaves it."""
    a = tl.load(alpha)
    return tl.where(a < 0.0, 0.0, tl.where(a > 1.0, 1.0, a))


@triton.jit
def blend(low, high, a):
    """Exactly high at 1 and exactly low at 0, where both are finite."""
    return low * (1.0 - a) + high * a


@triton.jit
def twice(v, ROWS: tl.constexpr, COLS: tl.constexpr):
    """[ROWS, COLS] from [ROWS, COLS / 2], each element twice."""
    return tl.reshape(tl.join(v, v), (ROWS, COLS))
