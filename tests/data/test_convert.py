"""Conversions: the same bytes every way, nothing half-written, and what stops one."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import file_of, folder_of, pixels
from PIL import Image

from pggan_fast.data import convert as conversion
from pggan_fast.data import zip_writer
from pggan_fast.data.convert import Options, convert
from pggan_fast.data.errors import DataError
from pggan_fast.data.guess import open_source
from pggan_fast.data.journal import Journal
from pggan_fast.data.zip_writer import ZipWriter


def made(source: Path, dest: Path, options: Options | None = None, **how: Any) -> conversion.Summary:
    return convert(open_source(source), dest, options or Options(), **how)


def messy(root: Path) -> Path:
    """Forty images of several sizes in two folders, with what is none between them."""
    for name, first in (("a", 0), ("b", 20)):
        folder_of(root / name, 20, 24, 20 + first)
    (root / "a/05.png").write_bytes(b"hello")
    (root / "a/06.png").write_bytes(file_of(pixels(6))[:100])
    (root / "b/07.png").write_bytes(file_of(pixels(6, 4, 4)))
    (root / "notes.txt").write_text("no image")
    return root


def hidden(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def test_the_zip_is_stylegans(tmp_path: Path) -> None:
    summary = made(messy(tmp_path / "x"), tmp_path / "x.zip", Options((16, 16), labels="folders"))
    assert summary.kinds == {"not an image": 1, "broken": 1, "tiny": 1, "no label": 1}
    assert (summary.written, summary.size, summary.classes) == (37, (16, 16, 3), 2)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.testzip() is None
        names = [f"00000/img{i:08d}.png" for i in range(37)]
        assert archive.namelist() == [*names, "dataset.json"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        described = json.loads(archive.read("dataset.json"))
        assert described["labels"] == [[name, int(i >= 18)] for i, name in enumerate(names)]
        assert described["label_names"] == ["a", "b"]
        for name in names:
            image = Image.open(io.BytesIO(archive.read(name)))
            assert (image.size, image.mode, image.format) == ((16, 16), "RGB", "PNG")
    assert hidden(tmp_path) == set()
    assert os.stat(tmp_path / "x.zip").st_mode & 0o777 == 0o666 & ~conversion_umask()


def conversion_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_pixels_are_kept_where_nothing_is_scaled(tmp_path: Path) -> None:
    made(folder_of(tmp_path / "x", 3), tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        for i in range(3):
            got = np.asarray(Image.open(archive.open(f"00000/img{i:08d}.png")))
            assert np.array_equal(got, pixels(i))
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
    summary = made(messy(tmp_path / "m"), tmp_path / "m.zip")  # without a resolution the first one's size is all
    assert (summary.size, summary.kinds["another size"]) == ((24, 20, 3), 20)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path) -> None:
    source, options = messy(tmp_path / "x"), Options((12, 16), "stretch", labels="folders")
    files = []
    for workers in (1, 2, 3):
        made(source, tmp_path / f"{workers}.zip", options, workers=workers)
        files.append((tmp_path / f"{workers}.zip").read_bytes())
    assert files[0] == files[1] == files[2]
    made(tmp_path / "1.zip", tmp_path / "4.zip")  # of its own kind
    assert (tmp_path / "4.zip").read_bytes() == files[0]


def test_options(tmp_path: Path) -> None:
    source = messy(tmp_path / "x")
    assert made(source, tmp_path / "n.zip", Options((16, 16), max_images=17)).written == 17
    assert made(source, tmp_path / "e.zip", Options((16, 16), enlarge=True)).written == 38
    assert made(source, tmp_path / "g.zip", Options((16, 16), channels=1)).size == (16, 16, 1)
    assert made(source, tmp_path / "w.zip", Options((8, 16), "center-crop-wide")).size == (16, 16, 3)
    assert made(source, tmp_path / "s.zip", Options((16, 16), "center-crop-wide")).size == (16, 16, 3)
    for options, said in (
        (Options((0, 4)), "resolution: expected"),
        (Options(None, "center-crop-wide"), "transform: center-crop-wide: expected .* got none"),
        (Options((16, 8), "center-crop-wide"), "W >= H, got 8x16"),
        (Options(max_images=0), "max_images: expected"),
        (Options((4, 4), "zoom"), "transform: expected one of"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=said):
            made(source, tmp_path / "o.zip", options)


def test_strict_stops_at_the_first_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/05\.png: not an image"):
        made(messy(tmp_path / "x"), tmp_path / "x.zip", Options((16, 16)), strict=True)
    with pytest.raises(Stopped):
        made(tmp_path / "x", tmp_path / "y.zip", Options((16, 16)), say=stop_at(16))
    with pytest.raises(DataError, match=r"a/05\.png: not an image"):
        made(tmp_path / "x", tmp_path / "y.zip", Options((16, 16)), strict=True)
    for path in (tmp_path / ".y.zip.part", tmp_path / ".y.zip.journal"):
        path.unlink()
    os.symlink("nowhere", tmp_path / "x/0.png")
    with pytest.raises(DataError, match=r"0\.png: unreadable"):
        made(tmp_path / "x", tmp_path / "x.zip", Options((16, 16)), strict=True)
    assert not (tmp_path / "x.zip").exists()
    assert hidden(tmp_path) == set()


def test_a_source_without_images_is_refused_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.txt").write_text("no image")
    (tmp_path / "x.zip").write_text("before")
    with pytest.raises(DataError, match=r"no usable image among 1 file; the first: a\.txt: not an image"):
        made(tmp_path / "x", tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_text() == "before"
    assert hidden(tmp_path) == set()


class Stopped(Exception):
    pass


def stop_at(count: int) -> Any:
    def say(seen: int, total: int, written: int) -> None:
        if seen >= count:
            raise Stopped

    return say


@pytest.mark.parametrize("damage", ["none", "a byte", "the end", "the journal", "all of the journal"])
def test_what_was_stopped_goes_on_and_ends_the_same(damage: str, tmp_path: Path) -> None:
    source, options = messy(tmp_path / "x"), Options((16, 16))
    made(source, tmp_path / "whole.zip", options)
    dest, part, log = tmp_path / "x.zip", tmp_path / ".x.zip.part", tmp_path / ".x.zip.journal"
    with pytest.raises(Stopped):
        made(source, dest, options, say=stop_at(32))
    assert not dest.exists()
    data, lines = part.read_bytes(), log.read_bytes()
    if damage == "a byte":
        part.write_bytes(data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:])
    elif damage == "the end":
        part.write_bytes(data[:-5000] + b"x" * 100)
    elif damage == "the journal":
        log.write_bytes(lines[:-7])
    elif damage == "all of the journal":
        log.write_bytes(b"\0" * 99)
    summary = made(source, dest, options, workers=2)
    # two chunks of 16, less what is none; what is damaged is done again
    assert summary.resumed == {"none": 29, "all of the journal": 0}.get(damage, 14)
    assert summary.kinds == {"not an image": 2, "broken": 1, "tiny": 1}
    assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert hidden(tmp_path) == set()


def test_other_options_or_another_source_begin_anew(tmp_path: Path) -> None:
    source = messy(tmp_path / "x")
    for change in ("options", "source"):
        with pytest.raises(Stopped):
            made(source, tmp_path / "x.zip", Options((16, 16)), say=stop_at(16))
        if change == "source":
            (source / "a/00.png").write_bytes(file_of(pixels(99, 24, 20)))
        summary = made(source, tmp_path / "x.zip", Options((16, 16), channels=1 if change == "options" else None))
        assert summary.resumed == 0


@pytest.mark.parametrize("name", [".x.zip.part", ".x.zip.journal"])
def test_a_link_in_place_of_the_unfinished_file_is_left_alone(name: str, tmp_path: Path) -> None:
    """In a folder such as /tmp others may have put it there."""
    folder_of(tmp_path / "images", 2)
    (tmp_path / "mine").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links") as refused:
        convert(open_source(tmp_path / "images"), tmp_path / "x.zip", Options(), workers=1)
    assert refused.value.filename == str(tmp_path / name)
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "x.zip").exists()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "x.zip", "state"), pytest.raises(DataError, match=r"x\.zip: another process"):
        made(folder_of(tmp_path / "x", 3), tmp_path / "x.zip")


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_no_half_file(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "x", 99, 200, 200)
    command = [sys.executable, "-m", "pggan_fast.cli", "data", "convert", "--source", str(source), "--resolution", "96"]
    dest, draw = tmp_path / "x.zip", random.Random(0)
    subprocess.run([*command, "--dest", str(tmp_path / "whole.zip")], check=True, capture_output=True)
    kills = 0
    for _ in range(40):
        part = tmp_path / ".x.zip.part"
        process = subprocess.Popen(
            [*command, "--dest", str(dest), "--workers", "2"],
            env={**os.environ, "KILLED_TEST": str(source)},
            stderr=subprocess.DEVNULL,
        )
        before = part.stat().st_size if part.exists() else 0
        while process.poll() is None and not (part.exists() and part.stat().st_size > before):
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        if dest.exists():  # killed behind the last step
            break
    assert kills >= 2
    assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    deadline = time.time() + 20
    while (left := workers_of(source)) and time.time() < deadline:
        time.sleep(0.1)
    assert left == []


def workers_of(source: Path) -> list[str]:
    """Processes that inherited the test's variable."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"KILLED_TEST={source}\0".encode() in text:
                found.append(entry.name)
    return found


