from __future__ import annotations

import errno
import io
import json
import math
import mmap
import os
import sys
import types

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from pggan_fast import files
from pggan_fast.training import lines
from pggan_fast.training import watch as module
from pggan_fast.training.later import cut_stats
from pggan_fast.training.watch import Watch, memory

PROGRESS = {"tick": 12, "lod": 3.25, "resolution": 32, "alpha": 0.75, "minibatch": 16}
TIMING = {"total_sec": 192, "sec_per_tick": 15.9, "sec_per_kimg": 3.98, "maintenance_sec": 0.1, "wait_share": 0.02}
LOSS = {"num": 300, "mean": -1.25, "std": 0.5}
LINE = (
    "tick 12    kimg 48.0     lod 3.25  res 32    alpha 0.75  minibatch 16    time 3m 12s       sec/tick 15.9    "
    "sec/kimg 3.98    maintenance 0.1    wait 2%   cpumem 2.1    gpumem 9.6 reserved 9.9"
)
MEMORY = {"cpu_mem_gb": 2.1, "peak_gpu_mem_gb": 9.6, "peak_gpu_mem_reserved_gb": 9.9}
STATUS = {"resolution": 32, "alpha": 0.75, "batch": 16, "sec_per_kimg": 3.98, "waiting": 0.02, "eta_s": 11000.0}
LOSSES = {"Loss/D": -1.2345, "Loss/G": 0.56, "Loss/penalty": 12345.6}


def record(kimg=48.0, **more):
    named = {f"Progress/{k}": v for k, v in PROGRESS.items()} | {f"Timing/{k}": v for k, v in TIMING.items()}
    return {"Progress/kimg": kimg, **named, "Loss/D": LOSS, **{f"Resources/{k}": v for k, v in MEMORY.items()}, **more}


def console(terminal, width=80):
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None, _environ={})


