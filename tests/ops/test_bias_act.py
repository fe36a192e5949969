"""bias_act of every backend against the float64 reference, on the grid and on hypothesis' shapes."""

from __future__ import annotations

import math
from typing import Any

import grid
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pggan_fast import ops, reference

AXES = {
    **grid.COMMON,
    "channels": grid.CHANNELS,
    "ndim": (4, 2),
    "scale": (1.0, 0.7),
    **grid.EPILOGUE,
    **grid.COTANGENT,
}


def shape_of(case: grid.Case) -> tuple[int, ...]:
    if case["ndim"] == 2:
        return case["batch"], case["channels"]
    return case["batch"], case["channels"], *grid.size_of(case)


def elements(case: grid.Case) -> float:
    return math.inf if grid.is_singular(case) else math.prod(shape_of(case))


CASES = grid.covers(AXES, elements, 3e5, times=3)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    numbers = grid.Numbers(case, seed, grid.is_kinked(case["slope"]))
    scale = 0.5 if numbers.kinked and case["scale"] != 1.0 else case["scale"]
    inputs = {
        "x": numbers.tensor(*shape_of(case)),
        "bias": numbers.bias(case["bias"], case["channels"], scale / 0.5),
    }
    options = {
        "scale": scale,
        "bias_scale": 0.5,
        "negative_slope": case["slope"],
        "pixel_norm": case["norm"],
        "eps": grid.eps_of(case),
        "eps_mode": case["eps_mode"],
    }
    grid.check("bias_act", inputs, options, backend, data=["x"], seed=seed, cotangent=case["cotangent"])


@settings(max_examples=40)
@given(
    shape=st.one_of(
        st.tuples(st.integers(0, 3), st.integers(1, 19)),
        st.tuples(st.integers(0, 3), st.integers(1, 19), st.integers(1, 7), st.integers(1, 7)),
    ),
    dtype=st.sampled_from(grid.DTYPES),
    memory=st.sampled_from(grid.LAYOUTS),
    slope=st.sampled_from(grid.SLOPES),
    norm=st.sampled_from(grid.NORMS),
    bias=st.sampled_from([None, "same", "float32"]),
    cotangent=st.sampled_from(["same", "nchw", "expanded"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_any_shape(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, memory: str, slope: float | None, norm: str,
    bias: str | None, cotangent: str, seed: int,
) -> None:  # fmt: skip
    numbers = grid.Numbers({"dtype": dtype, "layout": memory}, seed, grid.is_kinked(slope))
    inputs = {"x": numbers.tensor(*shape), "bias": numbers.bias(bias, shape[1], 1.0)}
    options = {"negative_slope": slope, "pixel_norm": norm, "eps": 16.0 if shape[1] == 1 else 0.25}
    grid.check("bias_act", inputs, options, backend, data=["x"], seed=seed, cotangent=cotangent)


@pytest.mark.parametrize(("backend", "dtype"), grid.RUNNABLE)
@pytest.mark.parametrize("norm", grid.NORMS)
@pytest.mark.parametrize("slope", [1e-6, 1e-300])
def test_a_slope_next_to_zero(backend: str, dtype: torch.dtype, norm: str, slope: float) -> None:
    """float16 loses slope * n, float32 the slope itself; after a norm the gradient needs n all the same."""
    numbers = grid.Numbers({"dtype": dtype, "layout": "nchw"}, 0, True)
    inputs = {"x": numbers.tensor(2, 9, 4, 3), "bias": numbers.bias("same", 9, 1.0)}
    options = {"negative_slope": slope, "pixel_norm": norm, "eps": 0.25}
    grid.check("bias_act", inputs, options, backend, data=["x"], seed=0)
    layer = {"x": inputs["x"], "weight": numbers.tensor(9, 9, 1, 1), "bias": inputs["bias"]}
    for resample in ("up", "pool"):
        there = {**options, "weight_scale": 0.25, "resample": resample}
        x = numbers.tensor(2, 9, 4, 4)
        grid.check("scaled_conv2d", {**layer, "x": x}, there, backend, data=["x"], seed=0)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("norm", ["after_act", "before_act"])
@pytest.mark.parametrize("mode", grid.EPS_MODES)
@pytest.mark.parametrize("slope", grid.SLOPES)
def test_gradient_of_an_all_zero_pixel(backend: str, norm: str, mode: str, slope: float | None) -> None:
    """The norm has a kink there with eps outside the root; the subgradient is the reference's, and finite."""
    options: dict[str, Any] = {"negative_slope": slope, "pixel_norm": norm, "eps_mode": mode, "eps": 1e-4}
    x = torch.zeros(1, 5, 2, 2, requires_grad=True)
    dy = torch.randn(1, 5, 2, 2)
    (got,) = torch.autograd.grad(ops.bias_act(x, **options, backend=backend), x, dy)
    (want,) = torch.autograd.grad(reference.bias_act(x, **options), x, dy)
    torch.testing.assert_close(got, want)
