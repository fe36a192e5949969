"""The CUDA kernels of fade_in on the host emulator."""

from __future__ import annotations

import emulate
import grid
import op_cases
import pytest
import torch
from kernel_checks import assert_close, blocks, must_fail, up2
from torch import Tensor

from pggan_fast.backends import cuda
from pggan_fast.backends.layout import memory_format

CASES = op_cases.cover("fade_in", 8e4, channels=op_cases.CHANNELS)
A = 0.3125
ALPHA = torch.tensor(A)


@pytest.mark.parametrize("seed", grid.numbered(CASES))
def test_grid(seed: int) -> None:
    op_cases.run("fade_in", CASES[seed], seed, policy=seed % 3)


@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
@pytest.mark.parametrize("up", [True, False])
def test_ends_are_exact(dtype: torch.dtype, up: bool) -> None:
    with emulate.emulated():
        grid.load("test_fade_in").test_ends_are_exact("cuda", dtype, up)


def blended(low: Tensor, high: Tensor) -> Tensor:
    return (1 - A) * (low if low.shape == high.shape else up2(low)) + A * high


def check(low: Tensor, high: Tensor) -> None:
    """Forward, and backward of high as the gradient."""
    up = low.shape != high.shape
    assert_close(cuda.ops.fade_in_forward(low, high, ALPHA), blended, low, high)
    dlow, dhigh = cuda.ops.fade_in_backward(high, ALPHA, up)
    assert_close(dlow, lambda dy: (1 - A) * (blocks(dy).sum((3, 5)) if up else dy), high)
    assert_close(dhigh, lambda dy: A * dy, high)


@pytest.mark.parametrize("policy", op_cases.POLICIES)
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_tensors_off_16_bytes(dtype: torch.dtype, policy: int) -> None:
    """By the elements that they have, whichever of them is off; and 8 bytes of a plane's half size stay whole."""
    with emulate.emulated(policy):
        for channels_last, by in ((True, 1), (False, 1), (False, 2), (False, 4)):
            high = op_cases.random(2, 16, 4, 16, dtype=dtype, channels_last=channels_last)
            for low in (high + 1, high[:, :, ::2, ::2] + 1):
                check(op_cases.off_16_bytes(low, channels_last, by), high)
                check(low.contiguous() if not channels_last else low, op_cases.off_16_bytes(high, channels_last, by))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("c", [3, 8])
def test_threads_go_on_with_stride(c: int, channels_last: bool) -> None:
    """More vectors, or more elements, than threads at a time."""
    with emulate.emulated(multiprocessors=1):
        high = op_cases.random(1, c, 2 * 67, 2 * 67, channels_last=channels_last)
        check(high[:, :, ::2, ::2].contiguous(memory_format=memory_format(channels_last)), high)
        check(high + 1, high)


def test_cut_vectors() -> None:
    with emulate.emulated():
        for width in range(1, 18):
            high = op_cases.random(1, 1, 1, width, dtype=torch.float16)
            check(high + 1, high)


@pytest.mark.parametrize("channels_last", [True, False])
def test_whole_sectors(channels_last: bool) -> None:
    high = op_cases.random(1, 16, 8, 64, dtype=torch.float16, channels_last=channels_last)
    low = high[:, :, ::2, ::2].contiguous(memory_format=memory_format(channels_last))
    with emulate.emulated(stats=True) as emulator:
        cuda.ops.fade_in_forward(low, high, ALPHA)
        assert op_cases.wasted(emulator) == 0.0
        moved = emulator.counts()
    assert moved["read"] == low.nbytes + high.nbytes + ALPHA.nbytes
    assert moved["written"] == high.nbytes
    with emulate.emulated(stats=True) as emulator:
        _ = cuda.ops.fade_in_backward(high, ALPHA, True)
        assert op_cases.wasted(emulator) == 0.0
        moved = emulator.counts()
    assert moved["read"] == high.nbytes + ALPHA.nbytes
    assert moved["written"] == high.nbytes + low.nbytes


def test_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = op_cases.random(2, 8, 4, 6, seed=1), op_cases.random(2, 8, 8, 12)
    with emulate.emulated():
        must_fail(cuda.ops.fade_in_forward(low, high, ALPHA + 1e-3), blended, low, high)
        must_fail(cuda.ops.fade_in_backward(high, ALPHA, True)[0], lambda dy: (1 - A) * blocks(dy).mean((3, 5)), high)
    op_cases.changed(monkeypatch, "fade_in_forward", lambda args: args.__setitem__(7, 10))  # too high
    with emulate.emulated(), pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        check(low, high)
