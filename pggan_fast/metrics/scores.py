"""FID, KID and IS of features that were extracted before, computed by torchmetrics (the extra "metrics")."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MISSING = "needs torchmetrics: pip install 'pggan-fast[metrics]'"
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
IS_SPLITS = 10
ALONE = {"sync_on_compute": False}  # one process has all features, and the others do not wait in a barrier
BLOCK = 4096  # rows that are summed at a time


def available() -> bool:
    try:
        import torchmetrics.image  # noqa: F401
    except ImportError:
        return False
    return True


class _AsTheyAre(torch.nn.Module):
    """What torchmetrics takes for a feature network: features are given, not made."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(reals: Tensor, fakes: Tensor) -> float:
    """Frechet distance of [N, F] and [M, F], each of at least 2 rows, summed in float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return float(_of(FrechetInceptionDistance, reals, fakes))


def kid(reals: Tensor, fakes: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Mean and deviation, over 100 random subsets of at most 1000 rows each, of the cubic-kernel MMD^2, unbiased."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(KID_SUBSET_SIZE, len(reals), len(fakes))
    with _seeded(seed):
        mean, deviation = _of(KernelInceptionDistance, reals, fakes, subsets=KID_SUBSETS, subset_size=size)
    return float(mean), float(deviation)


def inception_score(logits: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Mean and deviation over 10 random splits of [N, classes], N >= 20."""
    from torchmetrics.image.inception import InceptionScore

    with _seeded(seed):
        metric = InceptionScore(feature=_AsTheyAre(logits.shape[1]), splits=IS_SPLITS, **ALONE)
        metric.update(logits.to(torch.float64))
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def _of(kind: Any, reals: Tensor, fakes: Tensor, **options: Any) -> Any:
    with _seeded(None):
        metric = kind(feature=_AsTheyAre(reals.shape[1]), **options, **ALONE)
    for rows, real in ((reals, True), (fakes, False)):
        for block in rows.to(torch.float64).split(BLOCK):
            metric.update(block, real=real)
    return metric.compute()


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """torchmetrics draws from torch's own numbers, and warns of memory that is held here anyway."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[], enabled=seed is not None):
        warnings.filterwarnings("ignore", message="Metric `.*` will save all extracted features")
        if seed is not None:
            torch.manual_seed(seed)
        yield
