"""fuse(): the memory format that a fused part runs in, and tensors around it that are overwritten later."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from foreign_layers import NORMS, Does, OnInput
from swap_checks import fused_wholly
from torch import Tensor, nn

from pggan_fast.backends import recording


@pytest.mark.parametrize("planes", [True, False])
@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (lambda: Does(NORMS["rsqrt"][0]), False),
        (lambda: nn.Sequential(OnInput(5, 4, 1), nn.LeakyReLU(0.2)), False),
        (lambda: nn.Sequential(OnInput(5, 4, 3), nn.LeakyReLU(0.2)), True),
    ],
)
def test_only_large_kernels_are_worth_another_format(make: Callable[[], nn.Module], rows: bool, planes: bool) -> None:
    module, seen = make(), list[Tensor]()
    x = torch.randn(2, 5, 4, 4).contiguous(memory_format=(torch.channels_last, torch.contiguous_format)[planes])
    strides = []
    for fused in (False, True):
        if fused:
            fused_wholly(module)
        with recording.recorded(lambda op, backend, args: seen.append(args[0])):
            y = module(x.requires_grad_())
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        strides.append((y.stride(), dx.stride()))
    assert [t.is_contiguous() for t in seen] == [planes and not rows]
    assert strides[0] == strides[1]


FREE = {
    "norm flatten": lambda: nn.Sequential(Does(NORMS["rsqrt"][0]), nn.Flatten()),
    "norm": lambda: Does(NORMS["rsqrt"][0]),
    "conv1x1": lambda: OnInput(5, 4, 1),
    "conv1x1 lrelu flatten": lambda: nn.Sequential(OnInput(5, 4, 1), nn.LeakyReLU(0.2), nn.Flatten()),
    "conv1x1 norm": lambda: nn.Sequential(OnInput(5, 4, 1), Does(NORMS["rsqrt"][0])),
}


@pytest.mark.parametrize(
    ("name", "over"),
    [(name, "output") for name in FREE] + [(name, "input") for name in FREE if not name.startswith("norm")],
)
def test_tensors_around_small_kernels_may_be_overwritten(name: str, over: str) -> None:
    """As around the original, which keeps no more than products of its input (a norm keeps it), and not its output."""
    torch.manual_seed(0)
    original = FREE[name]()
    fused = copy.deepcopy(original)
    fused_wholly(fused)
    results = []
    for module in (original, fused):
        x = torch.linspace(-1.0, 1.0, 2 * 5 * 4 * 4).view(2, 5, 4, 4).requires_grad_()
        given = x * 2.0
        y = module(given)
        (given if over == "input" else y).mul_(3.0)
        weights = torch.linspace(-1.0, 1.0, y.numel()).view(y.shape)
        results.append(torch.autograd.grad((y * weights).sum(), x)[0])
    torch.testing.assert_close(*results)
