"""The device's table: whole or not at all, shared by processes, and what is damaged is named and left alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import pggan_fast
from pggan_fast.backends import registry, signature, tables

CPU = torch.device("cpu")
ENTRY = {"best": "cpu", "seconds": {"cpu": 1.0, "aten": 2.0}}


@pytest.fixture(autouse=True)
def cache(fresh_choices: Path) -> Path:
    return fresh_choices


def files(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.suffix != ".lock"]


def test_an_entry_is_there_for_this_process_and_the_next() -> None:
    path = tables.add(CPU, "ways", {"a": ENTRY})
    assert tables.table(CPU)["ways"]["a"] == ENTRY
    tables.forget()
    assert tables.table(CPU)["ways"]["a"] == ENTRY
    data = json.loads(path.read_text())
    assert data["schema"] == tables.SCHEMA
    assert data["key"] == tables.device_key(CPU)
    assert set(data) == {"schema", "key", *tables.SECTIONS}


def test_the_key_holds_all_that_a_measurement_hangs_on() -> None:
    key = tables.device_key(CPU)
    assert key["torch"] == torch.__version__
    assert key["pggan_fast"] == pggan_fast.__version__
    torch.set_num_threads(2)
    assert tables.device_key(CPU)["threads"] == "2" != key["threads"]
    tables.add(CPU, "ways", {"a": ENTRY})
    torch.set_num_threads(1)
    assert tables.table(CPU)["ways"] == {}
    assert {"device", "capability", "threads", "torch", "triton", "pggan_fast"} == set(key)


def test_the_fingerprint_follows_measurements_and_no_checks() -> None:
    assert tables.fingerprint(CPU) == "none"
    tables.add(CPU, "checks", {"a": {"build": "1"}})
    assert tables.fingerprint(CPU) == "none"
    tables.add(CPU, "ways", {"a": ENTRY})
    first = tables.fingerprint(CPU)
    tables.add(CPU, "ways", {"b": ENTRY})
    assert len({"none", first, tables.fingerprint(CPU)}) == 3


SPOILT: dict[str, Callable[[str], str]] = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "form": lambda text: "[]",
    "schema": lambda text: text.replace(f'"schema": {tables.SCHEMA}', '"schema": 1'),
    "version": lambda text: text.replace(torch.__version__, "1.0"),
    "a section missing": lambda text: text.replace('"plans"', '"parts"'),
    "a list": lambda text: re.sub(r'"ways": {.*}', '"ways": []}', text, flags=re.S),
    "best unknown": lambda text: text.replace('"best": "cpu"', '"best": "gpu"'),
    "deep": lambda text: "[" * 100000,
    "best a list": lambda text: text.replace('"best": "cpu"', '"best": ["cpu"]'),
    "huge": lambda text: text.replace("1.0", "1" + "0" * 400),
    "infinite": lambda text: text.replace("1.0", "Infinity"),
    "text": lambda text: text.replace("1.0", '"fast"'),
    "not UTF-8": lambda text: text + "\xff",
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_file_that_cannot_be_used_is_ignored_and_named(spoil: Callable[[str], str]) -> None:
    path = tables.add(CPU, "ways", {"a": ENTRY})
    spoilt = spoil(path.read_text())
    path.write_text(spoilt, encoding="latin-1")
    tables.forget()
    with pytest.warns(RuntimeWarning, match=f"{re.escape(str(path))} is ignored"):
        assert tables.table(CPU)["ways"] == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once: the answer is kept
        assert tables.table(CPU)["ways"] == {}
        tables.remember(CPU, "checks", {"b": {"build": "1"}})  # what is found by the way does not replace it
    assert path.read_text(encoding="latin-1") == spoilt
    assert tables.table(CPU)["checks"] == {"b": {"build": "1"}}
    with pytest.warns(RuntimeWarning, match=r"is ignored"):
        tables.add(CPU, "ways", {"a": ENTRY})  # what was asked for does
    tables.forget()
    assert tables.table(CPU)["ways"] == {"a": ENTRY}


def test_a_failed_write_leaves_the_old_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tables.add(CPU, "ways", {"a": ENTRY})
    before = path.read_text()

    def fail(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        tables.add(CPU, "ways", {"b": ENTRY})
    tables.remember(CPU, "checks", {"c": {"build": "1"}})
    assert path.read_text() == before
    assert files(cache) == [path]
    assert "b" not in tables.table(CPU)["ways"]
    assert "c" in tables.table(CPU)["checks"]  # in this process


WRITER = """
import sys, torch
from pggan_fast.backends import tables
torch.set_num_threads(1)
for i in range(20):
    entry = {"best": "cpu", "seconds": {"cpu": 1.0}}
    tables.add(torch.device("cpu"), "ways", {f"{sys.argv[1]} {i}": entry})
"""


def test_processes_that_tune_at_once_lose_nothing() -> None:
    code = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*code, str(i)], env=os.environ) for i in range(3)]
    assert [w.wait() for w in writers] == [0] * 3
    assert len(tables.table(CPU)["ways"]) == 60


def test_without_the_lock_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that the lock is for: two that read the same old file."""
    old = tables.load(tables.device_key(CPU))
    monkeypatch.setattr(tables, "load", lambda key: {section: dict(old[section]) for section in old})
    for name in ("a", "b"):
        tables.add(CPU, "ways", {name: ENTRY})
    monkeypatch.undo()
    assert len(tables.load(tables.device_key(CPU))["ways"]) < 2


def test_threads_that_tune_at_once_lose_nothing() -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: tables.add(CPU, "ways", {str(i): ENTRY}), range(40)))
    tables.forget()
    assert len(tables.table(CPU)["ways"]) == 40


