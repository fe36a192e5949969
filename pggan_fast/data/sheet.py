"""A picture of some images of a set, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pggan_fast.data.images import Pixels
from pggan_fast.pictures import grid

COLUMNS, ROWS, GAP = 12, 8, 2
SMALLEST, LARGEST = 64, 128  # of the longer side, in pixels of the sheet


def evenly(count: int) -> list[int]:
    """The numbers of at most 96 of `count` images, from all over the set."""
    shown = min(count, COLUMNS * ROWS)
    return [i * count // shown for i in range(shown)]


def contact_sheet(images: Sequence[Pixels]) -> Image.Image:
    """Images [H, W] or [H, W, 3] of one size in rows of 12.

    Those above 128 pixels are made smaller; those of at most 32 have larger pixels, whole ones: 4x4 can be seen.
    """
    height, width = images[0].shape[:2]
    factor = min(1.0, LARGEST / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    zoom = max(1, SMALLEST // max(height, width))
    shown = []
    for pixels in images:
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        enlarged = np.array(image).repeat(zoom, axis=0).repeat(zoom, axis=1)
        shown.append(torch.from_numpy(enlarged).permute(2, 0, 1))
    return grid(shown, min(COLUMNS, len(images)), GAP)
