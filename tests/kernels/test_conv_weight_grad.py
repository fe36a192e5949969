"""The weight gradient's kernels alone: against autograd in float64, every resampling, split over pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import assert_close, must_fail, random_tensor
from pggan_fast.kernels.configs import ConvConfig
from pggan_fast.kernels.conv_weight_grad import conv_weight_grad
from pggan_fast.kernels.launch import cdiv
from pggan_fast.kernels.pack_weight import unpack_weight_grad
from pggan_fast.kernels.taps import taps_of
from torch import Tensor

from pggan_fast.reference import up2

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCALE = 0.25
NAN = float("nan")


def run(x: Tensor, dy: Tensor, k: int, resample: str, splits: int = 1, config: ConvConfig | None = None) -> Tensor:
    """dw in float32, its parts NaN before they are written."""
    taps, phases, stride = taps_of(resample, k)
    cin, c = x.shape[1], dy.shape[1]
    config = config or ConvConfig(16, 16, 16, 4, 2)
    steps = cdiv(x.shape[0] * (x.shape[2] // stride) * (x.shape[3] // stride), config.bk)
    splits = cdiv(steps, cdiv(steps, min(splits, steps)))
    parts = torch.full((splits, phases**2, taps**2 * cin, c), NAN)
    dw = torch.full((c, cin, k, k), NAN)
    conv_weight_grad(x, dy, parts, k, resample, "ieee", config)
    unpack_weight_grad(parts, dw, SCALE, resample)
    return dw


def formula(x: Tensor, dy: Tensor, k: int, resample: str) -> Tensor:
    """By torch's own weight gradient on the resampled image; dy of "down" spreads over its 2x2 block."""
    wide = x.dtype if x.dtype == torch.float64 else torch.float32
    x, dy = x.to(wide), dy.to(wide)
    if resample == "up":
        x = up2(x)
    elif resample == "down":
        dy = up2(dy) * 0.25
    shape = (dy.shape[1], x.shape[1], k, k)
    return torch.nn.grad.conv2d_weight(x, shape, dy, padding=k // 2) * SCALE


def draw(n: int, cin: int, c: int, h: int, w: int, resample: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x and dy; h and w are those of the smaller of the two."""
    small, large = (h, w), (2 * h, 2 * w)
    sizes = {"none": (small, small), "up": (small, large), "down": (large, small)}[resample]
    x = random_tensor(n, cin, *sizes[0], dtype=dtype, memory_format=torch.channels_last)
    return x, random_tensor(n, c, *sizes[1], dtype=dtype, seed=1, memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_every_resampling(resample: str, k: int, dtype: torch.dtype) -> None:
    for cin, c, h, w in ((3, 5, 3, 4), (16, 24, 1, 4), (32, 16, 2, 3)):
        x, dy = draw(2, cin, c, h, w, resample, dtype)
        magnitude = float((x.double().norm() * dy.double().norm()) * SCALE / 8)
        assert_close(run(x, dy, k, resample, splits=3), formula, x, dy, k, resample, magnitude=magnitude)


def test_planes_and_large_tiles() -> None:
    x, dy = draw(2, 40, 20, 5, 7, "none", torch.float32)
    config = ConvConfig(64, 32, 32, 4, 2)
    assert_close(run(x.contiguous(), dy.contiguous(), 3, "none", 2, config), formula, x, dy, 3, "none", magnitude=40.0)


def test_the_result_does_not_depend_on_the_run() -> None:
    x, dy = draw(2, 16, 16, 4, 4, "none", torch.float32)
    assert torch.equal(run(x, dy, 3, "none", 2), run(x, dy, 3, "none", 2))


@settings(max_examples=25)
@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4),
    st.sampled_from(["none", "up", "down"]), st.sampled_from([1, 3]), st.integers(1, 4),
)  # fmt: skip
def test_any_shape(n: int, cin: int, c: int, h: int, w: int, resample: str, k: int, splits: int) -> None:
    x, dy = draw(n, cin, c, h, w, resample, torch.float32)
    assert_close(run(x, dy, k, resample, splits), formula, x, dy, k, resample, magnitude=20.0)


def test_faults_are_seen() -> None:
    x, dy = draw(2, 16, 16, 4, 4, "none", torch.float32)
    dw = run(x, dy, 3, "none")
    assert_close(dw, formula, x, dy, 3, "none", magnitude=20.0)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")  # an image whose border is read where it ends
    wrong_border = torch.nn.grad.conv2d_weight(padded, (16, 16, 3, 3), dy) * SCALE
    for fault in (dw.transpose(0, 1), dw.flip(2), dw * (1 + 1e-4), wrong_border):
        must_fail(fault, formula, x, dy, 3, "none")
