"""scripts/sanitizer_report.py: which of compute-sanitizer's reports count."""

from __future__ import annotations

import pytest
import sanitizer_report


def log(*lines: str, errors: int = 1) -> str:
    end = f"ERROR SUMMARY: {errors} errors"
    return "\n".join(["..... [ 77%]", *(f"========= {line}" for line in (*lines, end))])


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


def test_one_value_among_other_accesses_excuses_nothing() -> None:
    lines = (
        RACE.format("Write", A),
        f"    and Write access at {A} [248 hazards]",
        f"    and Read access at {B} [8 hazards]",
    )
    (found,) = sanitizer_report.findings(log(*lines))
    assert "Read access" in found


def test_a_copy_to_the_host_of_what_was_not_seen_written() -> None:
    lines = (
        "Host API memory access error at host access to 0x7fc3576c7200 of size 32 bytes",
        "    {} by cudaMemcpy source",
    )
    assert not sanitizer_report.findings(log(lines[0], lines[1].format("Uninitialized access to 0x7fc on access")))
    assert sanitizer_report.findings(log(lines[0], "    Access out of bounds"))


@pytest.mark.parametrize(
    "line", ["Internal Sanitizer Error: it could not", "Leaked 64 bytes", "Something new happened"]
)
def test_what_is_not_understood_counts(line: str) -> None:
    assert len(sanitizer_report.findings(log(line))) == 1
    assert len(sanitizer_report.findings(log("COMPUTE-SANITIZER", errors=300))) == 1
    assert not sanitizer_report.findings(log("COMPUTE-SANITIZER", errors=0))


def test_a_run_that_was_cut_off_is_no_clean_run() -> None:
    assert sanitizer_report.findings("..... [ 77%]") == ["the log has no end: the run was cut off"]
