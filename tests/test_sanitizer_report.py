"""scripts/sanitizer_report.py: which of compute-sanitizer's reports count."""

from __future__ import annotations

import pytest
import sanitizer_report

END = "========= ERROR SUMMARY: 1 errors"


def log(*lines: str) -> str:
    return "\n".join(["..... [ 77%]", *(f"========= {line}" for line in lines), END])


READ = "Uninitialized __global__ memory read of size 2 bytes"
OURS = "    at pggan::bias_act_forward<float>(pggan::Args)+0x5e0 in bias_act.cu:12"
TORCH = "    at void at::native::vectorized_elementwise_kernel<(int)8, at::native::CUDAFunctor_add<c10::Half>>+0x5e0"
RACE = "Error: Race reported between {} access at {}"


@pytest.mark.parametrize(("at", "count"), [(OURS, 1), (TORCH, 0), ("", 1)])
def test_memory_that_nobody_wrote(at: str, count: int) -> None:
    found = sanitizer_report.findings(log(READ, at, "    by thread (15,0,0)"))
    assert len(found) == count
    assert all("bias_act" in line for line in found if at)


@pytest.mark.parametrize("kind", ["Invalid __global__ write of size 4 bytes", "Uninitialized __shared__ memory read"])
def test_whoever_goes_out_of_bounds(kind: str) -> None:
    assert len(sanitizer_report.findings(log(kind, TORCH))) == 1


A, B = "backward_kernel+0x1f00 in bias_act.py:157", "backward_kernel+0x1f40 in bias_act.py:157"
CUDA = "backward_kernel+0x1f00 in bias_act.cu:157"


@pytest.mark.parametrize(
    ("first", "place", "second", "other", "count"),
    [
        ("Write", A, "Write", A, 0),
        ("Write", A, "Write", B, 1),
        ("Write", A, "Read", A, 1),
        ("Read", A, "Write", B, 1),
        ("Write", CUDA, "Write", CUDA, 1),
        ("Write", "backward_kernel+0x1f00", "Write", "backward_kernel+0x1f00", 1),
    ],
)
def test_races(first: str, place: str, second: str, other: str, count: int) -> None:
    lines = RACE.format(first, place), f"    and {second} access at {other} [14 hazards]"
    assert len(sanitizer_report.findings(log(*lines))) == count


def test_a_run_that_was_cut_off_is_no_clean_run() -> None:
    assert sanitizer_report.findings("..... [ 77%]") == ["the log has no end: the run was cut off"]
