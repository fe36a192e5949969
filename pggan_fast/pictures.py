"""Pictures of several images, as PIL has them, and files of them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pggan_fast.files import write_atomically
from pggan_fast.ops import _checks

__all__ = ["grid", "grid_size", "save_png"]

BLANK = 128  # the grey between images, and where there is none
CHANNELS = {1, 3}


def grid(images: Tensor | Sequence[Tensor], columns: int | None = None, gap: int = 0) -> Image.Image:
    """One picture, "L" or "RGB", of images in rows from left to right.

    images: uint8 with N >= 1 and C 1 or 3, on any device: [N, C, H, W], or [N, H, W, C] as `Sampler.uint8` gives; or a
    sequence of N [C, H, W] or [H, W, C] of one shape. What could be either has its channels first. columns: None makes
    about as many as rows, ceil(sqrt(N)); the last row may be shorter. gap: pixels of grey between images and around
    them. Places without an image are grey. Raises TypeError, ValueError.
    """
    first = _first(images)
    channels_last = first.shape[0] not in CHANNELS
    height, width, channels = first.shape if channels_last else (*first.shape[1:], first.shape[0])
    columns = math.isqrt(len(images) - 1) + 1 if columns is None else columns
    _checks.counts(1, columns=columns)
    _checks.counts(0, gap=gap)
    rows = -(-len(images) // columns)
    shape = gap + rows * (height + gap), gap + columns * (width + gap), channels
    canvas = torch.full(shape, BLANK, dtype=torch.uint8)
    for number, image in enumerate(images):
        if image.shape != first.shape or image.dtype != torch.uint8:
            got, wanted = f"{image.dtype} {list(image.shape)}", f"torch.uint8 {list(first.shape)} as the first"
            raise ValueError(f"images: number {number}: expected {wanted}, got {got}")
        row, column = divmod(number, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        canvas[top : top + height, left : left + width] = image if channels_last else image.permute(1, 2, 0)
    return Image.fromarray((canvas[:, :, 0] if channels == 1 else canvas).numpy())


def _first(images: Tensor | Sequence[Tensor]) -> Tensor:
    """The image that tells what all are."""
    if not len(images):
        raise ValueError("images: expected one or more, got none")
    first = images[0]
    if not isinstance(first, Tensor) or first.dtype != torch.uint8:
        raise TypeError(f"images: expected torch.uint8, got {getattr(first, 'dtype', type(first).__name__)}")
    if first.ndim != 3 or not {first.shape[0], first.shape[2]} & CHANNELS or not first.numel():
        got = [len(images), *first.shape]
        raise ValueError(f"images: expected [N, 1 or 3, H, W] or [N, H, W, 1 or 3], got {got}")
    return first


def grid_size(height: int, width: int) -> tuple[int, int]:
    """(columns, rows) of images of this size that fill about 7680x4320 pixels: 7 to 32 by 4 to 32, as in StyleGAN.

    Raises ValueError for sizes below 1.
    """
    _checks.counts(1, height=height, width=width)
    return min(max(7680 // width, 7), 32), min(max(4320 // height, 4), 32)


def save_png(path: str | os.PathLike[str], picture: Image.Image) -> None:
    """Write the picture, whole or not at all. Raises OSError."""
    write_atomically(Path(path), lambda file: picture.save(file, "PNG"))
