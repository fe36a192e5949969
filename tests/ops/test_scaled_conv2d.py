"""scaled_conv2d of every backend against the float64 reference: outputs, gradients, second order."""

from __future__ import annotations

import math
from typing import Any

import grid
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pggan_fast import ops, reference
from pggan_fast.backends.triton.availability import interpreted

AXES = {
    **grid.COMMON,
    "cin": grid.CONVOLVED,
    "cout": grid.CONVOLVED,
    "k": (1, 3),
    "resample": grid.RESAMPLE,
    **grid.EPILOGUE,
    "weights": ("same", "float32"),
    **grid.COTANGENT,
}


def sizes(case: grid.Case) -> tuple[int, int]:
    """Height and width of x; `size` is that of the smaller side of the layer."""
    factor = 2 if case["resample"] in ("down", "pool") else 1
    h, w = grid.size_of(case)
    return factor * h, factor * w


def beyond_cuda(case: grid.Case) -> bool:
    """Whether the summed weights of such a layer are larger than the shared memory of the CUDA kernels."""
    resampled = case["k"] == 3 and case["resample"] in ("up", "down")
    return resampled and case["dtype"] == torch.float32 and min(case["cin"], case["cout"]) > 32


def products(case: grid.Case) -> float:
    if grid.is_singular(case) or (grid.EMULATED and beyond_cuda(case)):
        return math.inf
    h, w = sizes(case)
    return case["batch"] * case["cin"] * case["cout"] * case["k"] ** 2 * h * w * (4 if case["resample"] == "up" else 1)


# Every pair of values in each kind of process; where kernels run slowly, in smaller company
CASES = grid.covers(AXES, products, 6e5 if interpreted() else 4e6 if grid.EMULATED else 1.6e8, times=3)


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
@pytest.mark.parametrize("seed", grid.numbered(CASES))
@pytest.mark.usefixtures("poison")
def test_grid(backend: str, seed: int) -> None:
    case = CASES[seed]
    inputs, options = arguments(case, seed)
    grid.check("scaled_conv2d", inputs, options, backend, data=["x"], seed=seed, cotangent=case["cotangent"])


@settings(max_examples=25)
@given(
    n=st.integers(0, 3),
    cin=st.integers(1, 19),
    cout=st.integers(1, 19),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    k=st.sampled_from([1, 3]),
    dtype=st.sampled_from(grid.DTYPES),
    memory=st.sampled_from(grid.LAYOUTS),
    resample=st.sampled_from(grid.RESAMPLE),
    slope=st.sampled_from(grid.SLOPES),
    norm=st.sampled_from(grid.NORMS),
    bias=st.sampled_from([None, "same", "float32"]),
    cotangent=st.sampled_from(["same", "nchw", "expanded"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_any_shape(
    backend: str, n: int, cin: int, cout: int, height: int, width: int, k: int, dtype: torch.dtype, memory: str,
    resample: str, slope: float | None, norm: str, bias: str | None, cotangent: str, seed: int,
) -> None:  # fmt: skip
    factor = 2 if resample in ("down", "pool") else 1
    numbers = grid.Numbers({"dtype": dtype, "layout": memory}, seed, grid.is_kinked(slope))
    scale = numbers.scale(cin * k * k, bias is not None)
    inputs = {
        "x": numbers.tensor(n, cin, factor * height, factor * width),
        "weight": numbers.tensor(cout, cin, k, k),
        "bias": numbers.bias(bias, cout, 2.0 * scale),
    }
    options = {
        "weight_scale": scale, "bias_scale": 0.5, "resample": resample, "negative_slope": slope, "pixel_norm": norm,
        "eps": 16.0 if cout == 1 else 0.25,
    }  # fmt: skip
    grid.check("scaled_conv2d", inputs, options, backend, data=["x"], seed=seed, cotangent=cotangent)


# float32 parameters beside half-precision data

halves = pytest.mark.parametrize("dtype", grid.HALF)
backends = pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)


@backends
@halves
@pytest.mark.parametrize("resample", grid.RESAMPLE)
@pytest.mark.parametrize("k", [1, 3])
def test_parameter_gradients_have_no_half_rounding(backend: str, k: int, resample: str, dtype: torch.dtype) -> None:
    """A linear layer's dW and db are sums of exact products: they reach float32's accuracy, far below half's eps."""
    x, w, b = torch.randn(2, 5, 8, 6).to(dtype), torch.randn(7, 5, k, k), torch.randn(7)
    parameters = [w.requires_grad_(), b.requires_grad_()]
    options = {"weight_scale": 0.3, "bias_scale": 0.7, "resample": resample}
    y = ops.scaled_conv2d(x, w, b, **options, backend=backend)
    dy = torch.randn(y.shape).to(dtype)
    got = torch.autograd.grad(y, parameters, dy)
    exact = [p.detach().double().requires_grad_() for p in parameters]
    want = torch.autograd.grad(reference.scaled_conv2d(x.double(), *exact, **options), exact, dy.double())
    rival = torch.autograd.grad(reference.scaled_conv2d(x, w, b, **options), parameters, dy)
    for g, e, half in zip(got, want, rival, strict=True):
        assert g.dtype == torch.float32
        bound = 2e-6 * e.abs().max()
        assert (g - e).abs().max() <= bound
        assert (half - e).abs().max() > 10 * bound  # what a half rounding on the way does


@backends
@halves
def test_phase_sums_are_rounded_once(backend: str, dtype: torch.dtype) -> None:
    """Two taps whose sum is lost if each is rounded first: in odd columns an upsampling layer adds them up.

    Small images go without phase sums, tap by tap: this one is large.
    """
    small = torch.finfo(dtype).eps / 4
    w = torch.zeros(1, 1, 3, 3)
    w[0, 0, 1, :2] = torch.tensor([1.0 + small, -1.0])
    x = torch.ones(1, 1, 32, 32, dtype=dtype)
    y = ops.scaled_conv2d(x, w, weight_scale=1.0, resample="up", backend=backend)
    assert y[0, 0, :, 1::2].float().eq(small).all()
    assert not reference.scaled_conv2d(x, w, weight_scale=1.0, resample="up")[0, 0, :, 1::2].any()


@backends
@halves
def test_outputs_are_rounded_once(backend: str, dtype: torch.dtype) -> None:
    """Sums are float32: 1 + eps/2 * 3 is seen in the output although each addition alone would be lost."""
    eps = torch.finfo(dtype).eps
    x = torch.tensor([1.0, eps / 2, eps / 2, eps]).to(dtype).view(1, 4, 1, 1)
    y = ops.scaled_conv2d(x, torch.ones(1, 4, 1, 1, dtype=dtype), weight_scale=1.0, backend=backend)
    assert y.item() == 1.0 + 2.0 * eps
