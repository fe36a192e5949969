"""The Triton kernel of from_rgb_fade_in against the float64 formula, and its bits against the signs there."""

from __future__ import annotations

import grid
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import (
    DTYPES,
    F64,
    FORMATS,
    affine,
    assert_close,
    bits_of,
    blocks,
    leaky,
    must_fail,
    random_tensor,
    shared,
)
from pggan_fast.kernels import from_rgb_fade_in as kernels

from pggan_fast.backends.aten import blend as aten
from pggan_fast.backends.triton import blend

HALF_AND_SINGLE = DTYPES[:3]
SCALES = (0.5, 1.3)  # of the weights and the bias

pytestmark = pytest.mark.usefixtures("poison")


def inputs(n, k, c, h, w, dtype, memory_format=torch.contiguous_format, parameters=None, biased=True):
    """image, high, weight, bias."""
    return (
        random_tensor(n, k, 2 * h, 2 * w, dtype=dtype, memory_format=memory_format),
        random_tensor(n, c, h, w, dtype=dtype, memory_format=memory_format, seed=1),
        random_tensor(c, k, 1, 1, dtype=parameters or dtype),
        random_tensor(c, dtype=parameters or dtype, seed=2) if biased else None,
    )


def low_of(image, weight, bias):
    """The pre-activations, which the bits are about."""
    return affine(F.conv2d(blocks(image).mean((3, 5)), (weight * SCALES[0]).to(image.dtype)), bias, 1.0, SCALES[1])


def formula(alpha, slope=0.2):
    a = min(max(torch.tensor(alpha).item(), 0.0), 1.0)
    return lambda image, high, weight, bias: (1 - a) * leaky(low_of(image, weight, bias), slope) + a * high


def run(args, alpha=0.3, slope=0.2):
    return blend.from_rgb_fade_in_forward(*args, torch.tensor(alpha), *SCALES, slope)


def check_mask(mask, image, high, weight, bias):
    v = low_of(*(t if t is None else t.to(F64) for t in (image, weight, bias)))
    assert mask.shape == (high.shape[0], (high.shape[1] + 7) // 8, *high.shape[2:])
    assert not v.numel() or (v[bits_of(mask, high.shape[1]) != (v > 0)].abs() < 1e-5).all()


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("c", [1, 8, 17, 64])
def test_forward(c, k, memory_format, dtype):
    cases = ((1, 0.3, 0.2, None), (5, 0.0, 0.0, torch.float32), (5, 1.0, 0.2, None), (4, -1.7, 1.0, torch.float32))
    for size, alpha, slope, parameters in shared(dtype, cases, (c, k, memory_format)):
        args = inputs(2, k, c, size, size + 1, dtype, memory_format, parameters)
        y, mask = run(args, alpha, slope)
        assert_close(y, formula(alpha, slope), *args)
        check_mask(mask, *args)
        assert y.stride() == grid.expected_strides(y.shape, args[0])
        assert mask.stride() == grid.expected_strides(mask.shape, args[0])
        assert alpha < 1.0 or torch.equal(y, args[1])


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("c", [512, 700])
def test_many_channels(c, memory_format):
    for h, w in ((1, 70), (2, 3)):
        args = inputs(1, 3, c, h, w, torch.float32, memory_format)
        y, mask = run(args)
        assert_close(y, formula(0.3), *args)
        check_mask(mask, *args)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 3), k=st.integers(1, 4), c=st.integers(1, 80), h=st.integers(1, 5), w=st.integers(1, 40),
    alpha=st.floats(-0.5, 1.5), slope=st.sampled_from((0.0, 0.2, 1.0)), dtype=st.sampled_from(HALF_AND_SINGLE),
    biased=st.booleans(), layouts=st.tuples(st.sampled_from(grid.LAYOUTS), st.sampled_from(grid.LAYOUTS)),
)  # fmt: skip
def test_any_shape_and_layout(n, k, c, h, w, alpha, slope, dtype, biased, layouts):
    image, high, *parameters = inputs(n, k, c, h, w, dtype, biased=biased)
    args = grid.arrange(image, layouts[0]), grid.arrange(high, layouts[1]), *parameters
    y, mask = run(args, alpha, slope)
    assert_close(y, formula(alpha, slope), *args)
    check_mask(mask, *args)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, of 0 * inf
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, float("nan")])
def test_what_is_not_a_number_spreads_as_in_torch(alpha):
    args = inputs(2, 3, 9, 2, 3, torch.float32)
    args[0][0, 1, 0, 0], args[1][1, 2, 1, 1] = float("nan"), float("inf")
    got, want = run(args, alpha), aten.from_rgb_fade_in_forward(*args, torch.tensor(alpha), *SCALES, 0.2)
    torch.testing.assert_close(got[0], want[0], equal_nan=True)
    assert torch.equal(got[1], want[1])


def test_five_image_channels_are_refused():
    assert "at most 4 channels, got 5" in blend._unsupported_from_rgb(*inputs(1, 5, 4, 1, 1, torch.float32))
    assert blend._unsupported_from_rgb(*inputs(1, 4, 4, 1, 1, torch.float32)) is None


@triton.jit
def reversed_bits(v, P: tl.constexpr, BLOCK: tl.constexpr):
    bits = tl.reshape((v > 0).to(tl.int32), (P, BLOCK // 8, 8)) << (7 - tl.arange(0, 8))[None, None, :]
    return tl.sum(bits, axis=2).to(tl.uint8)


@triton.jit
def linear(v, SLOPE: tl.constexpr):
    return v


def test_faults_are_caught(monkeypatch):
    args = inputs(2, 3, 16, 2, 3, torch.float32)
    must_fail(run(args, 0.301)[0], formula(0.3), *args)
    must_fail(run(args, slope=0.19)[0], formula(0.3), *args)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "leaky", linear)
        must_fail(run(args)[0], formula(0.3), *args)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "packed_signs", reversed_bits)
        mask = run(args)[1]
        with pytest.raises(AssertionError):
            check_mask(mask, *args)
    monkeypatch.setattr(kernels, "tiles", lambda *args: 0)
    y, mask = run(args)
    must_fail(y, formula(0.3), *args)
    with pytest.raises(AssertionError):
        check_mask(mask, *args)
