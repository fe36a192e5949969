"""generator_stage of every backend against the float64 reference, in one launch where it has one."""

from __future__ import annotations

from typing import Any

import grid
import pytest
import torch
from torch import Tensor

from pggan_fast import BackendUnavailable, ops, reference
from pggan_fast.models import Generator
from pggan_fast.ops import Scaled

# Triton's interpreter is slow, and runs no more than the parts, which have grids of their own.
BACKENDS = [name for name in grid.BACKENDS_UNDER_TEST if name != "triton"]
AXES = {
    **grid.COMMON,
    "size": (1, 2, 4, 7, 8, 17),  # of x; a block takes tiles of up to 30 pixels of the output
    "cin": tuple(c for c in grid.CONVOLVED if c <= 128),
    "cout": tuple(c for c in grid.CONVOLVED if c <= 128),
    "shows": ("features", "image", "blend"),
    "image_channels": (3, 1, 4),
    "alpha": (0.3125, 0.0, 1.0),
    **grid.EPILOGUE,
    "weights": ("same", "float32"),
}


def products(case: grid.Case) -> float:
    h, w = grid.size_of(case)
    return case["batch"] * case["cout"] * (16 * case["cin"] + 36 * case["cout"]) * h * w


CASES = grid.covers(AXES, products, 5e7, times=1)


