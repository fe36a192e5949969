"""Feature distance: the Frechet distance between features of a small network whose weights are random and fixed.

It needs no weights from elsewhere and sees blur, noise, colours and missing variety. It is comparable only with itself:
it is not FID, whose features are those of one certain Inception network.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.metrics.exactly import products

WIDTHS = (24, 32, 48)  # of the stages, each of half the size of the one before
VERSION = 1  # of the weights: another number, other distances


class RandomFeatures:
    """uint8 [N, 3, H, W] -> float32 [N, 208]: mean and deviation over the image of every map of three 3x3 convolutions.

    Weights are drawn from N(0, 2 / fan_in) by numpy's RandomState(0), the same on all machines. Every second filter has
    its mean taken off each of its kernels: blur and noise show in edges. Images are taken at their own size, from 4x4.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        draw, weights, channels = np.random.RandomState(0), [], 3
        for width in WIDTHS:
            drawn = draw.randn(width, channels, 3, 3) * np.sqrt(2.0 / (9 * channels))
            drawn[::2] -= drawn[::2].mean(axis=(2, 3), keepdims=True)
            weights.append(torch.from_numpy(drawn).to(device, products(device)))
            channels = width
        self._weights = weights

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 4:
            raise ValueError(f"images: expected [N, 3, H, W] of at least 4x4, got {list(images.shape)}")
        x, found = images.to(self._weights[0].dtype) / 127.5 - 1.0, []
        for number, weight in enumerate(self._weights):
            x = F.pad(x, (1, 1, 1, 1), mode="replicate")
            x = F.leaky_relu(F.conv2d(x, weight, stride=2 if number else 1), 0.2)
            deviation, mean = torch.std_mean(x, dim=(2, 3), correction=0)
            found += [mean, deviation]
        return torch.cat(found, dim=1).to(torch.float32)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features [N, F], in float64.

    The distance between Gaussians of the sets' means and (unbiased) covariances. ValueError for fewer than two rows.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features: expected two sets [N >= 2, F], got {list(a.shape)} and {list(b.shape)}")
    (mean_a, cov_a), (mean_b, cov_b) = _moments(a), _moments(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0.0).sqrt()  # root root^T = C_a; root^T C_b root has C_a C_b's eigenvalues
    cross = torch.linalg.eigvalsh(root.T @ cov_b @ root).clamp(min=0.0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2.0 * cross
    return max(0.0, float(distance))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    rows = features.to(torch.float64)
    mean = rows.mean(dim=0)
    rows = rows - mean
    return mean, rows.T @ rows / (len(rows) - 1)
