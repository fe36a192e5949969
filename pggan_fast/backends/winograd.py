"""3x3 convolutions on the CPU as Winograd F(2x2, 3x3): native transforms around torch's batched matrix products.

16 products for 4 outputs in place of 36, in all three directions (Lavin & Gray 2015, arXiv 1509.09308). float32 and
float64; the error stays within twice that of the direct convolution. Tiles go through in blocks, so that transformed
tensors stay in cache and memory does not grow with the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pggan_fast.backends import cpu, layout
from pggan_fast.backends.launch import launch
from pggan_fast.backends.precision import exact_matmul

BLOCK_TILES = 512  # at a time: enough rows for the products' speed, few enough to stay in cache
# In the weight gradient tiles are what a product sums over, in one chain: longer ones round more, shorter ones read
# and write the sums more often.
GRADIENT_TILES = 128
# At 128 channels torch's convolution is the faster one on an AMD EPYC, its weight gradient at 64.
LEAST_CHANNELS = 256
LEAST_GRADIENT_CHANNELS = 128
LEAST_PIXELS = 1024


def pays(x: Tensor, channels: int, least: int) -> bool:
    """The static rule: layers of `least` channels in channels_last with enough pixels to spread the weights' transform
    over."""
    return (
        x.dtype == torch.float32
        and layout.is_channels_last(x)
        and min(x.shape[1], channels) >= least
        and x.shape[0] * x.shape[2] * x.shape[3] >= LEAST_PIXELS
        and exact_matmul()
    )


def conv(x: Tensor, weight: Tensor, scale: float, adjoint: bool) -> Tensor:
    """`scale * conv2d(x, weight, padding=1)`, or its input gradient for x in the role of dy; x channels_last."""
    c, cin = weight.shape[:2]
    u = x.new_empty(16, c, cin)
    _weights("winograd_weight", weight.contiguous(), u, adjoint, scale)
    matrices = u if adjoint else u.transpose(1, 2)  # [16, channels of x, channels of y]
    x = layout.dense(x, True)
    n, _, h, w = x.shape
    y = layout.empty((n, matrices.shape[2], h, w), x, True)
    blocks = _blocks(x, BLOCK_TILES)
    v, m = _buffer(x, blocks), _buffer(y, blocks)
    for first, count in blocks:
        vb, mb = _part(v, x, count), _part(m, y, count)
        _launch_tiles("winograd_input", x, vb, first, count)
        torch.bmm(vb, matrices, out=mb)
        _launch_tiles("winograd_output", y, mb, first, count)
    return y


def weight_grad(x: Tensor, dy: Tensor, scale: float) -> Tensor:
    """The gradient of `scale * conv2d(x, weight, padding=1)` in weight [C, Cin, 3, 3]."""
    x, dy = layout.dense(x, True), layout.dense(dy, True)
    c, cin = dy.shape[1], x.shape[1]
    du = x.new_empty(16, c, cin)
    blocks = _blocks(x, GRADIENT_TILES)
    v, z = _buffer(x, blocks), _buffer(dy, blocks)
    for first, count in blocks:
        vb, zb = _part(v, x, count), _part(z, dy, count)
        _launch_tiles("winograd_input", x, vb, first, count)
        _launch_tiles("winograd_output_gradient", dy, zb, first, count)
        torch.baddbmm(du, zb.transpose(1, 2), vb, beta=0.0 if first == 0 else 1.0, out=du)
    dw = x.new_empty(c, cin, 3, 3)
    _weights("winograd_weight_gradient", dw, du, False, scale)
    return dw


def _blocks(x: Tensor, tiles: int) -> list[tuple[int, int]]:
    """(first, count) of tile rows, about `tiles` tiles each: ceil(H / 2) rows an image, of ceil(W / 2) tiles."""
    n, _, h, w = x.shape
    rows, columns = n * ((h + 1) // 2), (w + 1) // 2
    count = -(-rows // max(1, -(-rows * columns // tiles)))
    return [(first, min(count, rows - first)) for first in range(0, rows, count)]


def _buffer(image: Tensor, blocks: list[tuple[int, int]]) -> Tensor:
    """Room for the tiles of one block; used again for the next, as fresh memory costs more than the transform."""
    return image.new_empty(16 * blocks[0][1] * ((image.shape[3] + 1) // 2) * image.shape[1])


def _part(buffer: Tensor, image: Tensor, count: int) -> Tensor:
    """[16, tiles of `count` tile rows, C]"""
    tiles, channels = count * ((image.shape[3] + 1) // 2), image.shape[1]
    return buffer[: 16 * tiles * channels].view(16, tiles, channels)


def _launch_tiles(kernel: str, image: Tensor, tiles: Tensor, first: int, count: int) -> None:
    launch(getattr(cpu.native, kernel), image, tiles, cpu.DTYPES[image.dtype], *image.shape, first, count)


def _weights(kernel: str, weight: Tensor, transformed: Tensor, flip: bool, scale: float) -> None:
    pairs = weight.shape[0] * weight.shape[1]
    launch(getattr(cpu.native, kernel), weight, transformed, cpu.DTYPES[weight.dtype], pairs, flip, scale)
