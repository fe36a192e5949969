"""The Triton kernels of fade_in and its adjoint against float64 formulas."""

from __future__ import annotations

import grid
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, FORMATS, assert_close, blocks, must_fail, random_tensor, up2
from pggan_fast.kernels import fade_in as kernels
from pggan_fast.kernels.lines import tile_shape

from pggan_fast.backends.aten import blend as aten
from pggan_fast.backends.triton import blend

HALF_AND_SINGLE = DTYPES[:3]
ALPHAS = (0.0, 0.3, 1.0, -0.5, 1.7)
SHAPES = ((3, 1, 1), (3, 4, 5), (17, 3, 2), (1, 7, 3), (16, 2, 40), (700, 1, 1), (3, 2, 200))

pytestmark = pytest.mark.usefixtures("poison")


def clamped(alpha):
    return min(max(torch.tensor(alpha).item(), 0.0), 1.0)


def pair(c, h, w, dtype, memory_format):
    low = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format)
    return low, random_tensor(2, c, 2 * h, 2 * w, dtype=dtype, memory_format=memory_format, seed=1)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, memory_format, dtype):
    low, high = pair(*shape, dtype, memory_format)
    for value in ALPHAS:
        alpha, a = torch.tensor(value), clamped(value)
        out = blend.fade_in_forward(low, high, alpha)
        assert_close(out, lambda x, y, a=a: (1 - a) * up2(x) + a * y, low, high)
        assert out.stride() == grid.expected_strides(out.shape, low)
        assert_close(blend.fade_in_forward(up2(low), high, alpha), lambda o: o, out)
        assert 0.0 < a < 1.0 or torch.equal(out, high if a else up2(low))


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward(shape, memory_format, dtype):
    dy = pair(*shape, dtype, memory_format)[1]
    for value in ALPHAS:
        alpha, a = torch.tensor(value), clamped(value)
        dlow, dhigh = blend.fade_in_backward(dy, alpha, True)
        assert_close(dlow, lambda g, a=a: (1 - a) * blocks(g).sum((3, 5)), dy)
        assert_close(dhigh, lambda g, a=a: a * g, dy)
        dlow, dhigh = blend.fade_in_backward(dy, alpha, False)
        assert_close(dlow, lambda g, a=a: (1 - a) * g, dy)
        assert_close(dhigh, lambda g, a=a: a * g, dy)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 3), c=st.integers(1, 40), h=st.integers(1, 9), w=st.integers(1, 70), value=st.floats(-0.5, 1.5),
    dtype=st.sampled_from(HALF_AND_SINGLE), memory_format=st.sampled_from(FORMATS),
)  # fmt: skip
def test_any_shape(n, c, h, w, value, dtype, memory_format):
    low = random_tensor(n, c, h, w, dtype=dtype, memory_format=memory_format)
    high = random_tensor(n, c, 2 * h, 2 * w, dtype=dtype, memory_format=memory_format, seed=1)
    alpha, a = torch.tensor(value), clamped(value)
    assert_close(blend.fade_in_forward(low, high, alpha), lambda x, y: (1 - a) * up2(x) + a * y, low, high)
    dlow, dhigh = blend.fade_in_backward(high, alpha, True)
    assert_close(dlow, lambda g: (1 - a) * blocks(g).sum((3, 5)), high)
    assert_close(dhigh, lambda g: a * g, high)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("of_low", grid.LAYOUTS)
@pytest.mark.parametrize("of_high", grid.LAYOUTS)
def test_layouts(of_low, of_high, dtype):
    """Strided views, with NaN between their elements, and two tensors that disagree: the first one decides."""
    low, high = pair(3, 3, 5, dtype, torch.contiguous_format)
    low, high = grid.arrange(low, of_low), grid.arrange(high, of_high)
    out = blend.fade_in_forward(low, high, torch.tensor(0.3))
    assert torch.equal(out, aten.fade_in_forward(low, high, torch.tensor(0.3)))
    assert out.stride() == grid.expected_strides(out.shape, low)
    assert_close(blend.fade_in_backward(high, torch.tensor(0.3), True)[0], lambda g: 0.7 * blocks(g).sum((3, 5)), high)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, of 0 * inf
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("value", [*ALPHAS, float("nan")])
def test_what_is_not_a_number_spreads_as_in_torch(value, up):
    low, high = pair(3, 2, 3, torch.float32, torch.contiguous_format)
    low[0, 0, 0, 0], low[0, 1, 0, 0], high[0, 2, 0, 0] = float("nan"), float("inf"), float("nan")
    alpha = torch.tensor(value)
    args = (low if up else up2(low), high, alpha)
    torch.testing.assert_close(blend.fade_in_forward(*args), aten.fade_in_forward(*args), equal_nan=True)
    for got, want in zip(blend.fade_in_backward(high, alpha, up), aten.fade_in_backward(high, alpha, up), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("size", [16, 64, 1024])
def test_tiles_are_powers_of_two_and_small_enough(size):
    for wide in range(1, 2100):
        rows, columns = tile_shape(5, wide, size)
        assert rows >= 1
        assert rows * columns <= size
        assert rows & (rows - 1) == columns & (columns - 1) == 0
    assert tile_shape(5, 96, 1024) == (8, 32)
    assert tile_shape(5, 3072, 1024) == (1, 1024)


def test_an_unsupported_dtype_is_named():
    assert "float64" in blend.unsupported(torch.zeros(1, 1, 2, 2, dtype=torch.float64))


@triton.jit
def not_clamped(alpha):
    return tl.load(alpha)


def test_faults_are_caught(monkeypatch):
    low, high = pair(3, 4, 5, torch.float32, torch.channels_last)
    alpha, a = torch.tensor(0.3), clamped(0.3)

    def faded(x, y):
        return (1 - a) * up2(x) + a * y

    must_fail(blend.fade_in_forward(low, high, alpha + 1e-3), faded, low, high)
    must_fail(blend.fade_in_backward(high, alpha, True)[0], lambda g: (1 - a) * blocks(g).mean((3, 5)), high)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "tiles", lambda *args: 0)
        must_fail(blend.fade_in_forward(low, high, alpha), faded, low, high)
    monkeypatch.setattr(kernels, "blend_weight", not_clamped)
    must_fail(blend.fade_in_forward(low, high, torch.tensor(1.7)), lambda x, y: y + 0 * up2(x), low, high)
