"""to_rgb_fade_in of every backend against the float64 reference."""

from __future__ import annotations

import grid
import pytest
import torch

AXES = {
    **grid.COMMON,
    "cin": grid.CONVOLVED,
    "cout": grid.CONVOLVED,  # channels of x_low and of x_high
    "other_layout": grid.LAYOUTS,
    "image_channels": (3, 1, 4),
    "alpha": (0.3125, 0.0, 1.0),
    "bias": (None, "same", "float32"),
    "weights": ("same", "float32"),
    **grid.COTANGENT,
}


def elements(case: grid.Case) -> float:
    h, w = grid.size_of(case)
    return case["batch"] * 4 * h * w * (case["cin"] + case["cout"])


CASES = grid.covers(AXES, elements, 3e6, times=1)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    numbers = grid.Numbers(case, seed, kinked=False)
    n, low, high, k = case["batch"], case["cin"], case["cout"], case["image_channels"]
    h, w = grid.size_of(case)
    wide = torch.float32 if case["weights"] == "float32" and case["dtype"] in grid.HALF else None
    inputs = {
        "x_low": numbers.tensor(n, low, h, w),
        "x_high": grid.arrange(numbers.tensor(n, high, 2 * h, 2 * w), case["other_layout"]),
        "w_low": numbers.tensor(k, low, 1, 1, dtype=wide),
        "b_low": numbers.bias(case["bias"], k, 1.0),
        "w_high": numbers.tensor(k, high, 1, 1, dtype=wide),
        "b_high": numbers.bias(case["bias"], k, 1.0),
    }
    options = {
        "alpha": case["alpha"],
        "weight_scale_low": numbers.scale(low, True),
        "weight_scale_high": numbers.scale(high, True),
        "bias_scale_low": 0.5,
        "bias_scale_high": 0.75,
    }
    data = ["x_low", "x_high"]
    grid.check("to_rgb_fade_in", inputs, options, backend, data=data, seed=seed, cotangent=case["cotangent"])
