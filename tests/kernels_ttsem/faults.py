"""Run by `python -m ttsem.sanitize pytest`, see test_sanitized.py: each kernel but the first has one seeded fault."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from pggan_fast.kernels.launch import launch


@triton.jit
def row_sums_kernel(x, sums, ROWS, COLS, FAULT: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr):
    """sums [ROWS] of x [ROWS, COLS], BR rows to a program."""
    first = tl.program_id(0) * BR
    if FAULT == "race":
        first = tl.program_id(0) * (BR - 1)  # a row belongs to two programs
    row = first + tl.arange(0, BR)
    col = tl.arange(0, BC)
    known = ROWS + 1 if FAULT == "read" else ROWS
    v = tl.load(x + row[:, None] * COLS + col[None, :], mask=(row < known)[:, None] & (col < COLS)[None, :], other=0.0)
    last = ROWS + 1 if FAULT == "write" else ROWS
    total = tl.sum(v, axis=1)
    if FAULT == "race":
        total += 0.0 * tl.load(sums + row, mask=row < ROWS, other=0.0)  # what the other program may have written
    tl.store(sums + row, total, mask=row < last)


@pytest.mark.parametrize("fault", ["none", "read", "write", "race"])
def test_row_sums(fault):
    x, sums = torch.randn(6, 5), torch.zeros(6)
    launch(row_sums_kernel, (2,), x, sums, 6, 5, fault, 4, 8)
    assert torch.allclose(sums, x.sum(1))
