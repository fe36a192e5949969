"""A picture of some images of a set, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pggan_fast.data.images import Pixels
from pggan_fast.pictures import grid

COLUMNS, ROWS, LARGEST, GAP = 12, 8, 128, 2


def evenly(count: int) -> list[int]:
    """The numbers of at most 96 of `count` images, from all over the set."""
    shown = min(count, COLUMNS * ROWS)
    return [i * count // shown for i in range(shown)]


def contact_sheet(images: Sequence[Pixels]) -> Image.Image:
    """Images [H, W] or [H, W, 3] of one size in rows of 12; those above 128 pixels are made smaller."""
    height, width = images[0].shape[:2]
    factor = min(1.0, LARGEST / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = []
    for pixels in images:
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        small.append(torch.from_numpy(np.array(image.resize(size, Image.Resampling.LANCZOS))).permute(2, 0, 1))
    return grid(small, min(COLUMNS, len(images)), GAP)
