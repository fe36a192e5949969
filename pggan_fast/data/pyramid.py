"""Levels of detail: what an image is at lower resolutions, and which resolutions there are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Sums of up to 256 x 256 bytes are exact in float32, and so is every mean of them: 65536 * 255 < 2^24
_EXACT = 256


def shrink(images: Tensor, factor: int) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [N, C, H/factor, W/factor]: the mean of each box, rounded once, half to even.

    The very bytes of the official dataset tool's chain of 2x2 means, each of the unquantised one before, rounded last.
    `factor`: a power of two. On the images' device. Raises ValueError, TypeError.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"images: expected a uint8 tensor [N, C, H, W], got {getattr(images, 'dtype', type(images))}")
    n, c, h, w = images.shape
    if factor < 1 or factor & (factor - 1) or h % factor or w % factor:
        raise ValueError(f"factor: expected a power of two that divides {h}x{w}, got {factor}")
    if factor == 1:
        return images
    boxes = images.to(torch.float32 if factor <= _EXACT else torch.float64)
    boxes = boxes.reshape(n, c, h // factor, factor, w // factor, factor)
    return boxes.mean(dim=(3, 5)).round_().clamp_(0, 255).to(torch.uint8)


def pyramid(images: Tensor, levels: int) -> Iterable[Tensor]:
    """uint8 [N, C, H, W] at `levels` levels, the images first, then half the size, a quarter, ...: see `shrink`.

    Raises TypeError and ValueError as it does.
    """
    return (shrink(images, 1 << k) for k in range(levels))


def base_of(height: int, width: int, base_shape: tuple[int, int] | None = None) -> tuple[tuple[int, int], int]:
    """(shape of the first level, nominal resolution of the last) of images of this size, as `models.Levels` has them.

    Level 4 * 2^k has images of base_shape * 2^k. Without `base_shape` the size is halved while it can be and no side
    falls below 4: (4, 4) for squares of a power of two. Raises ValueError where base_shape * 2^k is never the size.
    """
    if min(height, width) < 1:
        raise ValueError(f"size: expected at least one pixel, got {height}x{width}")
    h, w = height, width
    for k in range(max(height, width).bit_length()):
        if (h, w) == base_shape:
            return (h, w), 4 << k
        if h % 2 or w % 2 or (base_shape is None and min(h, w) < 8):
            if base_shape is None:
                return (h, w), 4 << k
            break
        h, w = h // 2, w // 2
    raise ValueError(f"base_shape: expected the size {height}x{width} divided by a power of two, got {base_shape}")
