import json

import pytest

from pggan_fast import cli


def call(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "compare", *map(str, args)])
    return stop.value.code


@pytest.fixture
def run(tmp_path):
    """A file of a run with one case at a ratio to plain PyTorch."""

    def make(name, ratio):
        row = {"case": "G.forward", "provider": "auto", "resolution": 32, "batch": 4, "dtype": "float32"}
        row |= {"device": "cpu", "median_s": 1.0, "ratio": ratio}
        path = tmp_path / name
        machine = {"device": "a CPU", "threads": 2}
        path.write_text(json.dumps({"schema": 1, "machine": machine, "versions": {}, "commit": None, "results": [row]}))
        return path

    return make


def test_two_files(run, capsys):
    a, b = run("a.json", 4.0), run("b.json", 2.0)
    assert call(a, b) == 0
    assert "slower" in capsys.readouterr().out
    assert call(a, b, "--fail-below", "0.7") == 1
    assert "below 0.7: G.forward 32x32 x4 float32, auto: 0.50 of A's ratio" in capsys.readouterr().err
    assert call(a, b, "--fail-below", "0.4") == 0
    assert call(b, a, "--fail-below", "0.7") == 0


def test_a_gate_that_compared_nothing_is_no_gate(run, capsys):
    a, b = run("a.json", 4.0), run("b.json", None)
    assert call(a, b) == 0
    assert call(a, b, "--fail-below", "0.7") == 1
    assert "nothing was compared" in capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(run, tmp_path, capsys):
    a = run("a.json", 4.0)
    other = tmp_path / "other.json"
    other.write_text('{"schema": 7}')
    for args, said in (
        ((a, tmp_path / "none.json"), "none.json: cannot be read: No such file"),
        ((a, other), "other.json: schema: got 7, expected 1"),
        ((a, "HEAD"), "A and B: got a file and a commit"),
        (("no-such-name", "HEAD"), "no-such-name is neither a file nor a commit"),
        ((a, a, "--cases", "G.forward"), "--cases: is for commits"),
        ((a, a, "--fail-below", "nan"), "--fail-below: got nan"),
        ((a, a, "--turns", "0"), "--turns: got 0"),
        ((a,), "B is missing"),
    ):
        assert call(*args) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("pggan-fast: error: ")
        assert said in line
