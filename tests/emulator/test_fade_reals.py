"""The CUDA kernels of fade_reals on the host emulator."""

from __future__ import annotations

import emulate
import grid
import op_cases
import pytest
import torch
from kernel_checks import assert_close, blocks, must_fail, up2
from torch import Tensor

from pggan_fast.backends import cuda

CASES = op_cases.cover("fade_reals", 2.0, channels=op_cases.CHANNELS[:-1])
A = 0.3125
ALPHA = torch.tensor(A)


@pytest.mark.parametrize("seed", grid.numbered(CASES))
def test_grid(seed: int) -> None:
    op_cases.run("fade_reals", CASES[seed], seed, policy=seed % 3)


def faded(image: Tensor) -> Tensor:
    return (1 - A) * up2(blocks(image).mean((3, 5))) + A * image


def test_alpha_one_leaves_the_images() -> None:
    with emulate.emulated():
        grid.load("test_fade_reals").test_alpha_one_leaves_the_images("cuda")


@pytest.mark.parametrize("policy", op_cases.POLICIES)
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_images_off_16_bytes(dtype: torch.dtype, policy: int) -> None:
    with emulate.emulated(policy):
        for channels_last in (True, False):
            image = op_cases.off_16_bytes(op_cases.random(2, 8, 4, 16, dtype=dtype), channels_last)
            assert_close(cuda.ops.fade_reals(image, ALPHA), faded, image)


@pytest.mark.parametrize("channels_last", [True, False])
def test_threads_go_on_with_stride(channels_last: bool) -> None:
    image = op_cases.random(1, 3, 150, 150, channels_last=channels_last)
    with emulate.emulated(multiprocessors=1):
        assert_close(cuda.ops.fade_reals(image, ALPHA), faded, image)


@pytest.mark.parametrize(("c", "channels_last"), [(16, True), (3, False)])
def test_whole_sectors(c: int, channels_last: bool) -> None:
    image = op_cases.random(2, c, 8, 64, dtype=torch.bfloat16, channels_last=channels_last)
    with emulate.emulated(stats=True) as emulator:
        cuda.ops.fade_reals(image, ALPHA)
        assert op_cases.wasted(emulator) == 0.0
        moved = emulator.counts()
    assert moved["read"] == image.nbytes + ALPHA.nbytes
    assert moved["written"] == image.nbytes


def test_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    image = op_cases.random(2, 8, 8, 12)
    with emulate.emulated():
        ours = cuda.ops.fade_reals(image, ALPHA)
    must_fail(ours, lambda x: (1 - A) * up2(x[:, :, ::2, ::2]) + A * x, image)
    must_fail(ours, lambda x: (1 - A) * up2(blocks(x).mean((3, 5)).transpose(0, 1).reshape(2, 8, 4, 6)) + A * x, image)
    op_cases.changed(monkeypatch, "fade_reals", lambda args: args.__setitem__(8, True))  # planes taken for rows
    with emulate.emulated():
        must_fail(cuda.ops.fade_reals(image, ALPHA), faded, image)
