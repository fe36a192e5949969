import json
import subprocess
import sys
import warnings
from typing import get_args

import pytest

import pggan_fast
from pggan_fast import cli
from pggan_fast.backends.registry import BACKENDS
from pggan_fast.cli import info, parsing


def call(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    return stop.value.code


def test_help_lists_every_command(capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert call() == 2


def test_the_version_is_the_packages(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == f"pggan-fast {pggan_fast.__version__}"


@pytest.mark.parametrize("name", ["bench", "tune", "doctor"])
def test_a_wrong_backend_in_the_environment_is_one_line(name, capsys, monkeypatch):
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "cudnn")
    assert call(name) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("pggan-fast: error: PGGAN_FAST_BACKEND: expected auto or one of")
    assert call("info") == 0
    assert "PGGAN_FAST_BACKEND=cudnn" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name, capsys):
    assert call(*name.split(), "--help") == 0
    assert f"usage: pggan-fast {name} [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["bench", "--backend", "cuda"], "--backend cuda: no such device"),
        (["frobnicate"], "unknown command 'frobnicate'"),
        (["bench", "--resolution", "33"], "--resolution: got 33, expected a power of two"),
        (["bench", "--repeats", "2"], "--repeats: got 2"),
        (["bench", "--batch", "0"], "--batch: got 0"),
        (["bench", "--threads", "100000"], "--threads: got 100000, expected 1 to"),
        (["bench", "--seed", str(2**80)], "--seed: got"),
        (["bench", "--seed", "-1"], "--seed: got -1, expected 0 to"),
        (["bench", "--cases", "nothing"], "--cases: got 'nothing', which is no case; --list shows them"),
        (["bench", "--cases", "up.forward", "--resolution", "4"], "--cases: up.forward: there is none at 4x4, only fr"),
        (["bench", "--cases", "dense.forward"], "--cases: dense.forward: there is none at 32x32, only at 4x4"),
        (["bench", "--preset", "peers", "--cases", "G.forward"], "peers has no size for G.forward; --resolution tell"),
        (["bench", "--preset", "peers", "--dtype", "float16"], "peers' networks are measured in float32"),
        (["bench", "--cases"], "--cases: got none, expected one at least"),
        (["bench", "--resolution"], "--resolution: got none, expected one at least"),
        (
            ["bench", "--model", "l4", "--out", "/no/such/run.jsonl"],
            "--out: /no/such/run.jsonl: cannot be read: No such",
        ),
        (["bench", "--model", "l4", "--out", __file__], "--out: "),
        (["bench", "--model", "l4", "--cases", "up.backward"], "--cases: --model predicts G.forward, D.forward, up."),
        (["bench", "--model", "l4", "--cases", "up.forward", "--resolution", "4"], "no layer of up.forward at these"),
        (["bench", "--model", "l4", "--resume"], "--resume: is of measurements; --model measures nothing"),
        (["bench", "--resume"], "--resume: goes on with a file; --out names it"),
        (["bench", "--device", "cuda:99"], "--device: got 'cuda:99'"),
        (["bench", "--device", "abacus"], "--device: got 'abacus'"),
        (["bench", "--json", "/no/such/folder/x.json"], "--json: the folder"),
        (["bench", "--json", "/"], "--json: got the folder /, expected a file"),
        (["bench", "--json", "/proc/x.json"], "--json: cannot write in the folder /proc"),
        (["bench", "--budget", "nan"], "--budget: got nan, expected a positive number"),
        (["bench", "--providers"], "--providers: got none, expected some of auto"),
        (["bench", "--plot", "picture.jpg"], "expected a name that ends in .png"),
        (["tune", "--resolution", "33"], "--resolution: got 33, expected powers of two"),
        (["tune", "--resolution"], "--resolution: got none"),
        (["tune", "--dtype"], "--dtype: got none"),
        (["tune", "--budget", "0"], "--budget: got 0.0, expected a positive number"),
        (["tune", "--batch", "6"], "--batch: got 6, expected at most 4, or a multiple"),
        (["tune", "--threads", "1000000"], "--threads: got 1000000, expected at most 1024"),
        (["tune", "--device", "cuda:99"], "--device: got 'cuda:99'"),
        (["doctor", "--device", "abacus"], "--device: got 'abacus'"),
        (["doctor", "--dtype"], "--dtype: got none"),
    ],
)
def test_bad_options_are_one_line_and_status_2(args, said, capsys, monkeypatch):
    from pggan_fast.backends import report

    monkeypatch.setattr(report.registry, "unavailable", lambda name: "no such device" if name == "cuda" else None)
    assert call(*args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert lines[0].startswith("pggan-fast: error: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--dtype", "float8"], "'float8'"),
        (["--repeats", "x"], "--repeats: got 'x', expected a whole number;"),
        (["--budget", "x"], "--budget: got 'x', expected a number;"),
        (["--resolution", "4", "x"], "--resolution: got '4', 'x', expected a whole number;"),
        (["--rounds", "x"], "--rounds: there is no such option;"),
        (["--provider", "jax"], "'jax'"),
        (["--backend", "jax"], "--backend: got 'jax', expected one of aten, cpu, cuda, triton;"),
    ],
)
def test_options_that_do_not_parse_are_one_line_and_status_2(args, said, capsys):
    assert call("bench", *args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert line.startswith("pggan-fast: error: ")
    assert line.endswith("pggan-fast bench --help tells the options")


def test_a_plot_without_matplotlib_fails_before_any_timing(tmp_path, capsys, monkeypatch):
    from pggan_fast.benchmarks import suite

    from pggan_fast import drawing

    monkeypatch.setattr(drawing, "available", lambda: False)
    monkeypatch.setattr(suite, "run", lambda *args: pytest.fail("timed before the error"))
    assert call("bench", "--plot", str(tmp_path / "x.png")) == 2
    assert "pip install 'pggan-fast[bench]'" in capsys.readouterr().err


def test_bench_writes_what_it_measured_and_fails_on_a_red_gate(tmp_path, capsys, monkeypatch):
    from pggan_fast.benchmarks import ceilings, schema, suite

    row = schema.Row("G.forward", "auto", 8, 1, "float32", "cpu", reason="wrong: image", failed=True)
    machine = {"device": "cpu", "threads": 1, "fp32_precision": "ieee"}
    report = schema.Report(machine, {"torch": "2"}, None, [row])
    monkeypatch.setattr(suite, "run", lambda *args: report)
    monkeypatch.setattr(ceilings, "measure", lambda *args: ceilings.Ceilings(1.0, 1.0, 1.0))
    path = tmp_path / "x.json"
    assert call("bench", "--json", str(path)) == 1
    assert schema.loads(path.read_text()) == report
    report.results[0].failed = False
    assert call("bench") == 0


def test_bench_lists_every_case_and_provider_and_preset(capsys):
    from pggan_fast.benchmarks import cases, providers

    from pggan_fast.cli import bench

    assert set(get_args(bench.ProviderName)) == set(providers.PROVIDERS)
    assert call("bench", "--list") == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in (*cases.PRESETS, *providers.PROVIDERS))
    assert all(f" {name}." in shown for name in cases.SUBJECTS)


