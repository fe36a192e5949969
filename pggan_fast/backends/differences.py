"""Resampling 3x3 convolutions on the CPU with 9 products for 4 pixels of the larger image in place of 16.

Each phase of a convolution after nearest x2 sees two equal pixels in a row: it is the sum of all taps at that pixel,
plus a tap at the difference to its neighbour. Differences are shared by neighbours, and products by phases:
csrc/cpu/differences.cpp has the formulas. Blocks of rows go through one after another, so that maps stay in cache and
memory does not grow with the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pggan_fast.backends import cpu, layout
from pggan_fast.backends.launch import launch
from pggan_fast.backends.precision import exact_matmul

BLOCK_PIXELS = 1024  # of the smaller image, at a time
LEAST_CHANNELS = 64  # on either side,
LEAST_PRODUCTS = 64 * 128  # and of both multiplied: 64 to 64 channels are as fast or faster in torch's convolution


def pays(x: Tensor, channels: int) -> bool:
    """The static rule for x and so many channels of y: wide layers in channels_last."""
    return (
        x.dtype == torch.float32
        and layout.is_channels_last(x)
        and min(x.shape[1], channels) >= LEAST_CHANNELS
        and x.shape[1] * channels >= LEAST_PRODUCTS
        and x.numel() > 0
        and exact_matmul()
    )


class _Block(NamedTuple):
    """`rows` rows of each of `samples` samples of the smaller image; `last` of the sample's."""

    first_sample: int
    samples: int
    first_row: int
    rows: int
    last: bool


def _blocks(n: int, h: int, w: int) -> Iterator[_Block]:
    if h * w <= BLOCK_PIXELS:  # whole samples
        samples = max(1, BLOCK_PIXELS // (h * w))
        for first in range(0, n, samples):
            yield _Block(first, min(samples, n - first), 0, h, True)
        return
    rows = -(-h // -(-h * w // BLOCK_PIXELS))
    for sample in range(n):
        for first in range(0, h, rows):
            yield _Block(sample, 1, first, min(rows, h - first), first + rows >= h)


class _Maps:
    """Room for the four maps of the largest block, `parts` channels of each; used again for the next."""

    def __init__(self, like: Tensor, block: _Block, w: int, parts: tuple[int, ...]) -> None:
        self.parts, self.w = parts, w
        self._buffers = [like.new_empty(pixels * c) for pixels, c in zip(self._pixels(block), parts, strict=True)]

    def _pixels(self, b: _Block) -> tuple[int, ...]:
        w = self.w
        return tuple(b.samples * p for p in (b.rows * w, (b.rows + 1) * w, b.rows * (w + 1), (b.rows + 1) * (w + 1)))

    def of(self, block: _Block) -> list[Tensor]:
        """[pixels, channels] each."""
        sizes = zip(self._buffers, self._pixels(block), self.parts, strict=True)
        return [buffer[: pixels * c].view(pixels, c) for buffer, pixels, c in sizes]


def up(x: Tensor, weight: Tensor, scale: float, adjoint: bool) -> Tensor:
    """`scale * conv2d(up2(x), weight, padding=1)`, or with `adjoint` of its flipped transpose; x channels_last."""
    parts = _weights(weight, scale, adjoint)  # [9, C, Cin]
    _, c, cin = parts.shape
    x = layout.dense(x, True)
    n, _, h, w = x.shape
    y = layout.empty((n, c, 2 * h, 2 * w), x, True)
    blocks = list(_blocks(n, h, w))
    low, high = _Maps(x, blocks[0], w, (0, cin, cin, cin)), _Maps(x, blocks[0], w, (c, 2 * c, 2 * c, 4 * c))
    for block in blocks:
        differences, products = low.of(block), high.of(block)
        _launch("difference_maps", x, differences, block)
        for of, u, out in zip([_plain(x, block), *differences[1:]], _split(parts), products, strict=True):
            torch.mm(of, u.t(), out=out)
        _launch("merge_phases", y, products, block)
    return y


def down(x: Tensor, weight: Tensor, scale: float, adjoint: bool) -> Tensor:
    """`scale * down2(conv2d(x, weight, padding=1))`, or with `adjoint` of its flipped transpose; x channels_last."""
    parts = _weights(weight, 0.25 * scale, not adjoint)  # [9, Cin, C]
    _, cin, c = parts.shape
    x = layout.dense(x, True)
    n, _, h, w = x.shape
    y = layout.empty((n, c, h // 2, w // 2), x, True)
    blocks = list(_blocks(n, h // 2, w // 2))
    high = _Maps(x, blocks[0], w // 2, (cin, 2 * cin, 2 * cin, 4 * cin))
    low = _Maps(x, blocks[0], w // 2, (c, c, c, c))
    for block in blocks:
        phases, products = high.of(block), low.of(block)
        _launch("split_phases", x, phases, block)
        for of, u, out in zip(phases, _split(parts), products, strict=True):
            torch.mm(of, u, out=out)
        _launch("difference_maps_transposed", y, products, block)
    return y


def weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str) -> Tensor:
    """The gradient of either in weight [C, Cin, 3, 3]."""
    up = resample == "up"
    small, large = (layout.dense(t, True) for t in ((x, dy) if up else (dy, x)))
    n, c_low, h, w = small.shape
    c_high = large.shape[1]
    parts = small.new_empty(9, c_high, c_low)
    blocks = list(_blocks(n, h, w))
    low = _Maps(small, blocks[0], w, (0, c_low, c_low, c_low))
    high = _Maps(small, blocks[0], w, (c_high, 2 * c_high, 2 * c_high, 4 * c_high))
    for i, block in enumerate(blocks):
        differences, phases = low.of(block), high.of(block)
        _launch("difference_maps", small, differences, block)
        _launch("split_phases", large, phases, block)
        maps = zip([_plain(small, block), *differences[1:]], phases, _split(parts), (0, w, 0, w + 1), strict=True)
        for of, phase, out, row in maps:
            rows = len(of) - (0 if block.last else row)  # the last row of differences is the next block's first
            torch.addmm(out, phase[:rows].t(), of[:rows], beta=float(i > 0), out=out)
    dw = x.new_empty(dy.shape[1], x.shape[1], 3, 3)
    _launch_weight("difference_weight_gradient", dw, parts, not up, scale if up else 0.25 * scale)
    return dw


def _plain(image: Tensor, block: _Block) -> Tensor:
    """The block's pixels [pixels, C], of the image itself."""
    _, c, h, w = image.shape
    first = (block.first_sample * h + block.first_row) * w
    return image.permute(0, 2, 3, 1).view(-1, c)[first : first + block.samples * block.rows * w]


def _split(parts: Tensor) -> list[Tensor]:
    """The weights of each map's products, [products * C, Cin]."""
    return [p.flatten(0, 1) for p in parts.split((1, 2, 2, 4))]


def _weights(weight: Tensor, scale: float, transpose: bool) -> Tensor:
    c, cin = weight.shape[:2]
    parts = weight.new_empty(9, *((cin, c) if transpose else (c, cin)))
    _launch_weight("difference_weight", weight.contiguous(), parts, transpose, scale)
    return parts


def _launch(kernel: str, image: Tensor, maps: list[Tensor], block: _Block) -> None:
    launch(getattr(cpu.native, kernel), image, *maps, cpu.DTYPES[image.dtype], *image.shape, *block[:4])


def _launch_weight(kernel: str, weight: Tensor, parts: Tensor, transpose: bool, scale: float) -> None:
    launch(getattr(cpu.native, kernel), weight, parts, cpu.DTYPES[weight.dtype], *weight.shape[:2], transpose, scale)