LIMITED = """
import resource, sys
from pggan_fast import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
cli.main(["data", "convert", "--source", sys.argv[2], "--dest", sys.argv[3], "--workers", "1"])
"""


def test_a_full_disk_is_one_line_and_is_gone_on_with(tmp_path: Path) -> None:
    source, dest = folder_of(tmp_path / "x", 60), tmp_path / "x.zip"
    for limit in (20_000, 0):
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(limit), str(source), str(dest)], capture_output=True, text=True
        )
        said = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        assert done.returncode == 1, done.stderr
        assert len(said) == 1
        assert str(dest) in said[0] or f".{dest.name}" in said[0]
        assert "File too large" in said[0]
        assert not dest.exists()
    assert made(source, dest).written == 60
    made(source, tmp_path / "whole.zip")
    assert dest.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_more_files_than_sixteen_bits_count(tmp_path: Path) -> None:
    with open(tmp_path / "x.zip", "wb") as file:
        writer = ZipWriter(file)
        for i in range(70_000):
            writer.add(f"{i}", b"")
        writer.finish()
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert len(archive.namelist()) == 70_000


def test_a_file_beyond_four_gigabytes(tmp_path: Path) -> None:
    """In a sparse file: only what is written takes space."""
    with open(tmp_path / "x.zip", "wb") as file:
        file.seek(zip_writer.LIMIT + 10)
        writer = ZipWriter(file)
        writer.add("a", b"hello")
        writer.finish()
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.read("a") == b"hello"


def dies(*_: Any, **__: Any) -> Any:
    os._exit(3)


def test_a_worker_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(folder_of(tmp_path / "x", 3))
    with pytest.raises(DataError, match=r"a worker died .* 00\.png \.\. 02\.png"):
        list(conversion._results(source, dies, iter([range(3)]), 2))
    assert multiprocessing.active_children() == []
