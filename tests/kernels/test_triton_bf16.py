"""The interpreter's bfloat16: wrong as Triton ships it, and right, operation by operation, after the patch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton_bf16 import apply, faults, narrow, widen

from pggan_fast import BackendUnavailable, ops
from pggan_fast.backends import registry
from pggan_fast.backends.triton import availability

TESTS = Path(__file__).parents[1]
ROUNDED = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "quotient": lambda a, b: a / b,
    "negative": lambda a, b: -a,
    "larger": torch.maximum,
    "root": lambda a, b: a.abs().sqrt(),
    "selected": lambda a, b: torch.where(a > b, a, b * b),
    "halved": lambda a, b: a * 0.5,
    "whole": lambda a, b: a.to(torch.int32).bfloat16(),
    "half": lambda a, b: a.half().bfloat16(),
}


@triton.jit
def each(a, b, out, N: tl.constexpr):
    """out [10, N]: the operations of ROUNDED on bfloat16, in its order."""
    i = tl.arange(0, N)
    u, v = tl.load(a + i), tl.load(b + i)
    tl.store(out + i, u + v)
    tl.store(out + N + i, u - v)
    tl.store(out + 2 * N + i, u / v)
    tl.store(out + 3 * N + i, -u)
    tl.store(out + 4 * N + i, tl.maximum(u, v))
    tl.store(out + 5 * N + i, tl.sqrt(tl.abs(u).to(tl.float32)).to(tl.bfloat16))
    tl.store(out + 6 * N + i, tl.where(u > v, u, v * v))
    tl.store(out + 7 * N + i, u * 0.5)
    tl.store(out + 8 * N + i, u.to(tl.int32).to(tl.bfloat16))
    tl.store(out + 9 * N + i, u.to(tl.float16).to(tl.bfloat16))


@pytest.mark.any_process
def test_the_patch_is_needed():
    """The seeded fault is the interpreter itself; where this fails, Triton has mended it and the patch can go."""
    code = "from triton_bf16 import faults; print(*faults())"
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(TESTS)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["cast", "product", "dot"]


def test_nothing_is_left_wrong_and_a_second_patch_changes_nothing():
    assert faults() == []
    assert not apply()


def test_every_operation_rounds_as_torch_does():
    rng, n = torch.Generator().manual_seed(0), 4096
    a, b = (torch.randn(n, generator=rng).mul(3).bfloat16() for _ in range(2))
    out = a.new_full((len(ROUNDED), n), float("nan"))
    each[(1,)](a, b, out, N=n)
    for (name, formula), got in zip(ROUNDED.items(), out, strict=True):
        assert torch.equal(got, formula(a, b)), name


def test_conversions_on_every_bit_pattern():
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    bits = every.view(torch.int16).numpy().view(np.uint16)
    assert torch.equal(torch.from_numpy(widen(bits)).nan_to_num(7.0), every.float().nan_to_num(7.0))
    numbers = ~np.isnan(widen(bits))
    assert np.array_equal(narrow(widen(bits))[numbers], bits[numbers])
    between = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    values = between.view(torch.float32)  # ties, subnormal numbers, infinities and NaN among them
    got = torch.from_numpy(narrow(values.numpy()).view(np.int16)).view(torch.bfloat16)
    assert torch.equal(got.float().nan_to_num(7.0), values.bfloat16().float().nan_to_num(7.0))


def test_the_interpreter_unmended_refuses_bfloat16(monkeypatch) -> None:
    x, w = torch.randn(1, 3, 4, 4).bfloat16(), torch.randn(2, 3, 3, 3)
    assert ops.scaled_conv2d(x, w, weight_scale=0.2, backend="triton").isfinite().all()
    monkeypatch.setattr(availability, "interpreter_knows_bfloat16", False)
    registry.forget()
    with pytest.raises(BackendUnavailable, match="interpreter is wrong for bfloat16"):
        ops.scaled_conv2d(x, w, weight_scale=0.2, backend="triton")
