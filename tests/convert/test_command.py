"""`pggan-fast convert`."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from convert.test_families import files, pair, saved
from convert.test_official import Case

from pggan_fast import cli, convert, networks
from pggan_fast.cli.convert import FAMILIES
from pggan_fast.convert import check


def call(*args):
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", *map(str, args)])
    return stop.value.code


def test_the_families_are_those_of_the_package():
    assert tuple(sorted(convert.FAMILIES)) == FAMILIES


def test_the_help_lists_them(capsys):
    assert call("--help") == 0
    assert f"--to{{{','.join(FAMILIES)}}}" in "".join(capsys.readouterr().out.split())  # lines are wrapped


def networks_of(tmp_path, change, dtype=torch.float32):
    """A checkpoint whose G was changed."""
    g, d = pair("akanimax", 1, dtype)
    with torch.no_grad():
        change(g.layers[0].conv_2)
    return saved(tmp_path / "x.pth", files("akanimax", g, d))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(check, bad, tmp_path, capsys):
    path = networks_of(tmp_path, lambda layer: layer.bias[:1].fill_(bad))
    assert call(path, tmp_path / "out.safetensors", *(["--check"] if check else [])) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{path}: G: layers.0.conv_2.bias: 1 of its 16 numbers is NaN or infinite" in line
    assert os.listdir(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_and_is_told(dtype, tmp_path, capsys):
    path = networks_of(tmp_path, lambda layer: None, dtype)
    assert call(path, tmp_path / "out.safetensors", "--check") == 0
    assert f"G: 12 tensors of {str(dtype).removeprefix('torch.')}: converted to float32" in capsys.readouterr().out
    made = networks.load(tmp_path / "out.safetensors").G
    assert {t.dtype for t in made.state_dict().values()} == {torch.float32}
    first = torch.load(path, weights_only=True)["generator"]["state_dict"]["layers.0.conv_2.weight"]
    assert torch.equal(made.get_parameter("blocks.4x4.conv.weight"), first.float())


def test_our_half_precision_is_written_in_other_keys(tmp_path):
    made = convert.read(networks_of(tmp_path, lambda layer: None)).networks()
    made.G.half()
    convert.write(tmp_path / "back.pth", networks.Networks(G=made.G), "akanimax")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["generator"]["state_dict"]
    assert {t.dtype for t in back.values()} == {torch.float16}


def test_a_check_that_compares_nothing_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "_outputs", lambda layout, net, r, alpha: (np.full(2, np.nan), np.full(2, np.nan)))
    path = networks_of(tmp_path, lambda layer: None)
    assert call(path, tmp_path / "out.safetensors", "--check") == 1
    assert "the converted networks give NaN or infinity, so that nothing can be compared" in capsys.readouterr().out


def test_the_options_are_told_in_words(tmp_path, capsys):
    path = saved(tmp_path / "x.pth", files("wsconv", *pair("wsconv", 2, torch.float32)))
    assert call(path, tmp_path / "ours.safetensors") == 0
    out = capsys.readouterr().out
    assert "stddev_group whole batch" in out
    assert "D: 1 tensor is a multiple of the file's" in out
    assert "G: 4 tensors are multiples of the file's" in out
    assert call(tmp_path / "ours.safetensors", tmp_path / "back.pth", "--to", "akanimax") == 2
    said = "G: has tanh on images from 8x8 on (tanh_from 8); akanimax's networks have images without tanh"
    assert said in capsys.readouterr().err


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
    assert "G: to_rgb.4x4 is left out: gan_lab's networks have no such level" in capsys.readouterr().out


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
        (["x.pkl"], "error: OUT is missing; pggan-fast convert --help tells the options"),
        ([], "error: IN, OUT are missing; pggan-fast convert --help tells the options"),
        (["x.pkl", "out.pth", "--to", "foo"], f"--to: got 'foo', expected one of {', '.join(FAMILIES)}"),
        (["x.pkl", "no/folder/out.safetensors"], "OUT: the folder"),
        (["x.pkl", "."], "expected a file"),
        (["x.pkl", "out.safetensors", "--from", "genforce"], "expected networks of genforce, got those of official"),
        (["x.pkl", "out.safetensors", "--to", "genforce"], "x.pkl: expected a network file, which is safetensors that"),
        (["x.pkl", "out.safetensors", "--to", "genforce", "--check"], "--to: goes with neither"),
        (["ours.safetensors", "out.pth", "--to", "genforce"], "D: has a 2x2 mean before bias and"),
        (["ours.safetensors", "out.safetensors"], "a safetensors file, expected a pickle or a file of torch.save"),
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
