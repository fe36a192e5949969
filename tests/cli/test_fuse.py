"""`pggan-fast fuse` on models of a module in the current folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

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

constant = 3
"""


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
    assert "ms" in text


def test_nothing_fused_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("somebodys_models:Plain.tanh") == 1
    assert "0 parts fused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["somebodys_models"], "target: expected module.path:callable, got 'somebodys_models'"),
        (["../somebodys_models.py:block"], "target: expected module.path:callable, got '../somebodys_models.py:block'"),
        (["nobodys_models:block"], "target: cannot import nobodys_models"),
        (["somebodys_models:brick"], "target: somebodys_models has no brick"),
        (["somebodys_models:constant"], "target: expected a callable, got int"),
        (["somebodys_models:number"], "target: expected a call that gives a torch.nn.Module, got int"),
        (["somebodys_models:block", "--kwargs", "channels"], "--kwargs: expected key=value, got 'channels'"),
        (["somebodys_models:block", "--kwargs", "wide=1"], "--kwargs: block does not take them"),
    ],
)
def test_bad_targets_are_one_line(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"pggan-fast: error: {said}")
