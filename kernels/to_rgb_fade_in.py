"""to_rgb_fade_in: 1x1 convolutions of two resolutions' features to at most four image channels, blended, in one pass.

A program takes a tile of pixels of x_low and the twice as many in each of the two lines of x_high above them; products
are summed in float32 over blocks of channels. A tile of x_high has TILE elements, 16 a thread.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import launch, power_of_2
from pggan_fast.kernels.lines import blend, blend_weight, pixel_tile, tile_shape, tiles
from pggan_fast.kernels.tile import tile_offsets
from torch import Tensor

MAX_IMAGE_CHANNELS = 4
TILE = 2048
CHANNEL_BLOCK = 64


@triton.jit
def dot(v, w, c, k, C: tl.constexpr):
    """[P] of v [P, channels c] and row k of w [K, C]."""
    return tl.sum(v * tl.load(w + k * C + c, c < C, other=0.0).to(tl.float32)[None, :], axis=1)


@triton.jit
def shifted(v, b, k, scale, bias_scale):
    v *= scale
    if b is not None:
        v += tl.load(b + k).to(tl.float32) * bias_scale
    return v


@triton.jit
def project(
    x, w, b, p, real, HW, scale, bias_scale, P: tl.constexpr, C: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """[P, 4] float32: scale * w [K, C] times the channels of pixels p of x, plus the bias; zero past K."""
    s0 = tl.zeros((P,), tl.float32)
    s1, s2, s3 = s0, s0, s0
    for first in range(0, C, BLOCK):
        c = first + tl.arange(0, BLOCK)
        at = tile_offsets(p, c, HW, C, CHANNELS_LAST)
        v = tl.load(x + at, real[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        s0 += dot(v, w, c, 0, C)
        if K > 1:
            s1 += dot(v, w, c, 1, C)
        if K > 2:
            s2 += dot(v, w, c, 2, C)
        if K > 3:
            s3 += dot(v, w, c, 3, C)
    s0 = shifted(s0, b, 0, scale, bias_scale)
    if K > 1:
        s1 = shifted(s1, b, 1, scale, bias_scale)
    if K > 2:
        s2 = shifted(s2, b, 2, scale, bias_scale)
    if K > 3:
        s3 = shifted(s3, b, 3, scale, bias_scale)
    return tl.reshape(tl.join(tl.join(s0, s2), tl.join(s1, s3)), (P, 4))


@triton.jit
def blend_rgb(
    x_high, x_low, w_low, b_low, w_high, b_high, alpha, image, lines, width, wide, plane_low, plane,
    scale_low, scale_high, bias_scale_low, bias_scale_high, C_LOW: tl.constexpr, C_HIGH: tl.constexpr, K: tl.constexpr,
    BLOCK_LOW: tl.constexpr, BLOCK_HIGH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """`lines`, `width` and `plane_low` are x_low's (N * H, W and H * W), `wide` and `plane` x_high's."""
    P: tl.constexpr = ROWS * COLS
    a = blend_weight(alpha)
    line, column, real = pixel_tile(tl.program_id(0), lines, width, ROWS, COLS)
    low = project(
        x_low, w_low, b_low, line * width + column, real, plane_low, scale_low, bias_scale_low, P, C_LOW, K, BLOCK_LOW,
        CHANNELS_LAST,
    )  # fmt: skip
    low = tl.reshape(tl.permute(tl.join(low, low), (0, 2, 1)), (2 * P, 4))  # each pixel twice

    line, column, real = pixel_tile(tl.program_id(0), lines, wide, ROWS, 2 * COLS)
    k = tl.arange(0, 4)
    for below in tl.static_range(2):
        p = (2 * line + below) * wide + column
        high = project(
            x_high, w_high, b_high, p, real, plane, scale_high, bias_scale_high, 2 * P, C_HIGH, K, BLOCK_HIGH,
            CHANNELS_LAST,
        )  # fmt: skip
        at = tile_offsets(p, k, plane, K, CHANNELS_LAST)
        tl.store(image + at, blend(low, high, a).to(image.dtype.element_ty), real[:, None] & (k < K)[None, :])


def to_rgb_fade_in_forward(
    x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor | None, w_high: Tensor, b_high: Tensor | None,
    alpha: Tensor, image: Tensor, scale_low: float, scale_high: float, bias_scale_low: float, bias_scale_high: float,
    channels_last: bool,
) -> None:  # fmt: skip
    """x_low [N, C_low, H/2, W/2], x_high [N, C_high, H, W], dense weights [K, C_...] and biases, image [N, K, H, W]."""
    n, c_low, h, w = x_low.shape
    c_high = x_high.shape[1]
    block_low, block_high = (min(power_of_2(c), CHANNEL_BLOCK) for c in (c_low, c_high))
    shape = tile_shape(n * h, w, TILE // max(block_low, 2 * block_high))
    launch(
        blend_rgb, (tiles(n * h, w, shape),), x_high, x_low, w_low, b_low, w_high, b_high, alpha, image, n * h, w,
        2 * w, h * w, 4 * h * w, scale_low, scale_high, bias_scale_low, bias_scale_high, C_LOW=c_low, C_HIGH=c_high,
        K=image.shape[1], BLOCK_LOW=block_low, BLOCK_HIGH=block_high, ROWS=shape[0], COLS=shape[1],
        CHANNELS_LAST=channels_last, num_warps=4,
    )  # fmt: skip
