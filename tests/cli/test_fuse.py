"""`pggan-fast fuse` on models of a module in the current folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pggan_fast import cli

SOURCE = """
import torch
from torch import nn

class Norm(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)

def block(channels=4, act="relu"):
    layer = nn.ReLU() if act == "relu" else nn.LeakyReLU(0.2)
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), layer, Norm())

class Plain:
    tanh = nn.Tanh

def number():
    return 3

def pair():
    return block(), block(2), 3

def named():
    return {"G": block(), "steps": 3}

def numbers():
    return 3, "x"

def broken():
    return block(wide=1)

constant = 3
"""


GIVES = "expected a call that gives a torch.nn.Module, or several such as (G, D)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "somebodys_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("somebodys_models", None)


def call(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fuse", *args])
    return stop.value.code  # type: ignore[return-value]


def test_the_report_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("somebodys_models:block") == 0
    text = capsys.readouterr().out
    assert "conv3x3 relu norm" in text
    assert "before" not in text


def test_arguments_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("somebodys_models:block", "--kwargs", "channels=2", "act=leaky", "--time") == 0
    text = capsys.readouterr().out
    assert "conv3x3 lrelu" in text
    assert "median milliseconds" in text


def test_nothing_fused_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("somebodys_models:Plain.tanh") == 1
    assert "0 parts fused" in capsys.readouterr().out


def test_several_models_have_a_report_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("somebodys_models:pair") == 0
    text = capsys.readouterr().out
    assert text.count("1 part fused") == 2
    assert "[0] of what somebodys_models:pair gives:" in text
    assert "[1] of what somebodys_models:pair gives:" in text
    assert call("somebodys_models:named") == 0
    assert "['G'] of what somebodys_models:named gives:" in capsys.readouterr().out


def test_a_module_that_is_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert call("somebodys_models:block") == 2
    said = capsys.readouterr().err
    assert (
        f"No module named 'somebodys_models'; it is looked for in the current folder ({tmp_path / 'sub'}), on" in said
    )
    assert "put that on PYTHONPATH" in said


def test_what_a_module_imports_is_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "somebodys_models.py").write_text("import next_door")
    assert call("somebodys_models:block") == 2
    assert "No module named 'next_door'; somebodys_models was found, what it imports is" in capsys.readouterr().err
    (tmp_path / "somebodys_models.py").write_text("from os import nothing")
    assert call("somebodys_models:block") == 2
    assert "PYTHONPATH" not in capsys.readouterr().err


def test_an_error_within_the_callable_is_not_one_of_the_options() -> None:
    with pytest.raises(TypeError, match="wide"):
        cli.main(["fuse", "somebodys_models:broken"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["somebodys_models"], "target: expected module.path:callable, got 'somebodys_models'"),
        (
            ["../somebodys_models.py:block"],
            "target: expected module.path:callable, got the path of a file, '../somebodys_models.py:block'; such as "
            "PYTHONPATH=.. pggan-fast fuse somebodys_models:block",
        ),
        (["nobodys_models:block"], "target: cannot import nobodys_models"),
        (["somebodys_models:brick"], "target: somebodys_models has no brick"),
        (["somebodys_models:constant"], "target: expected a callable, got int"),
        (["somebodys_models:number"], f"target: {GIVES}, got int"),
        (["somebodys_models:numbers"], f"target: {GIVES}, got tuple of int, str"),
        (["somebodys_models:block", "--kwargs", "channels"], "--kwargs: expected key=value, got 'channels'"),
        (["somebodys_models:block", "--kwargs", "wide=1"], "--kwargs: block cannot be called with wide: got an un"),
    ],
)
def test_bad_targets_are_one_line(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"pggan-fast: error: {said}")
