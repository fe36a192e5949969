"""The Frechet distance against closed forms and other ways to compute it, and what the random features see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pggan_fast.data import faces
from pggan_fast.metrics.features import RandomFeatures, frechet_distance

SQUARES = [43.584165, 59.223517, 88.962654]
ORDERED = [-3346.8668, 23558.4936, 40729.6375]  # sums of weights times their places


def gaussian(mean: np.ndarray, cov: np.ndarray, count: int = 400, seed: int = 0) -> Tensor:
    """Rows whose mean and unbiased covariance are these exactly."""
    rows = np.random.default_rng(seed).standard_normal((count, len(mean)))
    rows -= rows.mean(0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return torch.from_numpy(rows @ np.linalg.cholesky(cov).T + mean)


def covariance(seed: int, size: int = 6) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_gaussians_along_the_axes() -> None:
    """Of independent components: the squares of differences of means and of standard deviations."""
    a, b = np.array([1.0, 4.0, 9.0]), np.array([16.0, 4.0, 0.25])
    mean = np.array([3.0, 0.0, -1.0])
    got = frechet_distance(gaussian(np.zeros(3), np.diag(a)), gaussian(mean, np.diag(b), seed=1))
    assert got == pytest.approx(float((mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()), rel=1e-9)


def test_any_gaussians_by_the_eigenvalues_of_the_product() -> None:
    a, b, mean = covariance(2), covariance(3), np.arange(6.0)
    cross = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    want = float((mean**2).sum() + np.trace(a) + np.trace(b) - 2 * cross)
    assert frechet_distance(gaussian(mean, a), gaussian(np.zeros(6), b, seed=1)) == pytest.approx(want, rel=1e-9)


def test_it_is_scipys() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy is in no extra; numpy says the same above")
    rows = [RandomFeatures()(images) for images in (faces()[:300], faces()[300:700])]
    mean, cov = zip(*((r.double().numpy().mean(0), np.cov(r.double().numpy().T)) for r in rows), strict=True)
    cross = linalg.sqrtm(cov[0] @ cov[1]).real
    want = ((mean[0] - mean[1]) ** 2).sum() + np.trace(cov[0] + cov[1] - 2 * cross)
    assert frechet_distance(*rows) == pytest.approx(want, rel=1e-3)


def test_the_same_set_is_at_distance_zero() -> None:
    rows = RandomFeatures()(faces()[:256])
    assert frechet_distance(rows, rows.flip(0)) == pytest.approx(0.0, abs=1e-6)


def test_fewer_rows_than_features() -> None:
    a, b = torch.randn(10, 50), torch.randn(12, 50)
    value = frechet_distance(a, b)
    assert 0 < value < float((a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum()) + 1e-6


def test_bad_features_are_refused() -> None:
    for a, b in (((1, 5), (4, 5)), ((4, 5), (4, 6)), ((4,), (4,))):
        with pytest.raises(ValueError, match="expected two sets"):
            frechet_distance(torch.zeros(a), torch.zeros(b))
    with pytest.raises(ValueError, match="at least 4x4"):
        RandomFeatures()(torch.zeros(1, 3, 2, 2))


def test_the_weights_stay_what_they_are() -> None:
    """Distances are kept in files: other weights need another VERSION."""
    made = RandomFeatures()
    assert made(faces()[:2]).shape == (2, 208)
    weights = [w.double().flatten() for w in made._weights]
    assert [float(w.square().sum()) for w in weights] == pytest.approx(SQUARES, rel=1e-6)
    assert [float(w @ torch.arange(len(w)).double()) for w in weights] == pytest.approx(ORDERED, rel=1e-6)
