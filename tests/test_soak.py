"""Nothing of a process grows while it computes for long."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATH
from soak_program import MOST_BYTES, POINTS, grown

PROGRAM = Path(__file__).with_name("soak_program.py")
LEAKS = {
    "memory": "import torch; held = []; leak = lambda: held.append(torch.ones(1 << 18))",
    "files": "leak = lambda: __import__('os').dup(0)",
    "choices": "from pggan_fast.backends import registry; leak = lambda: registry._memo.setdefault(object())",
    "threads": "import threading; leak = lambda: threading.Thread(target=threading.Event().wait, daemon=True).start()",
}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATH))}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)


def test_what_grew() -> None:
    flat = [{"resident": 1 << 30, "files": 7, "again": 5}] * POINTS
    assert grown("calls", flat) == []
    assert grown("calls", [{"files": 1}, *[{**point, "files": 9} for point in flat[1:]]]) == []  # settles early
    for name, more in (("resident", MOST_BYTES + 1), ("files", 1), ("again", 1)):
        rising = [{**point, name: point[name] + (more if at == POINTS - 1 else 0)} for at, point in enumerate(flat)]
        (found,) = grown("calls", rising)
        assert found.startswith(f"calls: {name} grew from")


@pytest.mark.slow
def test_nothing_grows_in_ten_thousand_calls_and_a_training() -> None:
    done = run(str(PROGRAM), "10000", "100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing grew\n")


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_seen(kind: str) -> None:
    code = f"{LEAKS[kind]}\nfrom soak_program import main\nprint(main(100, 0, leak))"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    name = {"memory": "resident", "threads": "tasks"}.get(kind, kind)
    assert f"calls: {name} grew from" in done.stdout.splitlines()[-1]
