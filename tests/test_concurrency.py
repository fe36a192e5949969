"""First calls that come at once, and children of a process that has computed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATH

HERE = Path(__file__).parent
THREADS = 8


def run(*command: str, cache: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATH)), "PGGAN_FAST_CACHE": str(cache)}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)


def test_threads_whose_first_calls_come_at_once(tmp_path: Path) -> None:
    done = run(str(HERE / "threads_first_program.py"), str(THREADS), cache=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 20  # kinds of calls, each checked once


def test_without_the_lock_a_kind_would_be_checked_more_than_once(tmp_path: Path) -> None:
    code = (
        "import contextlib, threads_first_program as p; p.selfcheck._lock = contextlib.nullcontext(); "
        f"p.selfcheck._known = lambda *args: None; p.main({THREADS})"
    )
    done = run("-c", code, cache=tmp_path)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr


@pytest.mark.slow
def test_forked_and_spawned_children_compute_the_same(tmp_path: Path) -> None:
    done = run(str(HERE / "forked_program.py"), str(tmp_path), cache=tmp_path / "cache")
    assert (done.returncode, done.stdout) == (0, "the same\n"), done.stderr[-4000:]
