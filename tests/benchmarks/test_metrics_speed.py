"""The speeds of the metrics: every part has a row, and what is not an option is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pggan_fast.benchmarks import metrics
from pggan_fast.benchmarks.schema import loads


def test_every_part_is_timed_at_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "metrics.json"
    arguments = ["--resolution", "8", "16", "--images", "4", "--rounds", "1", "--device", "cpu", "--json", str(file)]
    assert metrics.main(arguments) == 0
    rows = loads(file.read_text()).results
    small = ["msssim", "fd: features", "fd: distance"]
    parts = [("swd: patches", 16), ("swd: distance", 16), *((part, 16) for part in small)]
    assert [(row.case, row.resolution) for row in rows] == [*((part, 8) for part in small), *parts]
    assert all(row.median_s and row.images_per_s == pytest.approx(4 / row.median_s) for row in rows)
    shown = capsys.readouterr().out
    assert all(row.case in shown for row in rows)


@pytest.mark.parametrize("wrong", [["--images", "3"], ["--resolution", "2"], ["--json", "/no/such/x.json"]])
def test_other_options_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        metrics.main(wrong)
