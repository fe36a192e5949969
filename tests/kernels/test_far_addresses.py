"""The memory-bound kernels past 2^31 elements: the last program of a launch, over tensors reserved and not filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from pggan_fast.kernels import bias_act, fade_in, fade_reals
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

CHANNELS, WIDTH = 64, 4096
HEIGHT = 2**31 // (CHANNELS * WIDTH) + 2  # two rows past 2^31 elements
ALPHA = torch.tensor(0.25)


def only_program(from_the_end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches run one program of their grid, under its own number."""
    offset = [0]

    def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        assert len(grid) == 1
        offset[0] = grid[0] - from_the_end
        kernel[(1,)](*args, **options)

    def program_id(self: Any, axis: int) -> TensorHandle:
        return TensorHandle(np.array([offset[0] if axis == 0 else 0], dtype=np.int32), tl.int32)

    monkeypatch.setattr(InterpreterBuilder, "create_get_program_id", program_id)
    for module in (bias_act, fade_in, fade_reals):
        monkeypatch.setattr(module, "launch", launch)


def reserved() -> Tensor:
    """[1, C, H, W] channels_last in bfloat16, 4 GiB of addresses of which the tests touch the end."""
    return torch.empty(1, HEIGHT, WIDTH, CHANNELS, dtype=torch.bfloat16).permute(0, 3, 1, 2)


def end(t: Tensor) -> Tensor:
    """The last eight pixels [C, 8]."""
    return t[0, :, -1, -8:]


def epilogue(x: Tensor, y: Tensor) -> None:
    bias_act.bias_act_forward(
        x, None, y, None, None, channels_last=True, pool=False, scale=3.0, bias_scale=1.0, slope=0.5, norm="none",
        eps=0.0, eps_inside=True,
    )  # fmt: skip


def epilogue_backward(x: Tensor, y: Tensor) -> None:
    bias_act.bias_act_backward(
        x, None, x, None, None, y, None, channels_last=True, pool=False, scale=3.0, slope=0.5, norm="none", eps=0.0,
        eps_inside=True,
    )  # fmt: skip


KERNELS: dict[str, tuple[Callable[[Tensor, Tensor], None], Callable[[Tensor], Tensor]]] = {
    "bias_act_forward": (epilogue, lambda x: torch.where(x > 0, 3.0 * x, 1.5 * x)),
    "bias_act_backward": (epilogue_backward, lambda x: torch.where(x > 0, 3.0 * x, 1.5 * x)),
    "fade_in_forward": (lambda x, y: fade_in.fade_in_forward(x, x, ALPHA, y, True), lambda x: x),
    "fade_reals": (lambda x, y: fade_reals.fade_reals(x, ALPHA, y, True), lambda x: x),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_last_pixels_are_written_where_they_belong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, formula = KERNELS[name]
    x, y = reserved(), reserved()
    x[0, :, -2:, -64:] = torch.randn(CHANNELS, 1, 1)  # the same in a 2x2 block, which fade_reals averages
    only_program(2, monkeypatch)
    run(x, y)
    assert not end(y).any()  # the program before the last one writes elsewhere
    only_program(1, monkeypatch)
    run(x, y)
    torch.testing.assert_close(end(y).float(), formula(end(x).float()), rtol=0.01, atol=0.0)
