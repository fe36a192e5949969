"""Programs of the tests that run in several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pggan_fast

PATH = [Path(pggan_fast.__file__).parents[1], Path(__file__).parent, os.environ.get("PYTHONPATH", "")]


def run_ranks(program: str, world: int, *arguments: str) -> None:
    """`program RANK ARGUMENTS` for each rank; all of them must exit with 0."""
    processes = [
        subprocess.Popen(
            [sys.executable, program, str(rank), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATH))},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-4000:]
    finally:
        for process in processes:
            process.kill()
