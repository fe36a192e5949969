"""Seconds for a thousand images: every phase of the preset, and nothing from trainings that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pggan_fast.benchmarks import training
from pggan_fast.benchmarks.schema import loads
from standin_graphs import StandIn

from pggan_fast.training import captured
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


def test_with_graphs_three_are_measured_and_nothing_is_captured_meanwhile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the stand-in for CUDA's graphs: ours, plain PyTorch as it is, and with the same graphs."""
    devices: list[StandIn] = []
    around: list[tuple[int, int]] = []

    def steps(device: torch.device, precision: str, demanded: bool) -> captured.Steps:
        assert demanded  # a measurement of steps that fell back would tell nobody
        devices.append(StandIn())
        return captured.Steps(lambda mine=devices[-1]: mine, precision, demanded)  # type: ignore[misc]

    def interleave(*args: Any) -> Any:
        before = [device.captures for device in devices]
        samples = timed(*args)
        around.extend((was, device.captures) for was, device in zip(before, devices, strict=True))
        return samples

    timed = training.timing.interleave
    monkeypatch.setattr(training.timing, "interleave", interleave)
    monkeypatch.setattr(captured, "wanted", lambda graphs, world, precision: graphs is not False)
    monkeypatch.setattr(captured, "of_device", steps)
    file = tmp_path / "training.json"
    assert training.main([*QUICK, "--precision", "bf16", "--json", str(file)]) == 0
    rows = loads(file.read_text()).results
    assert [row.provider for row in rows] == ["auto", "eager", "eager_graphs"] * 3
    assert {row.dtype for row in rows} == {"bfloat16"}
    assert [row.ratio for row in rows if row.provider == "eager"] == [1.0] * 3
    assert around == [(2, 2)] * 2 + [(4, 4)] * 2 + [(6, 6)] * 2  # of D and G in each of three phases
    assert "plain PyTorch, graphs" in " ".join(capsys.readouterr().out.split())
