"""The kernels, their launchers and the emulator under AddressSanitizer and UBSan: local arrays, stacks and host code,
which shadow memory does not watch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import compiled
import pytest

pytestmark = pytest.mark.slow  # the build alone takes a minute

DIED = 99
# The fibers' frames are kept apart to see them used after they return, in pieces of 64 KB; leaks are Python's own.
ASAN = f"detect_leaks=0:detect_stack_use_after_return=1:max_uar_stack_size_log=16:exitcode={DIED}"
UBSAN = f"print_stacktrace=1:exitcode={DIED}"

# What is told of each fault, and where
TOLD = {
    "local_read_past_the_end": ("stack-buffer-overflow", "READ of size 4"),
    "local_write_past_the_end": ("stack-buffer-overflow", "WRITE of size 4"),
    "local_after_its_scope": ("stack-use-after-scope", "READ of size 4"),
    "local_after_its_return": ("stack-use-after-return", "READ of size 4"),
    "sum_out_of_range": ("runtime error", "signed integer overflow"),
    "float_at_an_odd_address": ("runtime error", "misaligned address"),
    "heap_write_past_the_end": ("heap-buffer-overflow", "WRITE of size 4"),
    "heap_after_its_end": ("heap-use-after-free", "READ of size 4"),
    "vector_past_the_end": ("heap-buffer-overflow", r"READ of size 16.*in pggan::load128.* \S+/hooks\.cpp:\d+"),
}


@pytest.fixture(scope="module")
def libraries() -> str:
    """What has to be in the process before Python is: libasan, and libstdc++, whose exceptions it looks for there."""
    found = []
    for name in ("libasan.so", "libstdc++.so"):
        command = [compiled.recipe.cxx(), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"{command[0]} has no {name}")
        found.append(path)
    return " ".join(found)


@pytest.fixture(scope="module")
def module(libraries: str) -> Path:
    return compiled.build(compiled.ADDRESS)


def run(module: Path, libraries: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"LD_PRELOAD": libraries, "ASAN_OPTIONS": ASAN, "UBSAN_OPTIONS": UBSAN}
    command = [sys.executable, str(compiled.HERE / "sanitized.py"), str(module), *arguments]
    return subprocess.run(command, cwd=compiled.ROOT, env=env, capture_output=True, text=True, errors="replace")


def test_every_kernel_is_clean(module: Path, libraries: str) -> None:
    """Each is launched, by its op in every dtype and layout, with gradients and second order."""
    tests = compiled.HERE / "test_inventory.py"
    done = run(module, libraries, "pytest", str(tests), "-k", "launched_and_compared")
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"\d+ passed, \d+ deselected", done.stdout), done.stdout


def test_every_fault_is_expected() -> None:
    names = re.findall(r"^    SEEDED(?:_HOST)?\((\w+)", (compiled.HERE / "faults_host.cu").read_text(), re.MULTILINE)
    assert set(names) == set(TOLD)


@pytest.mark.parametrize("name", TOLD)
def test_fault(module: Path, libraries: str, name: str) -> None:
    done = run(module, libraries, name, "faulty")
    assert done.returncode == DIED, done.stderr
    kind, what = TOLD[name]
    assert re.search(f"{kind}.*{what}", done.stderr, re.DOTALL), done.stderr
    assert re.search(r"faults_host\.cu:\d+", done.stderr), done.stderr
    if name.startswith("local"):
        assert "is located in stack of thread" in done.stderr


@pytest.mark.parametrize("name", TOLD)
def test_its_correct_twin(module: Path, libraries: str, name: str) -> None:
    done = run(module, libraries, name, "correct")
    assert (done.returncode, done.stderr) == (0, "")