def test_a_writer_that_dies_leaves_no_lock_behind(cache: Path) -> None:
    code = (
        "import os, torch\nfrom pggan_fast.backends import tables\n"
        "tables._replace = lambda *args: os._exit(9)\ntables.add(torch.device('cpu'), 'ways', {})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    tables.add(CPU, "ways", {"a": ENTRY})
    assert len(files(cache)) == 1


def test_a_table_comes_with_the_package_and_the_users_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tables.add(CPU, "ways", {"a": ENTRY, "b": ENTRY})
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    path.rename(shipped / path.name)
    monkeypatch.setattr(tables, "SHIPPED", shipped)
    other = {"best": "aten", "seconds": {"aten": 1.0}}
    tables.forget()
    tables.add(CPU, "ways", {"b": other})
    assert tables.table(CPU)["ways"] == {"a": ENTRY, "b": other}


def test_what_is_shipped_can_be_read() -> None:
    for path in tables.SHIPPED.glob("*.json"):
        key = json.loads(path.read_text())["key"]
        assert tables._read(path, key)["ways"], path
        assert tables.path_of(key).name == path.name


def test_a_cache_below_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path / "file" / "cache"))
    tables.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.remember(CPU, "checks", {"a": {"build": "1"}})
    assert tables.table(CPU)["checks"] == {"a": {"build": "1"}}
    with pytest.raises(OSError, match=r"directory|exists"):
        tables.add(CPU, "ways", {"a": ENTRY})


def test_a_check_does_not_wait_for_a_writer_and_tune_does(cache: Path) -> None:
    tables.add(CPU, "ways", {"a": ENTRY})
    (lock,) = cache.glob("*.lock")
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); "
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        tables.remember(CPU, "checks", {"b": {"build": "1"}})  # returns
        holder.kill()
    assert "b" in tables.table(CPU)["checks"]
    tables.forget()
    assert "b" not in tables.table(CPU)["checks"]
    tables.add(CPU, "ways", {"b": ENTRY})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_beside_a_lock_is_not_blocked() -> None:
    """The thread that holds it is not there in the child."""
    code = (
        "import os, threading, torch\nfrom pggan_fast.backends import selfcheck, tables\n"
        "torch.set_num_threads(1)\nheld, go = threading.Event(), threading.Event()\n"
        "def hold():\n    with tables._lock, selfcheck._lock:\n        held.set(); go.wait()\n"
        "threading.Thread(target=hold, daemon=True).start(); held.wait()\npid = os.fork()\n"
        "if not pid:\n    with tables._lock, selfcheck._lock:\n        os._exit(0)\n"
        "status = os.waitpid(pid, 0)[1]; go.set(); raise SystemExit(status)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_user_without_a_home_keeps_nothing_and_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PGGAN_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.remember(CPU, "checks", {"a": {"build": "1"}})
    assert "a" in tables.table(CPU)["checks"]
    assert tables.unwritable() is not None
    with pytest.raises(OSError, match="irectory"):
        tables.add(CPU, "ways", {"a": ENTRY})


@pytest.mark.parametrize("best", ["gpu", "parts"])
def test_an_entry_whose_winner_is_no_way_here_is_passed_over(best: str) -> None:
    x = torch.randn(1, 3, 4, 4)
    name = signature.bucket("fade_reals", registry.names_of("fade_reals"), (x, torch.tensor(0.5)))
    tables.add(CPU, "ways", {name: {"best": best, "seconds": {best: 1.0, "aten": 2.0}}})
    registry.forget()
    first = registry.ranked("fade_reals", None, "cpu", (x, torch.tensor(0.5)))[0]
    assert (first.way, first.seconds) == ("cpu", None)


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file another user's, as seen from here."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
        else:
            uid = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: uid + 1)

    return give


def test_a_table_of_another_user_is_ignored(stranger: Callable[[Path], None]) -> None:
    path = tables.add(CPU, "checks", {"a": {"build": "1"}})
    before = path.read_bytes()
    stranger(path)
    tables.forget()
    with pytest.warns(RuntimeWarning, match="it belongs to another user"):
        assert tables.table(CPU)["checks"] == {}
    tables.remember(CPU, "checks", {"b": {"build": "1"}})
    assert path.read_bytes() == before


def test_a_table_that_every_user_may_write_is_ignored() -> None:
    path = tables.add(CPU, "ways", {"a": ENTRY})
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o666)
    tables.forget()
    with pytest.warns(RuntimeWarning, match="every user may write it"):
        assert tables.table(CPU)["ways"] == {}


def test_a_link_in_place_of_the_lock_is_left_alone(cache: Path, tmp_path: Path) -> None:
    """Opening it for writing would have emptied the file."""
    path = tables.add(CPU, "ways", {"a": ENTRY})
    mine = tmp_path / "mine"
    mine.write_text("precious")
    lock = path.with_suffix(".lock")
    lock.unlink()
    lock.symlink_to(mine)
    tables.remember(CPU, "checks", {"b": {"build": "1"}})
    with pytest.raises(OSError, match="symbolic links"):
        tables.add(CPU, "ways", {"b": ENTRY})
    assert mine.read_text() == "precious"
    path.unlink()
    path.symlink_to(mine)
    lock.unlink()
    tables.forget()
    with pytest.warns(RuntimeWarning, match="is ignored"):
        tables.add(CPU, "ways", {"b": ENTRY})
    assert mine.read_text() == "precious"
    assert not path.is_symlink()


def test_a_pipe_in_place_of_the_table_does_not_block() -> None:
    path = tables.path_of(tables.device_key(CPU))
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.warns(RuntimeWarning, match="it is a pipe"):
        assert tables.table(CPU)["ways"] == {}
    tables.remember(CPU, "checks", {"b": {"build": "1"}})
    assert "b" in tables.table(CPU)["checks"]
