"""Each gate lets a sound kernel pass and catches the fault that it is there for, on every chip."""

from __future__ import annotations

import functools

import pytest
import torch
from static import faulty, gate
from static.aot import Program, compile_all
from static.record import recorded, unique

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def meta(*shape, dtype=F32):
    return torch.empty(shape, dtype=dtype, device="meta")


def square(n, k=256, dtype=F16):
    return meta(n, k, dtype=dtype), meta(k, n, dtype=dtype), meta(n, n, dtype=dtype)


LAUNCHES = {
    "wide": lambda: faulty.scale(meta(4096), meta(4096), 2.0),
    "wide half": lambda: faulty.scale(meta(4096, dtype=BF16), meta(4096, dtype=BF16), 2.0),
    "scalar": lambda: faulty.scale(meta(4096), meta(4096), 2.0, stride=2),
    "spills": lambda: faulty.sort(meta(16384), meta(8192), 8192),
    "half product": lambda: faulty.product(*square(64)),
    "tf32 product": lambda: faulty.product(*square(64, dtype=F32)),
    "exact product": lambda: faulty.product(*square(32, dtype=F32), precision="ieee"),
    "false tf32": lambda: faulty.product(*square(32, dtype=F32), honest=False),
    "too much shared": lambda: faulty.product(*square(128), stages=9, warps=8),
}
EXPECTED = {
    "scalar": ["no 16-byte loads", "no 16-byte stores"],
    "spills": ["spills"],
    "false tf32": ["a product without a tensor-core instruction"],
    "too much shared": ["bytes of shared memory"],
}


QUICK = (80,)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(gate.MAIN, "faulty.scale_kernel", (("x", "flat"), ("y", "flat")))
    monkeypatch.setitem(gate.MAIN, "faulty.sort_kernel", (None, None))


@functools.cache
def verdicts(cc):
    """{name: violations}, all compiled at once."""
    found = {}
    for name, run in LAUNCHES.items():
        with recorded() as launches:
            run()
        ((job, served),) = unique(launches, cc).items()
        found[name] = job, served[0]
    programs = compile_all(job for job, _ in found.values())
    return {name: gate.violations(job, programs[job], launch) for name, (job, launch) in found.items()}


@pytest.mark.parametrize("name", LAUNCHES)
@pytest.mark.parametrize(
    "cc", [pytest.param(cc, marks=[] if cc in QUICK else pytest.mark.slow) for cc in gate.COMPILED]
)
def test_each_fault_is_named_and_nothing_else(name, cc):
    wrong, expected = verdicts(cc)[name], EXPECTED.get(name, [])
    assert len(wrong) == len(expected), wrong
    assert all(e in w for e, w in zip(expected, wrong, strict=True)), wrong


def test_what_does_not_compile_is_a_violation():
    with recorded() as launches:
        faulty.scale(meta(64), meta(64), 1.0, block=100)  # tl.arange takes powers of two
    ((job, served),) = unique(launches, 80).items()
    (wrong,) = gate.violations(job, compile_all([job])[job], served[0])
    assert wrong.startswith("does not compile")


def test_a_kernel_that_the_gates_do_not_know_is_a_violation(monkeypatch):
    monkeypatch.delitem(gate.MAIN, "faulty.scale_kernel")
    with recorded() as launches:
        faulty.scale(meta(64), meta(64), 1.0)
    ((job, served),) = unique(launches, 80).items()
    (wrong,) = gate.violations(job, Program(registers=32, warps=4), served[0])
    assert "does not know faulty.scale_kernel" in wrong


def test_what_lies_in_whole_words():
    def image(c, w, channels_last):
        form = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(2, c, 4, w, dtype=BF16, device="meta", memory_format=form)

    assert gate.in_whole_words(image(24, 5, True), "rows")
    assert not gate.in_whole_words(image(20, 16, True), "rows")
    assert gate.in_whole_words(image(3, 16, False), "rows")
    assert not gate.in_whole_words(image(16, 8, False), "rows")  # 16 bytes, but the compiler knows 16 elements only
    assert gate.in_whole_words(image(3, 16, True), "lines")
    assert not gate.in_whole_words(image(3, 8, True), "lines")
    assert gate.in_whole_words(image(3, 2, False), "flat")
    assert not gate.in_whole_words(image(3, 1, False), "flat")


def test_occupancy_is_the_least_of_its_limits():
    a100, rtx = gate.CHIPS[80], gate.CHIPS[86]
    assert gate.occupancy(Program(registers=32, warps=4), a100) == 16  # 2048 threads
    assert gate.occupancy(Program(registers=32, warps=1), rtx) == 16  # blocks
    assert gate.occupancy(Program(registers=168, warps=4), a100) == 3  # 12 warps of 5376 registers
    assert gate.occupancy(Program(registers=32, warps=4, shared=48 * 1024), a100) == 3  # 49 KiB each
    assert gate.occupancy(Program(registers=32, warps=4, shared=100 * 1024), rtx) == 0  # 99 KiB a block
