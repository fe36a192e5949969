"""A picture of some images of a set, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pggan_fast.data.images import Pixels

COLUMNS, ROWS, LARGEST, GAP = 12, 8, 128, 2


def evenly(count: int) -> list[int]:
    """The numbers of at most 96 of `count` images, from all over the set."""
    shown = min(count, COLUMNS * ROWS)
    return [i * count // shown for i in range(shown)]


def contact_sheet(images: Sequence[Pixels]) -> Image.Image:
    """Images [H, W] or [H, W, 3] of one size in rows of 12; those above 128 pixels are made smaller."""
    height, width = images[0].shape[:2]
    factor = min(1.0, LARGEST / max(height, width))
    cell_h, cell_w = max(1, round(height * factor)), max(1, round(width * factor))
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    size = (GAP + columns * (cell_w + GAP), GAP + rows * (cell_h + GAP))
    sheet = Image.new("RGB", size, (128, 128, 128))
    for i, pixels in enumerate(images):
        image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        place = (GAP + i % columns * (cell_w + GAP), GAP + i // columns * (cell_h + GAP))
        sheet.paste(image.resize((cell_w, cell_h), Image.Resampling.LANCZOS), place)
    return sheet