def drawn(watch, width):
    """The live lines alone; with a bar that shows what is missing too, as a terminal in colour has it."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, color_system="standard", _environ={})
    screen.print(watch._status)
    return Text.from_ansi(screen.file.getvalue()).plain


def stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def kimgs(folder):
    return [line["Progress/kimg"]["mean"] for line in stats(folder)]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an ImportError


# Off a terminal.


def test_a_tick_is_a_line_for_people_and_a_line_of_stats(tmp_path):
    screen = console(False)
    with Watch(tmp_path, 12000, screen) as watch:
        watch.say("G has [bold]3 M[/] parameters :smiley: " + "x" * 200)
        watch.tick(record())
        assert len(stats(tmp_path)) == 1  # at once, not when the file is closed
        assert (tmp_path / "log.txt").read_text().endswith(f"{LINE}\n")
    said = screen.file.getvalue()
    assert "\x1b" not in said
    assert said.splitlines() == ["G has [bold]3 M[/] parameters :smiley: " + "x" * 200, LINE]
    assert [line for line in (tmp_path / "log.txt").read_text().splitlines() if "TensorBoard" not in line] == (
        said.splitlines()
    )
    (line,) = stats(tmp_path)
    assert line.pop("timestamp") > 1.7e9
    assert line.pop("Loss/D") == LOSS
    assert {name: value["mean"] for name, value in line.items()} == {k: v for k, v in record().items() if k != "Loss/D"}
    assert line["Progress/kimg"] == {"num": 1, "mean": 48.0, "std": 0.0}


def test_progress_is_nothing_where_there_is_no_terminal(tmp_path):
    screen = console(False)
    with Watch(tmp_path, 12000, screen) as watch:
        assert not watch.due()
        watch.progress(148.0, losses=LOSSES, **STATUS)
    assert screen.file.getvalue() == ""


def test_resources_are_measured_where_they_are_not_given(tmp_path):
    bare = {name: value for name, value in record().items() if not name.startswith("Resources/")}
    before = memory()["cpu_mem_gb"]
    held = np.frombuffer(mmap.mmap(-1, 1 << 28), np.uint8)  # a quarter of a GB that nobody has freed before
    held[:] = 1
    with Watch(tmp_path, 12000, console(False)) as watch:
        watch.tick(bare)
    measured = stats(tmp_path)[0]["Resources/cpu_mem_gb"]["mean"]
    assert measured > before + 0.15 * held[0]
    assert stats(tmp_path)[0]["Resources/peak_gpu_mem_gb"]["num"] == 1


def test_a_missing_name_is_told_before_anything_is_written(tmp_path):
    bare = record()
    del bare["Timing/wait_share"], bare["Progress/lod"]
    with Watch(tmp_path, 12000, console(False)) as watch:
        with pytest.raises(
            ValueError, match=r"record: expected Progress/lod, Timing/wait_share too, got Progress/kimg"
        ):
            watch.tick(bare)
        assert stats(tmp_path) == []


def test_what_is_not_finite_is_null_and_warned_of(tmp_path):
    screen = console(False)
    with Watch(tmp_path, 12000, screen) as watch:
        wrong, none = {"num": 3, "mean": math.nan, "std": math.inf}, {"num": 0, "mean": math.nan, "std": 0.0}
        watch.tick(record(**{"Loss/G": wrong, "Loss/none": none}))
    (line,) = stats(tmp_path)
    assert line["Loss/G"] == {"num": 3, "mean": None, "std": None}
    assert screen.file.getvalue().splitlines() == [LINE, "warning: not finite: Loss/G"]


# Going on.


def written(folder, kimg_of_lines=(8, 16, 24, 32), end=b""):
    with Watch(folder, 12000, console(False)) as watch:
        for kimg in kimg_of_lines:
            watch.tick(record(float(kimg)))
    path = folder / "stats.jsonl"
    path.write_bytes(path.read_bytes() + end)


def test_resuming_drops_what_the_cut_off_run_wrote_later(tmp_path):
    written(tmp_path, end=b'{"Progress/kimg": {"num": 1, "me')
    screen = console(False)
    with Watch(tmp_path, 12000, screen, resumed_kimg=16.0) as watch:
        assert kimgs(tmp_path) == [8, 16]
        watch.tick(record(24.0))
    assert kimgs(tmp_path) == [8, 16, 24]
    assert screen.file.getvalue().splitlines()[0] == "resumed at kimg 16.0; lines of stats.jsonl dropped: 3"
    assert (tmp_path / "log.txt").read_text().count("kimg 24.0") == 2


@pytest.mark.parametrize(
    "end",
    [
        b'{"Progress/kimg": {"num"', b'{"Progress/kimg": {"num": 1, "mean": 3.0}}', b"\0\0\n", b"[]\n",
        b'{"Progress/kimg": {"mean": 1' + b"0" * 400 + b"}}\n",
    ],
)  # fmt: skip
def test_a_line_that_is_not_whole_is_dropped(tmp_path, end):
    written(tmp_path, end=end)
    assert cut_stats(tmp_path / "stats.jsonl", 1e9) == 1
    assert kimgs(tmp_path) == [8, 16, 24, 32]
    assert cut_stats(tmp_path / "stats.jsonl", 1e9) == 0


def test_a_failed_cut_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    written(tmp_path)
    before = (tmp_path / "stats.jsonl").read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Watch(tmp_path, 12000, console(False), resumed_kimg=8.0)
    assert (tmp_path / "stats.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "stats.jsonl"]


def test_a_new_run_does_not_write_into_anothers_stats(tmp_path):
    written(tmp_path)
    with pytest.raises(FileExistsError, match="resumed_kimg is None"):
        Watch(tmp_path, 12000, console(False))


def test_a_run_that_had_nothing_goes_on_from_zero(tmp_path):
    written(tmp_path)
    with Watch(tmp_path, 12000, console(False), resumed_kimg=0.0):
        assert kimgs(tmp_path) == []


def test_the_log_goes_on_in_a_line_of_its_own(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"first\ncut o")
    with Watch(tmp_path, 12000, console(False), resumed_kimg=0.0) as watch:
        watch.say("after")
    found = (tmp_path / "log.txt").read_text().splitlines()
    assert found[:2] == ["first", "cut o"]
    assert found[-1] == "after"


# A full disk.


class Full(io.FileIO):
    """Half of what is written is taken, and then nothing."""

    room = 0

    def write(self, data):
        if not Full.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(Full.room, len(data))
        Full.room -= taken
        return super().write(data[:taken])


@pytest.fixture
def disk(monkeypatch):
    monkeypatch.setattr(lines, "open", lambda path, mode, buffering: Full(path, "a+"), raising=False)
    Full.room = 10**9


def test_a_full_disk_leaves_whole_lines_and_the_console(tmp_path, disk):
    screen = console(False)
    with Watch(tmp_path, 12000, screen) as watch:
        watch.tick(record(8.0))
        Full.room = 300
        with pytest.raises(OSError, match="No space left"):
            watch.tick(record(16.0))
        watch.say("training goes on")
        watch.say("and on")
        Full.room = 10**9
        watch.tick(record(24.0))
    assert kimgs(tmp_path) == [8, 24]
    said = screen.file.getvalue()
    assert ["kimg 16.0" in line for line in said.splitlines()].count(True) == 1
    assert said.count("cannot write log.txt: No space left on device") == 1
    assert "training goes on\n" in said
    log = (tmp_path / "log.txt").read_text()
    assert log.endswith("\n")
    assert "kimg 24.0" in log
    assert "and on" not in log


def test_a_full_disk_hides_no_error(tmp_path, disk):
    def training():
        with Watch(tmp_path, 12000, console(True)):
            Full.room = 0
            raise ValueError("the real one")

    with pytest.raises(ValueError, match="the real one"):
        training()


# On a terminal.


@pytest.mark.parametrize("width", [40, 60, 80, 140])
def test_the_live_lines_have_everything_and_fit_the_width(tmp_path, width):
    screen = console(True, width)
    with Watch(tmp_path, 12000, screen) as watch:
        watch.progress(148.0, losses=LOSSES, **STATUS)
        found = drawn(watch, width).splitlines()
    assert max(map(len, found)) <= width
    for part in ("148.0 of 12000 kimg", "1.2%", "ETA 3h 03m 20s", "32x32", "alpha 0.75", "batch 16", "D -1.234",
                 "G +0.560", "penalty +1.23e+04", "s/kimg 3.98", "wait 2%", "cpu "):  # fmt: skip
        assert any(part in line for line in found), f"{part} is not there, or broken between lines"
    assert ("━" in found[0]) == (width >= 60)
    assert len(found) <= {40: 5, 60: 3, 80: 3, 140: 2}[width]


def test_what_is_not_known_yet_is_a_dash(tmp_path):
    screen = console(True)
    with Watch(tmp_path, 12000, screen) as watch:
        assert "starting" in drawn(watch, 80)
        watch.progress(0.0, losses={}, **{**STATUS, "sec_per_kimg": math.nan, "eta_s": math.nan})
        found = drawn(watch, 80)
    assert "ETA -" in found
    assert "s/kimg -" in found


def test_the_status_line_stands_above_the_live_lines(tmp_path):
    screen = console(True, 200)
    with Watch(tmp_path, 12000, screen) as watch:
        watch.progress(48.0, losses=LOSSES, **STATUS)
        watch.tick(record())
    said = screen.file.getvalue()
    assert LINE in said
    assert said.index(LINE) < said.rindex("48.0 of 12000 kimg")
    assert "\x1b" not in (tmp_path / "log.txt").read_text()


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no such thing"), None])
def test_the_terminal_is_left_whole(tmp_path, error):
    screen, out = console(True), sys.stdout

    def training():
        with Watch(tmp_path, 12000, screen) as watch:
            watch.progress(48.0, losses=LOSSES, **STATUS)
            if error is not None:
                raise error

    if error is None:
        training()
    else:
        with pytest.raises(type(error)):
            training()
    said, log = screen.file.getvalue(), (tmp_path / "log.txt").read_text()
    assert HIDE in said
    assert said.rindex(SHOW) > said.rindex(HIDE)
    assert sys.stdout is out
    assert "of 12000 kimg" not in said[said.rindex("\x1b[2K") :]  # wiped
    assert ("stopped by KeyboardInterrupt" in log) == isinstance(error, KeyboardInterrupt)
    assert ("ValueError: no such thing" in log) == ("Traceback" in log) == isinstance(error, ValueError)


def test_progress_is_due_a_few_times_in_a_second(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with Watch(tmp_path, 12000, console(True)) as watch:
        assert watch.due()
        watch.progress(48.0, losses=LOSSES, **STATUS)
        assert not watch.due()
        now = 100.3
        assert watch.due()


# TensorBoard.


class Writer:
    made: Writer

    def __init__(self, folder, purge_step=None):
        self.folder, self.purge_step, self.scalars, self.closed = folder, purge_step, {}, False
        Writer.made = self

    def add_scalar(self, name, value, global_step, walltime):
        self.scalars[name] = (value, global_step)

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_means_by_images_and_forgets_what_comes_again(tmp_path, monkeypatch):
    written(tmp_path)
    assert (tmp_path / "log.txt").read_text().count("no TensorBoard events") == 1
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    with Watch(tmp_path, 12000, console(False), resumed_kimg=16.0) as watch:
        watch.tick(record(24.0, **{"Loss/none": {"num": 0, "mean": math.nan, "std": 0.0}}))
    made = Writer.made
    assert made.folder == str(tmp_path)
    assert made.purge_step == 16001
    assert made.scalars["Loss/D"] == (-1.25, 24000)
    assert made.scalars["Progress/kimg"] == (24.0, 24000)
    assert "Loss/none" not in made.scalars
    assert made.closed