def arguments(case: grid.Case, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors by name, and options that both ways of calling take. eps is large: a pixel may be nearly zero."""
    numbers = grid.Numbers(case, seed, kinked=False)
    cin, cout, k = case["cin"], case["cout"], case["image_channels"]
    wide = torch.float32 if case["weights"] == "float32" and case["dtype"] in grid.HALF else None
    inputs: dict[str, Tensor | None] = {"x": numbers.tensor(case["batch"], cin, *grid.size_of(case))}
    shapes = {"up": (cout, cin, 3, 3), "conv": (cout, cout, 3, 3), "high": (k, cout, 1, 1), "low": (k, cin, 1, 1)}
    layers = {"features": 2, "image": 3, "blend": 4}[case["shows"]]
    for name, shape in list(shapes.items())[:layers]:
        inputs[f"w_{name}"] = numbers.tensor(*shape, dtype=wide)
        inputs[f"b_{name}"] = numbers.bias(case["bias"], shape[0], 1.0)
    scales = {name: numbers.scale(c * t * t, True) for name, (_, c, t, _) in shapes.items()}
    options = {
        "scales": scales,
        "alpha": case["alpha"],
        "negative_slope": case["slope"],
        "pixel_norm": case["norm"],
        "eps": 0.25,
        "eps_mode": case["eps_mode"],
    }
    return inputs, options


def caller(stage: Any) -> Any:
    def call(x: Tensor, scales: dict[str, float], **rest: Any) -> Tensor:
        layers = [
            Scaled(rest.pop(f"w_{name}"), rest.pop(f"b_{name}"), scale, 0.5)
            for name, scale in scales.items()
            if f"w_{name}" in rest
        ]
        y: Tensor = stage(x, *layers, **rest)
        return y

    return call


BOTH = caller(ops.generator_stage), caller(reference.generator_stage)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    inputs, options = arguments(case, seed)
    if grid.EMULATED and case["dtype"] == torch.float32 and min(case["cin"], case["cout"]) > 32:
        with pytest.raises(BackendUnavailable, match="more shared memory than the device has"):
            grid.check(BOTH, inputs, options, backend, data=["x"], seed=seed, gradients=False)
        return
    grid.check(BOTH, inputs, options, backend, data=["x"], seed=seed, gradients=False)


SMALL = {
    "batch": 2, "cin": 5, "cout": 4, "size": 3, "narrow": False, "image_channels": 3, "shows": "blend", "bias": "same",
    "dtype": torch.float32, "layout": "channels_last", "weights": "same", "slope": 0.2, "norm": "after_act",
    "eps_mode": "inside", "alpha": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("backend", grid.DOUBLE_BACKENDS)
def test_gradients_are_those_of_the_parts(backend: str) -> None:
    inputs, options = arguments({**SMALL, "dtype": torch.float64}, 0)
    grid.check(BOTH, inputs, options, backend, data=["x"], seed=0)


def call(**change: Any) -> Tensor:
    inputs, options = arguments(SMALL, 0)
    layers = [Scaled(inputs[f"w_{n}"], inputs[f"b_{n}"], 0.3) for n in options["scales"]]  # type: ignore[arg-type]
    given = dict(zip(("conv_up", "conv", "to_rgb", "to_rgb_low"), layers, strict=True))
    return ops.generator_stage(**{"x": inputs["x"], **given, **change})


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"x": torch.randn(2, 4, 3, 3)}, ValueError, r"conv_up.weight: expected 4 input channels"),
        ({"conv_up": Scaled(torch.randn(4, 4, 3, 3))}, ValueError, r"expected 5 input channels as x has"),
        ({"conv": Scaled(torch.randn(4, 5, 3, 3))}, ValueError, r"expected 4 input channels as conv_up's output has"),
        ({"conv": Scaled(torch.randn(4, 4, 3, 3).half())}, TypeError, r"conv.weight of float16 and x of float32"),
        ({"x": None}, TypeError, "x: expected a tensor, got NoneType"),
        ({"conv_up": torch.randn(4, 5, 3, 3)}, TypeError, r"conv_up: expected an ops.Scaled, got Tensor"),
        ({"conv": None}, TypeError, r"conv: expected an ops.Scaled, got NoneType"),
        ({"conv": Scaled(torch.randn(3, 4, 3, 3))}, ValueError, r"conv.weight: expected 4 output channels, got 3"),
        ({"conv": Scaled(torch.randn(4, 4, 1, 1))}, ValueError, r"conv.weight: expected a 3x3 kernel, got 1x1"),
        ({"to_rgb": Scaled(torch.randn(2, 4, 1, 1))}, ValueError, r"to_rgb_low.weight: expected 2 output channels"),
        ({"to_rgb": None}, ValueError, "to_rgb_low: expected None.* no image, got a layer"),
        ({"conv": Scaled(torch.randn(4, 4, 3, 3), torch.randn(3))}, ValueError, r"conv.bias: expected 4 elements"),
        ({"conv": Scaled(torch.randn(4, 4, 3, 3), None, float("nan"))}, ValueError, r"conv.weight_scale: expected"),
        ({"alpha": "half"}, ValueError, "alpha: expected a number"),
        ({"eps": -1.0}, ValueError, "eps: expected"),
        ({"backend": "cudnn"}, ValueError, "backend: expected"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call(**change)


def test_a_backend_that_lacks_the_parts_says_so() -> None:
    missing = next(name for name in ("triton", "cuda") if name not in grid.BACKENDS_UNDER_TEST)
    with pytest.raises(BackendUnavailable, match=f"backend='{missing}' cannot run"):
        call(backend=missing)


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_the_generator_samples_by_stages(backend: str, alpha: float) -> None:
    """Same images, whether its blocks go as one op or layer by layer; a hook on a layer is called."""
    G = Generator(16, latent_dim=8, fmap_base=64, fmap_max=8)
    z = torch.randn(2, 8)
    for name, module in G.named_modules():
        if hasattr(module, "backend") and "4x4" not in name:
            module.backend = backend
    want = G(z, alpha=alpha).detach()
    with torch.no_grad():
        torch.testing.assert_close(G(z, alpha=alpha), want, rtol=1e-4, atol=1e-5)
        called: list[int] = []
        G.get_submodule("blocks.16x16.conv").register_forward_hook(lambda *args: called.append(1))
        torch.testing.assert_close(G(z, alpha=alpha), want, rtol=1e-4, atol=1e-5)
    assert called
