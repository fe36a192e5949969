"""What test_asan.py runs in a process of its own, where libasan is preloaded.

usage: sanitized.py MODULE pytest ARGUMENT... | sanitized.py MODULE NAME correct|faulty, of faults_host.cu
"""

from __future__ import annotations

import os
import sys
from array import array
from pathlib import Path

import compiled

COUNT = 128


def run_tests(module: Path, arguments: list[str]) -> int:
    """pytest with the emulator at `module`. It hides no report, and leaves crashes to AddressSanitizer."""
    import emulate
    import pytest

    found = compiled.load(module)
    emulate.module = lambda: found
    return pytest.main(["-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", *arguments])


def run_seeded(module: Path, name: str, correct: bool) -> None:
    """Without torch, which takes seconds to import."""
    numbers, out, zeros = array("f", range(COUNT)), array("f", [0] * COUNT), array("f", [0] * COUNT)
    emulator = compiled.load(module).emulator
    getattr(emulator.faults, name)(0, 0, *(a.buffer_info()[0] for a in (numbers, out, zeros)), correct)
    assert not emulator.take_faults()


if __name__ == "__main__":
    del os.environ["LD_PRELOAD"]  # the tools that this process starts do without
    path, what, *rest = sys.argv[1:]
    if what == "pytest":
        sys.exit(run_tests(Path(path), rest))
    run_seeded(Path(path), what, rest == ["correct"])
