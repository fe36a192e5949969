"""fade_in of every backend against the float64 reference, and its exact ends."""

from __future__ import annotations

import grid
import pytest
import torch

from pggan_fast import ops, reference

ALPHAS = (0.0, 0.3125, 1.0, -0.5, 1.5)  # exact in float32, as alpha is

AXES = {
    **grid.COMMON,
    "channels": grid.CHANNELS,
    "other_layout": grid.LAYOUTS,
    "up": (True, False),
    "alpha": ALPHAS,
    "as_tensor": (False, True),
    **grid.COTANGENT,
}


def shapes(case: grid.Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    h, w = grid.size_of(case)
    n, c, factor = case["batch"], case["channels"], 2 if case["up"] else 1
    return (n, c, h, w), (n, c, factor * h, factor * w)


def elements(case: grid.Case) -> float:
    n, c, h, w = shapes(case)[1]
    return n * c * h * w


CASES = grid.covers(AXES, elements, 1.1e6, times=1)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    numbers = grid.Numbers(case, seed, kinked=False)
    low, high = shapes(case)
    inputs = {"low": numbers.tensor(*low), "high": grid.arrange(numbers.tensor(*high), case["other_layout"])}
    alpha = torch.tensor(case["alpha"]) if case["as_tensor"] else case["alpha"]
    grid.check(
        "fade_in", inputs, {"alpha": alpha}, backend, data=["low", "high"], seed=seed, cotangent=case["cotangent"]
    )


@pytest.mark.parametrize(("backend", "dtype"), grid.RUNNABLE)
@pytest.mark.parametrize("up", [True, False])
def test_ends_are_exact(backend: str, dtype: torch.dtype, up: bool) -> None:
    low = torch.randn(2, 5, 3, 4).to(dtype)
    high = torch.randn(2, 5, 6, 8).to(dtype) if up else torch.randn(2, 5, 3, 4).to(dtype)
    assert torch.equal(ops.fade_in(low, high, 1.0, backend=backend), high)
    assert torch.equal(ops.fade_in(low, high, 0.0, backend=backend), reference.up2(low) if up else low)
