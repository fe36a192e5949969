"""A run's file: kept as it goes, resumed where it was cut off, refused where it is another's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from pggan_fast.benchmarks import ceilings, schema, suite, timing
from pggan_fast.benchmarks.runfile import RunFile
from pggan_fast.benchmarks.subjects import Widths

from pggan_fast import cli
from pggan_fast.cli import parsing

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
    assert schema.read(file).interrupted
    with file.open("a") as open_file:
        open_file.write('{"case": "bias_act.for')  # killed as it wrote
    assert bench("--out", file) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert bench("--out", file, "--resume", "--json", tmp_path / "whole.json") == 0
    assert ran == ["pixel_norm.forward", "bias_act.forward", "bias_act.forward", "fade_in.forward"]
    found = schema.read(file)
    assert not found.interrupted
    assert found.elapsed_s
    assert [(row.case, row.provider) for row in found.results] == [
        (case, who) for case in CASES[1:] for who in ("eager", "auto", "eager_again")
    ]
    assert schema.read(tmp_path / "whole.json").results == found.results
    assert all(row.floor_s and row.bound and row.noise is not None for row in found.results)
    assert found.machine["ceilings"] == {"flops": 1e9, "bytes": 1e9, "launch_s": 1e-6}
    assert bench("--out", file, "--resume") == 0
    assert len(ran) == 4
    shown = capsys.readouterr().out
    assert "fade_in.forward" in shown
    assert "has all of this already: nothing was left to measure" in shown
    assert not schema.read(file).interrupted


def stop(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stopped", "options", "told"),
    [
        ((ceilings, "measure"), [], "nothing was finished, and nothing is kept"),
        ((ceilings, "measure"), ["--out"], "nothing was finished, and nothing is kept"),
        ((suite._Unit, "run"), [], "nothing was finished, and nothing is kept"),
        ((suite._Unit, "run"), ["--out"], "run.jsonl; with --resume it goes on"),
        ((suite, "run"), ["--out"], "run.jsonl; with --resume it goes on"),
        ((suite, "empty_report"), [], "nothing was finished, and nothing is kept"),
    ],
)
def test_a_run_that_is_stopped_early_says_so_in_a_line(
    stopped: tuple[object, str], options: list[str], told: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "run.jsonl"
    monkeypatch.setattr(*stopped, stop)
    assert bench(*(part for option in options for part in (option, file))) == 130
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith("interrupted: ")
    assert told in line
    assert not file.exists() or schema.read(file).interrupted


def test_a_command_that_is_stopped_as_it_is_loaded_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parsing, "parse", stop)
    assert bench() == 130
    assert capsys.readouterr().err == "pggan-fast: interrupted\n"


def test_a_budget_that_was_not_enough_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--cases", "bias_act.forward", *SIZES[:4], "--budget", "0.001", "--providers", "auto"])
    assert not stop.value.code
    assert "more than the budget of 0 s: first runs (" in capsys.readouterr().out
    assert bench("--budget", "0.001") == 0  # with --repeats: what was asked for
    assert "the budget" not in capsys.readouterr().out


def test_cases_that_are_at_none_of_the_sizes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--cases", "bias_act.forward", "dense.forward") == 0
    assert "left out: dense.forward: there is none at 8x8, only at 4x4" in capsys.readouterr().out


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


def test_two_runs_in_one_file_are_told(tmp_path: Path, report: schema.Report) -> None:
    file, lines = tmp_path / "run.jsonl", schema.header(report) + schema.lines(report.results)
    for text, told in (
        (2 * lines, f"line {len(report.results) + 2} begins a second run"),
        (lines + schema.closing(report) + lines, f"line {len(report.results) + 3} begins a second run"),
        (2 * schema.dumps(report), "a second run begins after the first"),
        (schema.dumps(report) + lines, "a second run begins after the first"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"run\.jsonl: {told}: expected one run in a file"):
            schema.read(file)


def test_a_file_says_that_its_run_has_not_ended_until_it_has(tmp_path: Path, report: schema.Report) -> None:
    file = RunFile(tmp_path / "run.jsonl")
    report.elapsed_s = None
    file.start(report)
    file.keep(report.results)
    assert schema.read(file.path) == dataclasses.replace(report, interrupted=True)
    file.close(dataclasses.replace(report, elapsed_s=3.0))
    assert schema.read(file.path) == dataclasses.replace(report, elapsed_s=3.0)


def test_both_kinds_of_files_are_read_alike(tmp_path: Path, report: schema.Report) -> None:
    whole, lines = tmp_path / "a.json", tmp_path / "b.jsonl"
    whole.write_text(schema.dumps(report))
    lines.write_text(schema.header(report) + schema.lines(report.results))
    assert schema.read(whole) == schema.read(lines) == report
