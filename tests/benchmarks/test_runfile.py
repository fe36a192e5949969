"""A run's file: kept as it goes, resumed where it was cut off, refused where it is another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pggan_fast.benchmarks import ceilings, schema, suite, timing
from pggan_fast.benchmarks.runfile import RunFile
from pggan_fast.benchmarks.subjects import Widths

from pggan_fast import cli

CASES = ["--cases", "pixel_norm.forward", "bias_act.forward", "fade_in.forward"]
SIZES = ["--resolution", "8", "--batch", "1", "--repeats", "3", "--providers", "auto"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP_S", 0.0)
    monkeypatch.setattr(ceilings, "measure", lambda *args: ceilings.Ceilings(1e9, 1e9, 1e-6))
    monkeypatch.setattr(suite, "Widths", lambda: Widths(32, 8, 16))


def bench(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *CASES, *SIZES, *map(str, arguments)])
    return int(stop.value.code or 0)


def test_a_run_cut_short_goes_on_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ran = tmp_path / "run.jsonl", []
    real = suite._Unit.run

    def run(unit: suite._Unit) -> list[schema.Row]:
        ran.append(unit.unit[0].name)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return real(unit)

    monkeypatch.setattr(suite._Unit, "run", run)
    assert bench("--out", file, "--json", tmp_path / "part.json") == 130
    shown = capsys.readouterr().out
    assert "with --resume it goes on" in " ".join(shown.split())
    assert shown.count("pixel_norm.forward") == 1
    assert {row.case for row in schema.read(file).results} == {"pixel_norm.forward"}
    assert schema.read(tmp_path / "part.json").interrupted
    with file.open("a") as open_file:
        open_file.write('{"case": "bias_act.for')  # killed as it wrote
    assert bench("--out", file) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert bench("--out", file, "--resume", "--json", tmp_path / "whole.json") == 0
    assert ran == ["pixel_norm.forward", "bias_act.forward", "bias_act.forward", "fade_in.forward"]
    found = schema.read(file)
    assert [(row.case, row.provider) for row in found.results] == [
        (case, who) for case in CASES[1:] for who in ("eager", "auto", "eager_again")
    ]
    assert schema.read(tmp_path / "whole.json").results == found.results
    assert all(row.floor_s and row.bound and row.noise is not None for row in found.results)
    assert found.machine["ceilings"] == {"flops": 1e9, "bytes": 1e9, "launch_s": 1e-6}
    assert bench("--out", file, "--resume") == 0
    assert len(ran) == 4
    assert "fade_in.forward" in capsys.readouterr().out


def test_a_file_of_another_machine_or_build_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.jsonl"
    assert bench("--out", file) == 0
    first, *rows = file.read_text().splitlines()
    for change, told in (
        ({"commit": "of another day"}, "was begun with another commit: 'of another day'"),
        ({"machine": {**json.loads(first)["machine"], "cpu": "abacus"}}, "was begun with another cpu: 'abacus'"),
    ):
        file.write_text("\n".join([json.dumps({**json.loads(first), **change}), *rows, ""]))
        before = file.read_bytes()
        capsys.readouterr()
        assert bench("--out", file, "--resume") == 2
        assert told in capsys.readouterr().err
        assert file.read_bytes() == before
    assert bench("--out", file, "--resume", "--seed", "1") == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2}\n', "words\n", '{"schema": 1, "machine": {}}\n{"x": 1}\n']
)
def test_other_files_are_no_results(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run\.jsonl: "):
        schema.read(file)
    with pytest.raises(ValueError, match=r"run\.jsonl: "):
        RunFile(file).begun(schema.Report({}, {}, None, []), resume=True)
    assert file.read_text() == text


def test_both_kinds_of_files_are_read_alike(tmp_path: Path, report: schema.Report) -> None:
    whole, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    whole.write_text(schema.dumps(report))
    lines.write_text(schema.header(report) + schema.lines(report.results))
    assert schema.read(whole) == schema.read(lines) == report
