"""minibatch_stddev of every backend against the float64 reference."""

from __future__ import annotations

import math

import grid
import pytest
import torch

from pggan_fast import ops

AXES = {
    **{k: v for k, v in grid.COMMON.items() if k != "batch"},
    "channels": grid.CHANNELS,
    "batch": ((4, 4), (8, 4), (3, 4), (6, 2), (1, 4), (5, 1), (6, 3)),  # samples, group_size
    "grouping": ("strided", "adjacent"),
    "unbiased": (False, True),
    **grid.COTANGENT,
}


def shape_of(case: grid.Case) -> tuple[int, ...]:
    return case["batch"][0], case["channels"], *grid.size_of(case)


def elements(case: grid.Case) -> float:
    undefined = case["unbiased"] and min(case["batch"]) == 1
    return math.inf if undefined else math.prod(shape_of(case))


# Pairs that are undefined by themselves are left out of the axis: groups of one sample come with unbiased=False.
GROUPS = [batch for batch in AXES["batch"] if min(batch) > 1]
CASES = grid.covers({**AXES, "batch": GROUPS}, elements, 1.1e6, times=1) + grid.covers(
    {**AXES, "batch": [b for b in AXES["batch"] if min(b) == 1], "unbiased": (False,)}, elements, 3e5, times=1
)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    inputs = {"x": grid.Numbers(case, seed, kinked=False).tensor(*shape_of(case))}
    # Small deviations magnify roundings by 1 / sqrt(eps) in the second order: groups of two have many of them
    options = {"group_size": case["batch"][1], "grouping": case["grouping"], "unbiased": case["unbiased"], "eps": 0.01}
    grid.check("minibatch_stddev", inputs, options, backend, data=["x"], seed=seed, cotangent=case["cotangent"])


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_equal_samples_have_no_deviation_and_finite_gradients(backend: str) -> None:
    x = torch.randn(1, 3, 4, 4).repeat(4, 1, 1, 1).requires_grad_()
    y = ops.minibatch_stddev(x, eps=1e-8, backend=backend)
    torch.testing.assert_close(y[:, 3], torch.full((4, 4, 4), 1e-4))
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.square().sum(), x)
    assert dx.isfinite().all()
    assert second.isfinite().all()
