"""The loader's rates: every way of loading gives the same images, or none is timed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pggan_fast.benchmarks import loader
from pggan_fast.benchmarks.schema import loads

from pggan_fast.data import Loader

QUICK = ["--resolution", "8", "--images", "16", "--fmap-max", "4", "--rounds", "1"]


def test_every_way_is_timed_beside_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "loader.json"
    assert loader.main([*QUICK, "--json", str(file)]) == 0
    rows = loads(file.read_text()).results
    assert [row.provider for row in rows] == ["cached", "threads", "caller", "step"]
    assert all(row.median_s and row.images_per_s == 4 / row.median_s for row in rows)
    assert "waiting for images" in (rows[-1].reason or "")
    shown = capsys.readouterr().out
    assert "8x8" in shown
    assert "%" in shown


def test_other_images_are_told_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Loader._from_cache
    monkeypatch.setattr(Loader, "_from_cache", lambda self: tuple(part.flip(0) for part in right(self)))
    assert loader.main(QUICK) == 1
    assert "8x8, cached: wrong, its images are others than the caller's" in capsys.readouterr().out


def test_bad_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--resolution", "33"], "got 33"), (["--json", "/no/such/x.json"], "is no folder")):
        with pytest.raises(SystemExit):
            loader.main(arguments)
        assert said in capsys.readouterr().err
