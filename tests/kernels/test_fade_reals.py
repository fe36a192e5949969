"""The Triton kernel of fade_reals against the float64 formula."""

from __future__ import annotations

import grid
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, FORMATS, assert_close, blocks, must_fail, random_tensor, up2
from pggan_fast.kernels import fade_reals as kernels

from pggan_fast.backends.aten import blend as aten
from pggan_fast.backends.triton import blend

HALF_AND_SINGLE = DTYPES[:3]
ALPHAS = (0.0, 0.3, 1.0, -0.5, 1.7)
SHAPES = ((3, 1, 1), (3, 4, 5), (17, 3, 2), (1, 7, 3), (16, 2, 40), (700, 1, 1), (3, 2, 200))

pytestmark = pytest.mark.usefixtures("poison")


def formula(alpha):
    a = min(max(torch.tensor(alpha).item(), 0.0), 1.0)
    return lambda x: (1 - a) * up2(blocks(x).mean((3, 5))) + a * x


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, memory_format, dtype):
    c, h, w = shape
    image = random_tensor(2, c, 2 * h, 2 * w, dtype=dtype, memory_format=memory_format)
    for alpha in ALPHAS:
        out = blend.fade_image(image, torch.tensor(alpha))
        assert_close(out, formula(alpha), image)
        assert out.stride() == grid.expected_strides(out.shape, image)
        assert alpha < 1.0 or torch.equal(out, image)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 3), c=st.integers(1, 40), h=st.integers(1, 9), w=st.integers(1, 70), alpha=st.floats(-0.5, 1.5),
    dtype=st.sampled_from(HALF_AND_SINGLE), layout=st.sampled_from(grid.LAYOUTS),
)  # fmt: skip
def test_any_shape_and_layout(n, c, h, w, alpha, dtype, layout):
    image = grid.arrange(random_tensor(n, c, 2 * h, 2 * w, dtype=dtype), layout)
    assert_close(blend.fade_image(image, torch.tensor(alpha)), formula(alpha), image)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, of 0 * inf
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("alpha", [*ALPHAS, float("nan")])
def test_what_is_not_a_number_spreads_as_in_torch(alpha, memory_format):
    image = random_tensor(2, 3, 4, 6, memory_format=memory_format)
    image[0, 0, 1, 1], image[0, 1, 2, 0] = float("nan"), float("inf")
    got, want = (f(image, torch.tensor(alpha)) for f in (blend.fade_image, aten.fade_reals))
    torch.testing.assert_close(got, want, equal_nan=True)


@triton.jit
def not_clamped(alpha):
    return tl.load(alpha)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_faults_are_caught(monkeypatch, memory_format):
    image, alpha = random_tensor(2, 3, 4, 6, memory_format=memory_format), torch.tensor(0.3)
    out = blend.fade_image(image, alpha)
    must_fail(out, lambda x: 0.7 * up2(x[:, :, ::2, ::2]) + 0.3 * x, image)
    must_fail(blend.fade_image(image, alpha + 1e-3), formula(0.3), image)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "tiles", lambda *args: 0)
        must_fail(blend.fade_image(image, alpha), formula(0.3), image)
    monkeypatch.setattr(kernels, "blend_weight", not_clamped)
    must_fail(blend.fade_image(image, torch.tensor(1.7)), formula(1.7), image)
