"""Seconds for a thousand images: every phase of the preset, and nothing from trainings that differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pggan_fast.benchmarks import training
from pggan_fast.benchmarks.schema import loads

from pggan_fast.training.trainer import Trainer

QUICK = ["--resolution", "8", "--batch", "4", "--cbase", "32", "--cmax", "4", "--rounds", "2"]


def test_every_phase_of_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "training.json"
    assert training.main([*QUICK, "--json", str(file)]) == 0
    rows = loads(file.read_text()).results
    assert [(row.resolution, row.mode, row.provider) for row in rows] == [
        (4, None, "auto"), (4, None, "eager"), (8, "fades in", "auto"), (8, "fades in", "eager"),
        (8, None, "auto"), (8, None, "eager"),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "8x8, fades in" in shown
    total = sum(3 * row.median_s for row in rows if row.provider == "auto" and row.median_s)
    assert f"{total:.0f}" in shown.splitlines()[-2]


def test_another_training_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = Trainer._latents

    def wrong(self: Trainer, count: int) -> torch.Tensor:
        z = right(self, count)
        return z if self.G.backend == "reference" else z + 1.0

    monkeypatch.setattr(Trainer, "_latents", wrong)
    assert training.main(QUICK) == 1
    assert "wrong" in capsys.readouterr().out


def test_bad_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training.main(["--resolution", "24"])
    assert "got 24, expected a power of two from 8 on" in " ".join(capsys.readouterr().err.split())
