"""discriminator_stem of every backend against the float64 reference, in one launch where it has one."""

from __future__ import annotations

from typing import Any

import grid
import pytest
import torch
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.models import Discriminator
from pggan_fast.ops import Scaled

# Triton's interpreter is slow, and runs no more than the parts, which have grids of their own.
BACKENDS = [name for name in grid.BACKENDS_UNDER_TEST if name != "triton"]
AXES = {
    **grid.COMMON,
    "cin": grid.CONVOLVED,
    "cout": grid.CONVOLVED,
    "image_channels": (3, 1, 4),
    "slope": grid.SLOPES,
    "bias": (None, "same", "float32"),
    "weights": ("same", "float32"),
}


def products(case: grid.Case) -> float:
    h, w = grid.size_of(case)
    return case["batch"] * case["cin"] * 9 * case["cout"] * h * w


CASES = grid.covers(AXES, products, 8e6, times=1)


def caller(stem: Any) -> Any:
    def call(image: Tensor, w_rgb: Tensor, b_rgb: Tensor, w: Tensor, b: Tensor, scales: Any, **rest: Any) -> Tensor:
        y: Tensor = stem(image, Scaled(w_rgb, b_rgb, scales[0], 0.5), Scaled(w, b, scales[1], 0.75), **rest)
        return y

    return call


BOTH = caller(ops.discriminator_stem), caller(reference.discriminator_stem)


def arguments(case: grid.Case, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    numbers = grid.Numbers(case, seed, kinked=False)
    cin, cout, k = case["cin"], case["cout"], case["image_channels"]
    wide = torch.float32 if case["weights"] == "float32" and case["dtype"] in grid.HALF else None
    inputs = {
        "image": numbers.tensor(case["batch"], k, *grid.size_of(case)),
        "w_rgb": numbers.tensor(cin, k, 1, 1, dtype=wide),
        "b_rgb": numbers.bias(case["bias"], cin, 1.0),
        "w": numbers.tensor(cout, cin, 3, 3, dtype=wide),
        "b": numbers.bias(case["bias"], cout, 1.0),
    }
    return inputs, {"scales": (numbers.scale(k, True), numbers.scale(9 * cin, True)), "negative_slope": case["slope"]}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    inputs, options = arguments(CASES[seed], seed)
    grid.check(BOTH, inputs, options, backend, data=["image"], seed=seed, gradients=False)


SMALL = {
    "batch": 2, "cin": 5, "cout": 4, "size": 3, "narrow": False, "image_channels": 3, "bias": "same",
    "dtype": torch.float64, "layout": "channels_last", "weights": "same", "slope": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("backend", grid.DOUBLE_BACKENDS)
def test_gradients_are_those_of_the_parts(backend: str) -> None:
    grid.check(BOTH, *arguments(SMALL, 0), backend, data=["image"], seed=0)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"image": torch.randn(2, 4, 3, 3)}, ValueError, r"from_rgb.weight: expected 4 input channels"),
        ({"from_rgb": None}, TypeError, r"from_rgb: expected an ops.Scaled, got NoneType"),
        ({"conv": Scaled(torch.randn(4, 6, 3, 3))}, ValueError, r"conv.weight: expected 5 input channels"),
        ({"negative_slope": 2.0}, ValueError, r"negative_slope: expected a number in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], told: str) -> None:
    given = {
        "image": torch.randn(2, 3, 3, 3), "from_rgb": Scaled(torch.randn(5, 3, 1, 1)),
        "conv": Scaled(torch.randn(4, 5, 3, 3)), **change,
    }  # fmt: skip
    with pytest.raises(error, match=told):
        ops.discriminator_stem(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_the_discriminator_scores_by_its_stem(backend: str, alpha: float) -> None:
    """Same scores, whether its first layers go as one op or one by one; a hook on a layer is called."""
    D = Discriminator(16, fmap_base=64, fmap_max=8)
    image = torch.randn(2, 3, 16, 16)
    for name, module in D.named_modules():
        if hasattr(module, "backend") and "4x4" not in name and name != "stddev":
            module.backend = backend
    want = D(image, alpha=alpha)[0].detach()
    with torch.no_grad():
        torch.testing.assert_close(D(image, alpha=alpha)[0], want, rtol=1e-4, atol=1e-5)
        called: list[int] = []
        D.get_submodule("blocks.16x16.conv").register_forward_hook(lambda *args: called.append(1))
        torch.testing.assert_close(D(image, alpha=alpha)[0], want, rtol=1e-4, atol=1e-5)
    assert called
