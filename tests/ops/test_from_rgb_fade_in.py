"""from_rgb_fade_in of every backend against the float64 reference."""

from __future__ import annotations

import grid
import pytest
import torch

from pggan_fast import ops

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


@pytest.mark.parametrize(
    ("name", "bad", "told"),
    [
        ("image", torch.ones(2, 3, 4), "image: expected"),
        ("high", torch.ones(2, 5, 4), "high: expected"),
        ("image", torch.ones(2, 3, 7, 8), "image: from_rgb_fade_in needs even"),
        ("w_low", torch.ones(5, 3, 3, 3), "w_low: expected"),
        ("w_low", torch.ones(5, 4, 1, 1), "w_low: expected .*image"),
        ("b_low", torch.ones(4), "b_low: expected"),
        ("b_low", torch.ones(5, dtype=torch.float64), "b_low, image: expected one dtype"),
    ],
)
def test_errors_name_the_argument(name: str, bad: torch.Tensor, told: str) -> None:
    right = {
        "image": torch.ones(2, 3, 8, 8), "high": torch.ones(2, 5, 4, 4), "w_low": torch.ones(5, 3, 1, 1),
        "b_low": torch.ones(5),
    }  # fmt: skip
    options = {"alpha": 0.5, "weight_scale": 1.0, "negative_slope": 0.2}
    assert ops.from_rgb_fade_in(**right, **options).shape == (2, 5, 4, 4)
    with pytest.raises((TypeError, ValueError), match=f"^{told}"):
        ops.from_rgb_fade_in(**{**right, name: bad}, **options)
