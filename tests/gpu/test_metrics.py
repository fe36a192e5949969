"""Metrics on a CUDA device are those of the CPU, also where float32 products are TF32's."""

from __future__ import annotations

import pytest
import torch

from pggan_fast.data import faces
from pggan_fast.metrics import Reals, Settings, evaluate, measures, parse, swd


def values(device: str) -> dict[str, float]:
    fakes, reals = Reals(faces()[:128], seed=1), Reals(faces()[128:512])
    names = [parse(name) for name in ("swd128", "msssim128", "fd128")]
    wanted = measures(names, fakes, reals, Settings(device=device))
    return {key: value for result in evaluate(wanted, fakes, reals) for key, value in result.values.items()}


@pytest.mark.parametrize("parts", [False, True])
def test_the_device_does_not_matter(device: str, parts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    if parts:
        monkeypatch.setattr(swd, "ROWS", 5000)
        monkeypatch.setattr(swd, "PROJECTIONS_BYTES", 2 * 4 * 128 * 128 * 100)
    assert values(device) == pytest.approx(values("cpu"), rel=1e-4)
