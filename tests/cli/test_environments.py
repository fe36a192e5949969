"""Commands where a machine is odd: locales, names, folders that cannot be written, a full disk, a closed pipe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATH

PROGRAM = Path(__file__).parents[1] / "environment_program.py"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOWHERE = {"HOME": "/proc/nowhere", "PGGAN_FAST_CACHE": ""}  # no folder can be made there, not even by root


def environment(changes: dict[str, str]) -> dict[str, str]:
    names = ("LC_ALL", "LANG", "LC_CTYPE", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, PATH)), **changes}


def commands(folder: Path, changes: dict[str, str], *limit: str) -> tuple[dict[str, tuple[int, str]], str]:
    """By its words, the exit status of each command and what it said about errors; and all that they printed."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), *limit],
        env=environment(changes), capture_output=True, encoding="utf-8", errors="surrogateescape", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Traceback" not in done.stdout + done.stderr
    rows = re.findall(r"^COMMAND ([^:]+): (\d+) (.*)$", done.stdout, re.M)
    assert len(rows) == 7
    return {words: (int(status), told) for words, status, told in rows}, done.stdout


ODD = {
    "ascii, nothing kept": {**ASCII, **NOWHERE},
    "turkish": {"LC_ALL": "tr_TR.UTF-8"},
    "utf-8": {"LC_ALL": "C.UTF-8"},
    "ascii output": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    "cache below a device": {"LC_ALL": "C", "PGGAN_FAST_CACHE": "/dev/null/x"},
}
SLOW = ("turkish", "utf-8", "ascii output", "cache below a device")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ODD])
def test_every_command_works(name: str, tmp_path: Path) -> None:
    found, _ = commands(tmp_path, ODD[name])
    assert found == dict.fromkeys(found, (0, "[]"))


def test_a_full_disk_is_one_line_for_each_command(tmp_path: Path) -> None:
    found, printed = commands(tmp_path, {"LC_ALL": "C.UTF-8"}, "64")
    assert {words for words, (status, _) in found.items() if status == 0} == {"info", "data info", "data verify"}
    assert found.pop("train") == (1, "[]")  # it goes on, and tells what could not be written
    assert "cannot write" in printed
    for words, (status, told) in found.items():
        assert status == 0 or (told.count("'pggan-fast: error: ") + told.count('"pggan-fast: error: ') == 1), words


@pytest.mark.parametrize("closed", [True, False])
def test_output_that_goes_nowhere(closed: bool) -> None:
    """`pggan-fast --help | head -0` says nothing more, and `> /dev/full` one line."""
    where = os.open("/dev/full", os.O_WRONLY) if not closed else -1
    if closed:
        reader, where = os.pipe()
        os.close(reader)
    code = "from pggan_fast import cli; cli.main(['info'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment({}), stdout=where, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(where)
    assert done.returncode == 1
    assert done.stderr == ("" if closed else "pggan-fast: error: writing output: No space left on device\n")


def test_the_full_disk_would_be_a_traceback(tmp_path: Path) -> None:
    """What the checks above are for."""
    code = "import os; os.write(1, b'x')"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" in done.stderr
