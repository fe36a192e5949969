"""pixel_norm of every backend against the float64 reference."""

from __future__ import annotations

import math

import grid
import pytest
import torch

from pggan_fast import ops

AXES = {**grid.COMMON, "channels": grid.CHANNELS, "ndim": (4, 2), **grid.COTANGENT}


def shape_of(case: grid.Case) -> tuple[int, ...]:
    if case["ndim"] == 2:
        return case["batch"], case["channels"]
    return case["batch"], case["channels"], *grid.size_of(case)


CASES = grid.covers(AXES, lambda case: math.prod(shape_of(case)), 3e5, times=1)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    inputs = {"x": grid.Numbers(case, seed, kinked=False).tensor(*shape_of(case))}
    options = {"eps": grid.eps_of({"bias": None, **case})}
    grid.check("pixel_norm", inputs, options, backend, data=["x"], seed=seed, cotangent=case["cotangent"])


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("dtype", grid.HALF)
def test_sums_of_squares_do_not_overflow_in_half_precision(backend: str, dtype: torch.dtype) -> None:
    x = torch.full((1, 8, 2, 2), 1000.0, dtype=dtype)
    torch.testing.assert_close(ops.pixel_norm(x, backend=backend), torch.ones_like(x))


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("dtype", grid.HALF)
def test_eps_is_not_lost_in_half_precision(backend: str, dtype: torch.dtype) -> None:
    x = torch.zeros(1, 8, 2, 2, dtype=dtype)
    assert not ops.pixel_norm(x, backend=backend).any()
