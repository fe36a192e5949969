"""The Triton kernel of to_rgb_fade_in against the float64 formula."""

from __future__ import annotations

import grid
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, FORMATS, assert_close, must_fail, random_tensor, shared, up2
from pggan_fast.kernels import to_rgb_fade_in as kernels

from pggan_fast.backends.aten import blend as aten
from pggan_fast.backends.triton import blend

HALF_AND_SINGLE = DTYPES[:3]
SCALES = (0.5, 0.7, 1.3, 0.9)  # of the weights and biases: low, high, low, high

pytestmark = pytest.mark.usefixtures("poison")


def inputs(n, k, c_low, c_high, h, w, dtype, memory_format=torch.contiguous_format, parameters=None, biased=True):
    """x_low, x_high, w_low, b_low, w_high, b_high; b_high is always None."""
    bias = random_tensor(k, dtype=parameters or dtype, seed=3) if biased else None
    return (
        random_tensor(n, c_low, h, w, dtype=dtype, memory_format=memory_format),
        random_tensor(n, c_high, 2 * h, 2 * w, dtype=dtype, memory_format=memory_format, seed=1),
        random_tensor(k, c_low, 1, 1, dtype=parameters or dtype), bias,
        random_tensor(k, c_high, 1, 1, dtype=parameters or dtype, seed=2), None,
    )  # fmt: skip


def formula(alpha):
    a = min(max(torch.tensor(alpha).item(), 0.0), 1.0)

    def to_rgb(x, w, b, scale, bias_scale):
        return F.conv2d(x, (w * scale).to(x.dtype), None if b is None else (b * bias_scale).to(x.dtype))

    def faded(x_low, x_high, w_low, b_low, w_high, b_high):
        low = to_rgb(x_low, w_low, b_low, SCALES[0], SCALES[2])
        return (1 - a) * up2(low) + a * to_rgb(x_high, w_high, b_high, SCALES[1], SCALES[3])

    return faded


def run(args, alpha=0.3):
    return blend.to_rgb_fade_in_forward(*args, torch.tensor(alpha), *SCALES)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("c", [1, 17, 64])
def test_forward(c, k, memory_format, dtype):
    cases = ((1, 0.3, None), (5, 0.0, torch.float32), (5, 1.0, None), (4, 1.7, torch.float32))
    for size, alpha, parameters in shared(dtype, cases, (c, k, memory_format)):
        args = inputs(2, k, c + 3, c, size, size + 1, dtype, memory_format, parameters)
        image = run(args, alpha)
        assert_close(image, formula(alpha), *args)
        assert image.stride() == grid.expected_strides(image.shape, args[0])


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("channels", [(512, 256), (512, 512), (700, 3), (3, 700), (32, 16)], ids=str)
def test_many_channels(channels, memory_format):
    for h, w in ((1, 20), (2, 2)):  # a line longer than a tile of that many channels, and several lines of one
        args = inputs(1, 3, *channels, h, w, torch.float32, memory_format)
        assert_close(run(args), formula(0.3), *args)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 3), k=st.integers(1, 4), c_low=st.integers(1, 80), c_high=st.integers(1, 80), h=st.integers(1, 5),
    w=st.integers(1, 40), alpha=st.floats(-0.5, 1.5), dtype=st.sampled_from(HALF_AND_SINGLE), biased=st.booleans(),
    layouts=st.tuples(st.sampled_from(grid.LAYOUTS), st.sampled_from(grid.LAYOUTS)),
)  # fmt: skip
def test_any_shape_and_layout(n, k, c_low, c_high, h, w, alpha, dtype, biased, layouts):
    low, high, *parameters = inputs(n, k, c_low, c_high, h, w, dtype, biased=biased)
    args = grid.arrange(low, layouts[0]), grid.arrange(high, layouts[1]), *parameters
    assert_close(run(args, alpha), formula(alpha), *args)


def test_sliced_parameters():
    args = list(inputs(2, 3, 5, 4, 2, 3, torch.float32))
    want = run(args)
    args[2], args[4] = (grid.arrange(w, "transposed").repeat(1, 2, 1, 1)[:, : w.shape[1]] for w in (args[2], args[4]))
    assert torch.equal(run(args), want)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy, of 0 * inf
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, float("nan")])
def test_what_is_not_a_number_spreads_as_in_torch(alpha):
    args = inputs(2, 3, 5, 4, 2, 3, torch.float32)
    args[0][0, 1, 0, 0], args[1][1, 2, 3, 3] = float("nan"), float("inf")
    want = aten.to_rgb_fade_in_forward(*args, torch.tensor(alpha), *SCALES)
    torch.testing.assert_close(run(args, alpha), want, equal_nan=True)


def test_five_image_channels_are_refused():
    args = inputs(1, 5, 4, 4, 1, 1, torch.float32)
    assert "at most 4 channels, got 5" in blend._unsupported_to_rgb(*args)
    assert blend._unsupported_to_rgb(*inputs(1, 4, 4, 4, 1, 1, torch.float32)) is None


@triton.jit
def without_bias(v, b, k, scale, bias_scale):
    return v * scale


@triton.jit
def first_block_only(v, w, c, k, C: tl.constexpr):
    return tl.sum(v * tl.load(w + k * C + c, c < 32, other=0.0).to(tl.float32)[None, :], axis=1)


def test_faults_are_caught(monkeypatch):
    args = inputs(2, 3, 70, 40, 2, 3, torch.float32)
    must_fail(run(args, 0.301), formula(0.3), *args)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "tiles", lambda *args: 0)
        must_fail(run(args), formula(0.3), *args)
    for name, fault in (("shifted", without_bias), ("dot", first_block_only)):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, name, fault)
            must_fail(run(args), formula(0.3), *args)
