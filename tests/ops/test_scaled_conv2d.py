"""scaled_conv2d of every backend against the float64 reference: outputs, gradients, second order."""

from __future__ import annotations

import math
from typing import Any

import grid
import pytest
import torch

AXES = {
    **grid.COMMON,
    "cin": grid.CHANNELS,
    "cout": grid.CHANNELS,
    "k": (3, 1),
    "resample": grid.RESAMPLE,
    **grid.EPILOGUE,
    "weights": ("same", "float32"),
    **grid.COTANGENT,
}


def sizes(case: grid.Case) -> tuple[int, int]:
    """Height and width of x; `size` is that of the smaller side of the layer."""
    factor = 2 if case["resample"] in ("down", "pool") else 1
    return factor * case["size"], factor * (max(1, case["size"] // 2) if case["narrow"] else case["size"])


def products(case: grid.Case) -> float:
    if grid.is_singular(case):
        return math.inf
    h, w = sizes(case)
    return case["batch"] * case["cin"] * case["cout"] * case["k"] ** 2 * h * w * (4 if case["resample"] == "up" else 1)


CASES = grid.covers(AXES, products, 1.6e8, times=3)


def arguments(case: grid.Case, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    numbers = grid.Numbers(case, seed, grid.is_kinked(case["slope"]))
    cin, cout, k = case["cin"], case["cout"], case["k"]
    scale = numbers.scale(cin * k * k, case["bias"] is not None)
    wide = case["weights"] == "float32" and case["dtype"] in grid.HALF
    inputs = {
        "x": numbers.tensor(case["batch"], cin, *sizes(case)),
        "weight": numbers.tensor(cout, cin, k, k, dtype=torch.float32 if wide else None),
        "bias": numbers.bias(case["bias"], cout, 2.0 * scale),
    }
    options = {
        "weight_scale": scale,
        "bias_scale": 0.5,
        "resample": case["resample"],
        "negative_slope": case["slope"],
        "pixel_norm": case["norm"],
        "eps": grid.eps_of(case),
        "eps_mode": case["eps_mode"],
    }
    return inputs, options


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", range(len(CASES)), ids=lambda i: grid.name_of(CASES[i]))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    inputs, options = arguments(case, seed)
    grid.check("scaled_conv2d", inputs, options, backend, data=["x"], seed=seed, cotangent=case["cotangent"])
