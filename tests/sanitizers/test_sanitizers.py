"""The CPU kernels under AddressSanitizer and UBSan, by their own tests, and under ThreadSanitizer, by the driver.

Slow with what they are built for: no fault of a kernel is seen by the seeded ones alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import instrumented
import pytest
from instrumented import ADDRESS, ROOT, THREAD, Variant

from pggan_fast.backends import cpu

pytestmark = pytest.mark.early

if (reason := cpu.why_missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

DIED = 99
OPTIONS = {
    "ASAN_OPTIONS": f"detect_leaks=0:exitcode={DIED}",  # leaks are Python's own
    "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={DIED}",
    "TSAN_OPTIONS": f"halt_on_error=1:exitcode={DIED}",
}
RUNNABLE = cpu.describe()["isas"]
BEST = RUNNABLE[-1]
ISAS = list(dict.fromkeys(["baseline", BEST]))  # code of its own has the baseline, and what has AVX2

# What is told of each fault of faults.cpp, and where
MEMORY = {
    "read_past_the_end": ("heap-buffer-overflow", "READ of size 4"),
    "read_before_the_beginning": ("heap-buffer-overflow", "READ of size 4"),
    "write_past_the_end": ("heap-buffer-overflow", "WRITE of size 4"),
    "vector_past_the_end": ("heap-buffer-overflow|unknown-crash", "READ of size 64"),  # unknown: it begins within
    "scratch_past_the_end": ("heap-buffer-overflow", "WRITE of size 4"),
    "scratch_after_its_end": ("heap-use-after-free", "READ of size 4"),
    "local_past_the_end": ("stack-buffer-overflow", "WRITE of size 4"),
    "sum_out_of_range": ("runtime error", "signed integer overflow"),
    "shift_out_of_range": ("runtime error", "shift exponent 32 is too large"),
    "float_at_an_odd_address": ("runtime error", "misaligned address"),
}
RACES = {
    "two_chunks_write_one_element": ("data race", "Write of size 4.*Previous write of size 4"),
    "two_chunks_write_one_byte": ("data race", "of size 1.*Previous write of size 1"),
    "one_sum_for_all_chunks": ("data race", "of size 8.*Previous write of size 8"),
    "one_buffer_for_all_chunks": ("data race", "of size 4.*Previous (read|write) of size 4"),
    "a_chunk_reads_what_another_writes": ("data race", "of size 4.*Previous (read|write) of size 4"),
}
RESULTS = {
    "as_many_sums_as_threads": "gives other results with threads",
    "all_in_one_chunk": "runs in one piece, so that nothing can race",
}
FAULTS = [(ADDRESS, name) for name in MEMORY] + [(THREAD, name) for name in (*RACES, *RESULTS)]


def named(value: object) -> str | None:
    return value.folder.name if isinstance(value, Variant) else None


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | OPTIONS | env
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, errors="replace", check=False)


def skip_without(variant: Variant) -> None:
    if why := instrumented.why_missing(variant):
        pytest.skip(why)


@pytest.fixture(scope="module")
def module() -> Path:
    skip_without(ADDRESS)
    return instrumented.build_module(ISAS)


def under_asan(module: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """libasan has to be in the process before Python is, and libstdc++, whose exceptions it looks for there."""
    preloaded = " ".join(filter(None, map(instrumented.library, ("libasan.so", "libstdc++.so"))))
    script = str(instrumented.HERE / "under_asan.py")
    return run([sys.executable, script, str(module), ",".join(ISAS), *arguments], LD_PRELOAD=preloaded)


def kernel_tests() -> list[Path]:
    """The tests that say why the native kernels are missing, where they are, less those of the choice among kernels."""
    texts = {p: p.read_text() for p in sorted((ROOT / "tests" / "backends").glob("test_*.py"))}
    return [p for p, text in texts.items() if "cpu.why_missing()" in text and "fresh_choices" not in text]


@pytest.mark.slow
def test_the_kernels_own_tests_are_clean(module: Path) -> None:
    done = under_asan(module, "tests", *map(str, kernel_tests()))
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.search(r"\d+ passed", done.stdout), done.stdout
    assert "runtime error" not in done.stderr


@pytest.mark.slow
def test_a_kernel_without_a_test_is_found(module: Path) -> None:
    tests = ROOT / "tests" / "backends" / "test_tiled.py"
    done = under_asan(module, "tests", str(tests), "-k", "seeded")
    assert done.returncode == 3, done.stderr + done.stdout
    told = re.search(r"^no test calls (.*)$", done.stdout, re.MULTILINE)
    assert told is not None, done.stdout
    assert set(told[1].split(", ")) == {*instrumented.table()} - {"tiled_conv"}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["read", "write"])
def test_the_ends_of_torchs_tensors_are_seen(module: Path, which: str) -> None:
    done = under_asan(module, "past", which)
    assert done.returncode == DIED, done.stderr
    assert f"{which.upper()} of size 4" in done.stderr, done.stderr
    assert re.search(r"heap-buffer-overflow.*#0 .*/csrc/cpu/fade_in\.cpp:\d+", done.stderr, re.DOTALL), done.stderr
    assert "0 bytes to the right of 256-byte region" in done.stderr or "after 256-byte region" in done.stderr


@pytest.mark.slow
def test_a_tensor_that_is_long_enough_is_not_reported(module: Path) -> None:
    done = under_asan(module, "past", "nothing")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def drivers() -> dict[Path, list[str]]:
    """The commands that start the drivers that were built so far, by the folder of their variant."""
    return {}


def driver(drivers: dict[Path, list[str]], variant: Variant, *arguments: str) -> subprocess.CompletedProcess[str]:
    skip_without(variant)
    if variant.folder not in drivers:
        drivers[variant.folder] = startable([str(instrumented.build_driver(variant, BEST))])
    return run([*drivers[variant.folder], *arguments])


def startable(command: list[str]) -> list[str]:
    """ThreadSanitizer wants addresses where it expects them; some kernels put them there only when asked."""
    for prefix in ([], ["setarch", "-R"]):
        if prefix and shutil.which(prefix[0]) is None:
            continue
        told = run([*prefix, *command, "no_such_fault", "correct"])
        if told.returncode == 2:
            return [*prefix, *command]
    pytest.skip(f"the driver does not start here: {told.stderr[-400:]}")


@pytest.mark.slow
@pytest.mark.parametrize("variant", [ADDRESS, THREAD], ids=named)
def test_every_kernel_is_clean_in_threads(drivers: dict[Path, list[str]], variant: Variant) -> None:
    done = driver(drivers, variant)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"runs: [1-9]\d{2,}\n", done.stdout), done.stdout


@pytest.mark.slow
def test_a_kernel_that_the_driver_does_not_run_is_found(drivers: dict[Path, list[str]]) -> None:
    done = driver(drivers, ADDRESS, "fade_reals")
    assert done.returncode == 1
    assert done.stderr == f"no case runs slot {instrumented.table().index('fade_reals')} of Kernels\n"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrumented, "library", lambda name: None if name == "libubsan.so" else f"/usr/lib/{name}")
    assert instrumented.why_missing(ADDRESS) == f"{instrumented.recipe.cxx()} has no libubsan.so"
    assert instrumented.why_missing(THREAD) is None


def test_every_fault_is_expected() -> None:
    names = re.findall(r"^    SEEDED\((\w+)", (instrumented.HERE / "faults.cpp").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(name for _, name in FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "name"), FAULTS, ids=named)
def test_fault_and_its_correct_twin(drivers: dict[Path, list[str]], variant: Variant, name: str) -> None:
    right = driver(drivers, variant, name, "correct")
    assert (right.returncode, right.stdout, right.stderr) == (0, "runs: 1\n", "")
    done = driver(drivers, variant, name, "faulty")
    if name in RESULTS:
        assert (done.returncode, done.stderr) == (1, f"{name}, faulty: {RESULTS[name]}\n")
        return
    assert done.returncode == DIED, done.stderr
    kind, what = (MEMORY | RACES)[name]
    assert re.search(f"({kind}).*{what}", done.stderr, re.DOTALL), done.stderr
    assert re.search(r"/faults\.cpp:\d+", done.stderr), done.stderr
