"""`pggan-fast convert`."""

from __future__ import annotations

import os
from typing import get_args

import pytest
import torch
from convert.test_families import files, pair, saved
from convert.test_official import Case

from pggan_fast import cli, convert, networks
from pggan_fast.cli.convert import Family
from pggan_fast.convert import check


def call(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", *map(str, args)])
    return stop.value.code


def test_the_families_are_those_of_the_package():
    assert set(get_args(Family)) == set(convert.FAMILIES)


def test_a_pickle_is_told_checked_and_written(tmp_path, capsys):
    path = Case(labels=2).at(tmp_path)
    assert call(path, tmp_path / "out.safetensors", "--check") == 0
    out = capsys.readouterr().out
    for text in ("blocks.8x8.conv_up", "8x8/Conv0_up", "12x12x3x3", "permute 2 3 0 1, flip", "layer by layer as G"):
        assert text in out
    assert out.count("| 16x16 | 0.25") == 3
    assert networks.load(tmp_path / "out.safetensors").present().keys() == {"G", "D", "G_ema"}


def test_a_failed_check_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "ALLOWED", 0.0)
    path = Case().at(tmp_path)
    assert call(path, tmp_path / "out.safetensors", "--check") == 1
    assert "is not written: the converted networks are not the same function" in capsys.readouterr().out
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_left_out_is_told(tmp_path, capsys):
    path = saved(tmp_path / "x.pth", files("rosinality", *pair("rosinality", 1)))
    assert call(path, tmp_path / "out.safetensors", "--check") == 0
    out = capsys.readouterr().out
    assert "D is left out: its minibatch statistic" in out
    assert "tensors are multiples of the file's" in out


def test_there_and_back(tmp_path, capsys):
    g, d = pair("akanimax", 1, torch.float32)
    assert call(saved(tmp_path / "x.pth", files("akanimax", g, d)), tmp_path / "ours.safetensors") == 0
    assert call(tmp_path / "ours.safetensors", tmp_path / "back.pth", "--to", "akanimax") == 0
    assert "G: generator.state_dict" in capsys.readouterr().out
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    for key, t in g.state_dict().items():
        torch.testing.assert_close(back["generator"]["state_dict"][key], t)


def test_layers_that_the_other_program_has_not_are_told(tmp_path, capsys):
    g, d = pair("gan_lab", 2, torch.float32)
    assert call(saved(tmp_path / "x.pth", files("gan_lab", g, d)), tmp_path / "ours.safetensors") == 0
    assert "to_rgb.4x4: the file has none, so these levels show nothing" in capsys.readouterr().out
    assert call(tmp_path / "ours.safetensors", tmp_path / "back.pth", "--to", "gan_lab") == 0
    assert "G: to_rgb.4x4 are left out: gan_lab's networks have none" in capsys.readouterr().out


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    path = Case().at(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert call(path, tmp_path / "out.safetensors") == 2
    assert "OUT: cannot write" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["none.pkl", "out.safetensors"], "none.pkl: No such file or directory"),
        (["x.pkl", "no/folder/out.safetensors"], "OUT: the folder"),
        (["x.pkl", "."], "expected a file"),
        (["x.pkl", "out.safetensors", "--from", "genforce"], "expected networks of genforce, got those of official"),
        (["x.pkl", "out.safetensors", "--to", "genforce"], "not a whole safetensors file"),
        (["x.pkl", "out.safetensors", "--to", "genforce", "--check"], "--to: goes with neither"),
        (["ours.safetensors", "out.pth", "--to", "genforce"], "downsample is 'down'; genforce's networks have 'pool'"),
        (["ours.safetensors", "out.safetensors"], "a safetensors file; pickles and files"),
    ],
)
def test_what_cannot_be_is_one_line(args, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = Case(resolution=8)
    (tmp_path / "x.pkl").write_bytes(case.data)
    made = convert.read("x.pkl").networks()
    networks.save("ours.safetensors", networks.Networks(D=made.D))
    assert call(*args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert sorted(os.listdir(tmp_path)) == ["ours.safetensors", "x.pkl"]
