"""Ways in which callers have broken the ops: each gives the right result or one clear error, never garbage."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import grid
import numpy as np
import pytest
import torch
from torch import Tensor

from pggan_fast import nn, no_weight_grads, ops, reference

TRACED: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled_conv2d": nn.ScaledConv2d(4, 4, resample="up", negative_slope=0.2, pixel_norm="after_act"),
    "scaled_linear": lambda x: ops.scaled_linear(x.flatten(1), torch.ones(3, 256), weight_scale=0.1),
    "pixel_norm": ops.pixel_norm,
    "fade_in": lambda x: ops.fade_in(x, 2.0 * x, 0.25),
    "fade_reals": lambda x: ops.fade_reals(x, 0.25),
    "minibatch_stddev": ops.minibatch_stddev,
}


@pytest.mark.parametrize("name", TRACED)
def test_jit_trace_takes_the_reference(name: str) -> None:
    """While tracing, x.shape holds tensors: kernels once took their addresses for sizes."""
    f = TRACED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(f, torch.randn(2, 4, 8, 8))
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(traced(x), f(x))


def test_numpy_floats_are_floats() -> None:
    x, w = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3)
    scale, slope = np.float64(0.25), np.float64(0.5)
    got = ops.scaled_conv2d(x, w, weight_scale=scale, negative_slope=slope, pixel_norm="after_act", eps=np.float64(0.1))
    assert got.equal(ops.scaled_conv2d(x, w, weight_scale=0.25, negative_slope=0.5, pixel_norm="after_act", eps=0.1))


def test_overlapping_no_weight_grads_come_back_on() -> None:
    """As two threads leave them: in the order in which they entered."""
    layer, x = nn.ScaledConv2d(3, 4), torch.randn(1, 3, 4, 4)
    first, second = no_weight_grads(), no_weight_grads()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    second.__exit__(None, None, None)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("backend", ["aten", "cpu"])
@pytest.mark.parametrize("resample", ["up", "down"])
def test_autocast_changes_nothing_inside_a_kernel(backend: str, resample: str) -> None:
    x, w = torch.randn(2, 8, 32, 32).bfloat16(), torch.randn(8, 8, 3, 3, requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        y = ops.scaled_conv2d(x, w, weight_scale=0.1, resample=resample, backend=backend)
        return y, torch.autograd.grad(y, w, torch.ones_like(y))[0]

    outside = run()
    with torch.autocast("cpu", torch.bfloat16):
        inside = run()
    assert all(a.equal(b) for a, b in zip(outside, inside, strict=True))


def test_minibatch_stddev_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(TypeError, match=r"unbiased: .*got 2"):
        ops.minibatch_stddev(torch.randn(4, 2, 2, 2), unbiased=2)
    with pytest.raises(ValueError, match=r"x: .*\(4, 0, 2, 2\)"):
        ops.minibatch_stddev(torch.randn(4, 0, 2, 2))


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_a_pending_negation_is_done(backend: str) -> None:
    """conj().imag is the imaginary part's memory and a sign."""
    x, pixel = torch.randn(2, 8, 4, 4), torch.tensor(0.5 - 0.25j).conj().imag
    assert pixel.is_neg()
    got = ops.fade_in(x, 2.0 * x, pixel, backend=backend)
    torch.testing.assert_close(got, reference.fade_in(x, 2.0 * x, 0.25))
    got = ops.bias_act(pixel.view(1, 1, 1, 1), torch.ones(1), bias_scale=-1.0, negative_slope=0.5, backend=backend)
    torch.testing.assert_close(got, torch.full((1, 1, 1, 1), -0.375))
