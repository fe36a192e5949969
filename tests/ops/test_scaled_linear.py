"""scaled_linear of every backend against the float64 reference."""

from __future__ import annotations

import grid
import pytest
import torch

AXES = {
    "dtype": grid.DTYPES,
    "batch": (1, 3, 16),
    "layout": ("nchw", "sliced", "transposed"),
    "cin": grid.CONVOLVED,
    "cout": grid.CONVOLVED,
    **{k: v for k, v in grid.EPILOGUE.items() if k != "eps_mode"},
    "weights": ("same", "float32"),
    **grid.COTANGENT,
}
CASES = grid.covers(AXES, lambda case: case["cin"] * case["cout"], 1e6, times=2)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    cin, cout = case["cin"], case["cout"]
    # A few outputs are a few sums, which may cancel to a tenth of their terms: exact numbers leave nothing to luck.
    numbers = grid.Numbers(case, seed, grid.is_kinked(case["slope"]) or cout * case["batch"] < 4)
    scale = numbers.scale(cin, case["bias"] is not None)
    wide = case["weights"] == "float32" and case["dtype"] in grid.HALF
    inputs = {
        "x": numbers.tensor(case["batch"], cin),
        "weight": numbers.tensor(cout, cin, dtype=torch.float32 if wide else None),
        "bias": numbers.bias(case["bias"], cout, 2.0 * scale),
    }
    options = {
        "weight_scale": scale,
        "bias_scale": 0.5,
        "negative_slope": case["slope"],
        "pixel_norm": case["norm"],
        "eps": grid.eps_of(case),
    }
    grid.check("scaled_linear", inputs, options, backend, data=["x"], seed=seed, cotangent=case["cotangent"])
