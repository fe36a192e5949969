"""fade_reals of every backend against the float64 reference."""

from __future__ import annotations

import grid
import pytest
import torch

from pggan_fast import ops

AXES = {**grid.COMMON, "channels": (1, 3, 4, 16), "alpha": (0.0, 0.3125, 1.0, -0.5, 1.5), **grid.COTANGENT}


def shape_of(case: grid.Case) -> tuple[int, ...]:
    h, w = grid.size_of(case)
    return case["batch"], case["channels"], 2 * h, 2 * w


CASES = grid.covers(AXES, lambda case: 1.0, 2.0, times=1)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    inputs = {"image": grid.Numbers(case, seed, kinked=False).tensor(*shape_of(case))}
    options = {"alpha": case["alpha"]}
    grid.check("fade_reals", inputs, options, backend, data=["image"], seed=seed, cotangent=case["cotangent"])


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_alpha_one_leaves_the_images(backend: str) -> None:
    image = torch.randn(2, 3, 6, 8)
    assert torch.equal(ops.fade_reals(image, 1.0, backend=backend), image)
