"""The benchmark of training steps before and after fuse(): every family, and none timed whose losses part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pggan_fast.benchmarks import swap
from pggan_fast.benchmarks.schema import loads

from pggan_fast.swap.fused import installed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = swap.pair
    monkeypatch.setattr(swap, "pair", lambda *args: real(*args, most=8))


@pytest.mark.parametrize("name", swap.FAMILIES)
def test_a_family_in_training(name: str) -> None:
    batch = 16 if name == "genforce" else 4
    pairs = swap.pair(name, 16, batch, CPU)
    fused = pairs["fused"]
    assert installed(fused.G) is not None
    assert installed(fused.D) is not None
    assert installed(pairs["eager"].G) is None
    rows = swap.measure(name, 16, batch, 1, CPU)
    assert [row.provider for row in rows] == ["eager", "fused"]
    assert all(row.median_s and not row.failed for row in rows)


def test_the_table_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "swap.json"
    arguments = ["--family", "wsconv", "--resolution", "8", "--rounds", "1", "--json", str(file)]
    assert swap.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "wsconv" in shown
    eager, fused = loads(file.read_text()).results
    assert eager.median_s is not None
    assert (fused.case, fused.resolution, fused.ratio is None) == ("wsconv.step", 8, False)


def test_losses_that_part_are_told_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = swap.pair

    def faulty(*args: object) -> dict[str, swap.Training]:
        pairs = narrow(*args)  # type: ignore[arg-type]
        with torch.no_grad():
            for p in pairs["fused"].D.parameters():
                p.add_(0.1)
        return pairs

    monkeypatch.setattr(swap, "pair", faulty)
    assert swap.main(["--family", "wsconv", "--resolution", "8", "--rounds", "1"]) == 1
    assert "has a relative error of" in capsys.readouterr().out
