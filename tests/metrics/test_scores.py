"""FID, KID and IS of given features against formulas; they are computed by torchmetrics, an extra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pggan_fast.metrics import scores
from pggan_fast.metrics.features import frechet_distance

pytest.importorskip("torchmetrics.image", reason="the extra 'metrics' is not installed")


def features(count: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=rng) * torch.arange(1.0, 9.0) + seed


def test_fid_is_our_frechet_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "BLOCK", 100)
    a, b = features(350, 1), features(420, 2)
    assert scores.fid(a, b) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_kid_is_the_unbiased_mmd_of_the_cubic_kernel() -> None:
    """With sets of one subset's size every subset is the whole set."""
    a, b = features(60, 1).double().numpy(), features(60, 2).double().numpy()

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n = len(a)
    within = sum(kernel(r[i], r[j]) for r in (a, b) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    want = within - 2 * sum(kernel(x, y) for x in a for y in b) / n**2
    mean, deviation = scores.kid(torch.from_numpy(a), torch.from_numpy(b))
    assert mean == pytest.approx(want, rel=1e-6)
    assert deviation == pytest.approx(0.0, abs=1e-6 * abs(want))


def test_subsets_are_of_the_seed_alone() -> None:
    a, b = features(1500, 1), features(1200, 2)
    first, state = scores.kid(a, b, seed=1), torch.get_rng_state()
    assert scores.kid(a, b, seed=1) == first != scores.kid(a, b, seed=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_inception_score_of_sure_and_of_clueless_classifiers() -> None:
    """Sure and even over 5 classes: 5, up to how the classes fall into splits; always the same answer: 1."""
    sure = torch.eye(5)[torch.arange(5000) % 5] * 100
    mean, deviation = scores.inception_score(sure)
    assert mean == pytest.approx(5.0, rel=0.01)
    assert deviation < 0.05
    assert scores.inception_score(torch.ones(100, 5))[0] == pytest.approx(1.0)
    half = torch.log(torch.tensor([[0.75, 0.25], [0.25, 0.75]])).repeat(5000, 1)
    want = math.exp(0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert scores.inception_score(half)[0] == pytest.approx(want, rel=0.01)
