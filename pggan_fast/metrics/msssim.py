"""Multi-scale structural similarity of pairs of images: how alike a generator's images are (1: all the same).

Settings of the official code and of Wang et al. 2003: an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, five
scales with their weights, 2x2 means between them. Images are bytes, 0..255.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.metrics.exactly import smooth

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def scales(height: int, width: int) -> int:
    """How many scales images of this size have: five, less where halving ends before (below 16 pixels)."""
    return min(len(WEIGHTS), min(height, width).bit_length())


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """[N, C, H, W] twice, of values 0..255 -> [N] float64, the similarity of each pair, in [0, 1].

    Sizes below 161 pixels, where an 11x11 window does not fit into the fifth scale: on a scale of h x w pixels the
    window is min(11, h, w) wide, and its sigma is 1.5 / 11 of that (the official rule). Below 16 pixels there are fewer
    than five scales, and the weights of those that are left are scaled so that their sum stays the same.
    ValueError where shapes differ or are empty.
    """
    if a.shape != b.shape or a.ndim != 4 or 0 in a.shape[1:]:
        raise ValueError(f"images: expected two of [N, C, H, W], got {list(a.shape)} and {list(b.shape)}")
    count = scales(*a.shape[2:])
    weights = torch.tensor(WEIGHTS[:count], dtype=torch.float64, device=a.device)
    weights *= sum(WEIGHTS) / weights.sum()
    x, y = a.to(torch.float64), b.to(torch.float64)
    score = torch.ones(len(a), dtype=torch.float64, device=a.device)
    for scale, weight in enumerate(weights):
        if scale:  # an odd last row or column counts twice, as with a mirrored border
            x, y = (F.avg_pool2d(t, 2, ceil_mode=True) for t in (x, y))
        luminance, structure = _similarities(x, y)
        last = scale == count - 1
        score *= (luminance * structure if last else structure).mean(dim=(1, 2, 3)).clamp(min=0.0) ** weight
    return score


def _similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of luminance, and of contrast and structure, at every place of the window."""
    taps = window(min(WINDOW, *x.shape[2:]))
    mean_x, mean_y, xx, yy, xy = (smooth(each, taps) for each in (x, y, x * x, y * y, x * y))
    product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2.0 * product + C1) / (squares + C1)
    return luminance, (2.0 * (xy - product) + C2) / (xx + yy - squares + C2)


def window(size: int) -> list[float]:
    """The Gaussian's taps along one side."""
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-places.square() / (2.0 * (SIGMA * size / WINDOW) ** 2))
    taps /= taps.sum()
    return [float(tap) for tap in taps]