def test_info_json_has_every_backend_and_variable(capsys):
    assert call("info", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["backends"]) == set(BACKENDS)
    assert found["backends"]["reference"]["reason"] is None
    assert {"torch", "triton", "python", "pggan_fast"} <= set(found["versions"])
    assert {"g++", "nvcc", "ninja"} <= set(found["tools"])
    assert "PGGAN_FAST_BACKEND" in found["environment"]
    assert found["machine"]["threads"] >= 1
    assert found["schema"] == 1
    # What bug reports are read by: keys may be added, none renamed or left out
    assert {"versions", "commit", "machine", "device", "untested", "cpu", "backends", "build", "tools", "cache",
            "tuning", "environment"} <= set(found)  # fmt: skip
    assert set(found["tuning"]) == {"table", "fingerprint", "measured", "plans", "checked", "unwritable", "ignored"}


def test_info_names_a_table_that_cannot_be_used(tmp_path, capsys, monkeypatch):
    import torch

    from pggan_fast.backends import tables

    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path))
    path = tables.path_of(tables.device_key(torch.device("cpu")))
    path.write_text("{")
    try:
        assert call("info") == 0
        assert f"{path} is ignored" in capsys.readouterr().out
    finally:
        tables.forget()


def test_info_shows_reasons_and_set_variables(capsys, monkeypatch):
    from pggan_fast.backends import report

    monkeypatch.setenv("PGGAN_FAST_CACHE", "/some/where")
    monkeypatch.setattr(report.registry, "unavailable", lambda name: "no such device" if name == "cuda" else None)
    assert call("info") == 0
    text = capsys.readouterr().out
    assert "no: no such device" in text
    assert "PGGAN_FAST_CACHE=/some/where" in text
    assert "cache folder    /some/where" in text


def test_every_failed_build_says_why(capsys):
    found = info.facts()
    found["build"] = {"_cpu": {"built": False, "reason": "g++ not found"}}
    assert "g++ not found" in "\n".join(info._lines(found))


def test_module_runs_and_imports_no_plotting():
    code = "import sys, pggan_fast.cli; print('matplotlib' in sys.modules, 'pggan_fast.models' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    done = subprocess.run(
        [sys.executable, "-m", "pggan_fast.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: pggan-fast COMMAND" in done.stdout


def box(*lines, ascii):
    """As tyro writes what is wrong; without a terminal that shows UTF-8 it draws otherwise."""
    rule = "---" if ascii else "───"
    if ascii:
        return "\n".join(
            [" Title  ", f" {rule}", *(f"  {line}  " for line in lines), f"  {rule}", "  For full helptext, run"]
        )
    return "\n".join(
        ["╭─ Title ──╮", *(f"│ {line} │" for line in lines), f"│ {rule} │", "│ For full helptext, run │", "╰──╯"]
    )


@pytest.mark.parametrize("ascii", [True, False])
def test_what_tyro_says_is_one_line(ascii):
    assert parsing.in_one_line(box("Expected one of {a, b}.", ascii=ascii)) == "Expected one of {a, b}"
    lines = "Missing from pggan-fast x:", "    OUT", "        Its help text, which", "        goes on.", "    --to"
    assert parsing.in_one_line(box(*lines, ascii=ascii)) == "OUT, --to are missing"
    assert parsing.in_one_line(box(*lines[:4], ascii=ascii)) == "OUT is missing"


def test_what_was_typed_reaches_no_terminal_as_a_command(capsys):
    for words in (["bench", "--x\x1b[2J"], ["\x1b]0;x\x07"], ["generate", "--seeds", "1\n2"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.endswith("\n")
        assert said[:-1].isprintable()


def test_a_warning_is_a_line_without_its_place() -> None:
    before = warnings.formatwarning
    with cli._warnings_in_a_line():
        told = warnings.formatwarning(UserWarning("two\nlines"), UserWarning, __file__, 7, "code")
    assert told == "pggan-fast: warning: two lines\n"
    assert warnings.formatwarning is before
