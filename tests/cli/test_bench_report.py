import json
from pathlib import Path

import pytest

from pggan_fast import cli

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def call(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "report", *map(str, args)])
    return stop.value.code


def test_the_committed_results_become_a_page(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert call(RESULTS / "cpu-quick.json", RESULTS / "cpu-resolutions.json", "--out", out) == 0
    said = capsys.readouterr().out
    assert all(str(path) in said for path in out.iterdir())
    assert "2.10" in said  # of the table
    assert "bends at resolution 32" in " ".join(said.split())
    assert {path.name for path in out.iterdir()} == {
        "report.html", "1-cpu-quick-speed.png", "1-cpu-quick-memory-bars.png", "2-cpu-resolutions-ratio.png",
        "2-cpu-resolutions-memory.png", "2-cpu-resolutions-by-resolution.png",
    }  # fmt: skip


def test_lines_of_a_run_that_goes_on_are_enough(tmp_path):
    data = json.loads((RESULTS / "cpu-quick.json").read_text())
    rows = data.pop("results")
    run = tmp_path / "run.jsonl"
    run.write_text("\n".join(map(json.dumps, [data, *rows[:5]])) + '\n{"case": "D.fo')
    assert call(run, "--out", tmp_path / "out") == 0
    assert "2.13" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_reported_is_one_line(tmp_path, capsys):
    quick = RESULTS / "cpu-quick.json"
    (tmp_path / "file").write_text("")
    for args, said in (
        ((tmp_path / "none.json", "--out", tmp_path), "none.json: cannot be read: No such file"),
        ((tmp_path, "--out", tmp_path), "cannot be read: Is a directory"),
        ((RESULTS / "cuda-static.json", "--out", tmp_path), "cuda-static.json: not a benchmark report"),
        ((tmp_path / "file", "--out", tmp_path), "file: the file is empty"),
        ((quick, "--out", tmp_path / "file"), "--out: cannot make the folder"),
        ((quick, "--out", "/proc/report"), "--out: cannot make the folder"),
        ((quick,), "--out DIR is missing"),
        (("--out", tmp_path), "FILE"),
    ):
        assert call(*args) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("pggan-fast: error: ")
        assert said in line
