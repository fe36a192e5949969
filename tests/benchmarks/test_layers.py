"""The sweep over layers: every kind once, both ways agree, and what is slower or wrong is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pggan_fast.benchmarks import layers
from pggan_fast.benchmarks.schema import loads

CPU = torch.device("cpu")


def test_every_kind_of_layer_once() -> None:
    found = layers.kinds([4, 8, 16], 2, CPU)
    names = [f"{name} at {shape[2]}" for name, shape in found]
    assert len(set(found)) == len(names)
    assert "3x3 up 512->512, norm at 4" in names
    assert "3x3 down 512->512 at 16" in names
    assert "3x3 none 513->512 at 4" in names  # behind the minibatch deviation
    assert "1x1 none 3->512 at 8" in names


def test_the_sweep_writes_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "layers.json"
    assert layers.main(["--resolution", "4", "--batch", "1", "--rounds", "2", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    report = loads(file.read_text())
    assert {row.provider for row in report.results} == {"auto", "aten"}
    assert all(len(row.samples) == 2 and row.median_s is not None for row in report.results)
    assert all(row.case in shown for row in report.results)
    assert json.loads(file.read_text())["machine"]["device"]


def test_wrong_results_and_slow_layers_are_told() -> None:
    shape = torch.Size((1, 2, 3, 3))
    same = lambda: [torch.ones(2)]  # noqa: E731
    agree = {"auto": same, "aten": same}
    wrong = layers.measure("case", shape, agree, {**agree, "auto": lambda: [torch.ones(2) * 1.1]}, 2, CPU)
    assert [row.failed for row in wrong] == [True]
    assert "differs from aten by 0.1" in str(wrong[0].reason)
    ours, theirs = layers.measure("case", shape, agree, agree, 3, CPU)
    assert not theirs.ratio
    for ratio, p80, told in ((0.9, 0.95, True), (0.9, 1.05, False), (0.99, 0.995, False), (1.2, 1.3, False)):
        ours.ratio, ours.ratio_p80 = ratio, p80
        assert layers.is_slower(ours) == told
