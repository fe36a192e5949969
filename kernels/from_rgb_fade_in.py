"""from_rgb_fade_in: the leaky ReLU of a 1x1 convolution of the image's 2x2 means, blended with high, and its signs.

A program takes a tile of TILE elements of high, 16 a thread: pixels times a block of channels, and reads the four times
as many pixels of the image once for them (again, from L2, for each further block of channels).
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import cdiv, launch, power_of_2
from pggan_fast.kernels.lines import blend, blend_weight, pixel_tile, tile_shape, tiles
from pggan_fast.kernels.tile import leaky, tile_offsets
from torch import Tensor

TILE = 2048
CHANNEL_BLOCK = 64


@triton.jit
def mean_of_4(image, line, column, real, wide, plane, K: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """[P, 4] float32: the image's 2x2 means at pixels of half its size, [line, column]; zero past K."""
    k = tl.arange(0, 4)
    real = real[:, None] & (k < K)[None, :]
    total = tl.zeros(real.shape, tl.float32)
    for corner in tl.static_range(4):
        p = (2 * line + corner // 2) * wide + 2 * column + corner % 2
        total += tl.load(image + tile_offsets(p, k, plane, K, CHANNELS_LAST), real, other=0.0).to(tl.float32)
    return total * 0.25


@triton.jit
def packed_signs(v, P: tl.constexpr, BLOCK: tl.constexpr):
    """uint8 [P, BLOCK / 8]: bit k of a byte says that element k of eight is positive."""
    bits = tl.reshape((v > 0).to(tl.int32), (P, BLOCK // 8, 8)) << tl.arange(0, 8)[None, None, :]
    return tl.sum(bits, axis=2).to(tl.uint8)


@triton.jit
def blend_features(
    high, image, w, b, alpha, y, mask, lines, width, wide, plane, image_plane, scale, bias_scale, C: tl.constexpr,
    K: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """`lines`, `width` and `plane` are high's (N * H, W and H * W), `wide` and `image_plane` the image's."""
    P: tl.constexpr = ROWS * COLS
    BLOCKS: tl.constexpr = (C + BLOCK - 1) // BLOCK
    BYTES: tl.constexpr = (C + 7) // 8
    a = blend_weight(alpha)
    line, column, real = pixel_tile(tl.program_id(0) // BLOCKS, lines, width, ROWS, COLS)
    block = tl.program_id(0) % BLOCKS
    c = block * BLOCK + tl.arange(0, BLOCK)
    mean = mean_of_4(image, line, column, real, wide, image_plane, K, CHANNELS_LAST)
    v = tl.zeros((P, BLOCK), tl.float32)
    for k in tl.static_range(K):
        m = tl.sum(tl.where(tl.arange(0, 4)[None, :] == k, mean, 0.0), axis=1)
        v += m[:, None] * tl.load(w + c * K + k, c < C, other=0.0).to(tl.float32)[None, :]
    v *= scale
    if b is not None:
        v += (tl.load(b + c, c < C, other=0.0).to(tl.float32) * bias_scale)[None, :]

    p = line * width + column
    at, inside = tile_offsets(p, c, plane, C, CHANNELS_LAST), real[:, None] & (c < C)[None, :]
    fresh = tl.load(high + at, inside).to(tl.float32)
    tl.store(y + at, blend(leaky(v, SLOPE), fresh, a).to(y.dtype.element_ty), inside)
    byte = block * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    at = tile_offsets(p, byte, plane, BYTES, CHANNELS_LAST)
    tl.store(mask + at, packed_signs(v, P, BLOCK), real[:, None] & (byte < BYTES)[None, :])


def from_rgb_fade_in_forward(
    image: Tensor, high: Tensor, w: Tensor, b: Tensor | None, alpha: Tensor, y: Tensor, mask: Tensor, scale: float,
    bias_scale: float, slope: float, channels_last: bool,
) -> None:  # fmt: skip
    """image [N, K, 2H, 2W], high and y [N, C, H, W], dense w [C, K] and b [C], mask uint8 [N, ceil(C / 8), H, W]."""
    n, c, height, width = high.shape
    block = max(8, min(power_of_2(c), CHANNEL_BLOCK))
    shape = tile_shape(n * height, width, TILE // block)
    launch(
        blend_features, (tiles(n * height, width, shape) * cdiv(c, block),), high, image, w, b, alpha, y, mask,
        n * height, width, 2 * width, height * width, 4 * height * width, scale, bias_scale, C=c, K=image.shape[1],
        SLOPE=slope, BLOCK=block, ROWS=shape[0], COLS=shape[1], CHANNELS_LAST=channels_last, num_warps=4,
    )  # fmt: skip
