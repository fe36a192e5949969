"""from_rgb_fade_in of every backend against the float64 reference."""

from __future__ import annotations

import grid
import pytest
import torch

AXES = {
    **grid.COMMON,
    "channels": grid.CONVOLVED,
    "other_layout": grid.LAYOUTS,
    "image_channels": (3, 1, 4),
    "alpha": (0.3125, 0.0, 1.0),
    "slope": (0.2, 1.0, 0.0),
    "bias": (None, "same", "float32"),
    "weights": ("same", "float32"),
    **grid.COTANGENT,
}


def elements(case: grid.Case) -> float:
    h, w = grid.size_of(case)
    return case["batch"] * h * w * case["channels"]


CASES = grid.covers(AXES, elements, 3e5, times=1)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    numbers = grid.Numbers(case, seed, grid.is_kinked(case["slope"]))
    n, c, k = case["batch"], case["channels"], case["image_channels"]
    h, w = grid.size_of(case)
    scale = numbers.scale(k, case["bias"] is not None)
    wide = torch.float32 if case["weights"] == "float32" and case["dtype"] in grid.HALF else None
    inputs = {
        "image": numbers.tensor(n, k, 2 * h, 2 * w),
        "high": grid.arrange(numbers.tensor(n, c, h, w), case["other_layout"]),
        "w_low": numbers.tensor(c, k, 1, 1, dtype=wide),
        "b_low": numbers.bias(case["bias"], c, 2.0 * scale),
    }
    options = {
        "alpha": case["alpha"], "weight_scale": scale, "bias_scale": 0.5, "negative_slope": case["slope"]
    }  # fmt: skip
    data = ["image", "high"]
    grid.check("from_rgb_fade_in", inputs, options, backend, data=data, seed=seed, cotangent=case["cotangent"])
