"""Arithmetic that is the same on every device: float32 products and convolutions may be TF32's on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def products(device: torch.device | str) -> torch.dtype:
    """What convolutions and matrix products are computed in: float32 on the CPU, float64 elsewhere."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.float64


def smooth(images: Tensor, taps: Sequence[float]) -> Tensor:
    """[..., H, W] -> [..., H - K + 1, W - K + 1]: a symmetric filter of K taps along both, by sums alone."""
    half, odd = divmod(len(taps), 2)
    for dim in (-2, -1):
        size = images.shape[dim] - len(taps) + 1
        parts = [images.narrow(dim, k, size) for k in range(len(taps))]
        total = parts[half] * taps[half] if odd else torch.zeros_like(parts[0])
        for k in range(half):
            total.add_(parts[k] + parts[-1 - k], alpha=taps[k])
        images = total
    return images
