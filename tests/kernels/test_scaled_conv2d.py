"""The convolution kernels alone: every resampling, forward and adjoint, against torch's convolution in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import assert_close, bits_of, leaky, must_fail, random_tensor
from pggan_fast.kernels.configs import ConvConfig
from pggan_fast.kernels.launch import cdiv, power_of_2
from pggan_fast.kernels.pack_weight import pack_weight
from pggan_fast.kernels.scaled_conv2d import scaled_conv2d
from pggan_fast.kernels.taps import taps_of
from torch import Tensor

from pggan_fast.reference import down2, up2

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCALE = 0.25
NAN = float("nan")


def tile(channels: int, bm: int = 128, bk: int = 32) -> ConvConfig:
    return ConvConfig(bm, max(16, power_of_2(channels)), bk, 4, 2)


def run(
    x: Tensor, w: Tensor, resample: str, adjoint: bool, config: ConvConfig, *, splits: int = 1,
    bias: Tensor | None = None, slope: float | None = None, norm: str = "none", channels_last: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """(y, r, mask) of NaN-poisoned outputs; of several splits the sum."""
    k, pool = w.shape[2], resample == "pool"
    family = "none" if pool else resample
    taps, phases, stride = taps_of(family, k)
    cx, cy = w.shape[:2] if adjoint else (w.shape[1], w.shape[0])
    packed = torch.full(
        (phases**2, cdiv(taps**2 * cx, config.bk) * config.bk, cdiv(cy, config.bn) * config.bn), NAN, dtype=x.dtype
    )
    pack_weight(w, packed, SCALE, family, adjoint)
    n, _, h, width = x.shape
    oh, ow = h * phases // stride, width * phases // stride
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (n, cy, oh // 2, ow // 2) if pool else (n, cy, oh, ow)
    dtype = torch.float32 if splits > 1 else x.dtype
    y = torch.full((splits * n, *shape[1:]), NAN, dtype=dtype).contiguous(memory_format=layout)
    r = None if norm == "none" else torch.full((n, 1, oh, ow), NAN)
    mask = torch.full((n, cdiv(cy, 8), oh, ow), 0xA5, dtype=torch.uint8) if pool and slope is not None else None
    out = y.unflatten(0, (splits, n)) if splits > 1 else y
    scaled_conv2d(x, packed, bias, out, r, mask, k, resample, 0.5, slope, norm, 1e-8, "inside", "ieee", config, splits)
    return out.sum(0) if splits > 1 else y, r, mask


def formula(x: Tensor, w: Tensor, resample: str, adjoint: bool) -> Tensor:
    """The convolution in plain torch; the adjoint's is the transpose: flipped weights, channels exchanged."""
    w = w.to(x.dtype)
    if adjoint:
        w = w.transpose(0, 1).flip(2, 3)
    u = F.conv2d(up2(x) if resample == "up" else x, w * SCALE, padding=w.shape[2] // 2)
    return down2(u) if resample == "down" else u


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_every_direction(resample: str, adjoint: bool, k: int, dtype: torch.dtype) -> None:
    for cin, c, h, w in ((3, 5, 6, 4), (16, 24, 2, 8), (33, 16, 4, 2)):
        x = random_tensor(2, c if adjoint else cin, h, w, dtype=dtype, memory_format=torch.channels_last)
        weight = random_tensor(c, cin, k, k, seed=1)
        y, _, _ = run(x, weight, resample, adjoint, tile(cin if adjoint else c))
        assert_close(y, formula, x, weight, resample, adjoint)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 9), (4, 33)])
@pytest.mark.parametrize("resample", ["none", "up"])
def test_odd_sizes_and_tails(resample: str, shape: tuple[int, int]) -> None:
    x, w = random_tensor(3, 7, *shape), random_tensor(9, 7, 3, 3, seed=1)
    for bm, bk in ((16, 16), (64, 64)):
        assert_close(run(x, w, resample, False, tile(9, bm, bk))[0], formula, x, w, resample, False)


@pytest.mark.parametrize("splits", [2, 3, 5])
def test_splits_add_up(splits: int) -> None:
    x, w = random_tensor(1, 32, 4, 4), random_tensor(40, 32, 3, 3, seed=1)
    config = ConvConfig(16, 16, 32, 4, 2)  # 9 steps, channels in three tiles
    assert_close(run(x, w, "none", False, config, splits=splits)[0], formula, x, w, "none", False)


def layer(x: Tensor, w: Tensor, bias: Tensor, norm: str) -> Tensor:
    a = leaky(formula(x, w, "none", False) + (bias * 0.5).to(x.dtype).view(1, -1, 1, 1), 0.2)
    return a * (a.square().mean(1, keepdim=True) + 1e-8).rsqrt() if norm == "after_act" else a


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_epilogue_in_registers(dtype: torch.dtype, channels_last: bool) -> None:
    for c in (3, 20, 64):
        x, w = random_tensor(2, 8, 5, 3, dtype=dtype), random_tensor(c, 8, 3, 3, seed=1)
        bias = random_tensor(c, seed=2)
        y, r, _ = run(x, w, "none", False, tile(c), bias=bias, slope=0.2, norm="after_act", channels_last=channels_last)
        assert y.is_contiguous() != channels_last
        assert_close(y, layer, x, w, bias, "after_act")
        a = layer(x.double(), w.double(), bias.double(), "none")
        assert r is not None
        torch.testing.assert_close(r.double(), (a.square().mean(1, keepdim=True) + 1e-8).rsqrt(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_means_and_bits(dtype: torch.dtype) -> None:
    for c, h, w in ((5, 2, 6), (24, 4, 4), (17, 6, 2)):
        x, weight = random_tensor(3, 9, h, w, dtype=dtype), random_tensor(c, 9, 3, 3, seed=1)
        bias = random_tensor(c, seed=2)
        y, _, mask = run(x, weight, "pool", False, tile(c), bias=bias, slope=0.2)
        assert_close(y, lambda *t: down2(layer(*t, "none")), x, weight, bias)
        assert mask is not None
        v = formula(x.double(), weight.to(dtype).double(), "none", False) + bias.view(1, -1, 1, 1).double() * 0.5
        clear = v.abs() > 0.05  # a rounding may turn the sign of what is nearly zero
        assert torch.equal(bits_of(mask, c)[clear], (v > 0)[clear])


def test_strides_of_any_kind() -> None:
    wide = torch.full((4, 24, 9, 10), NAN)
    x = wide[::2, 4:20, 1:8:2, :8].copy_(random_tensor(2, 16, 4, 8))
    w = random_tensor(16, 16, 3, 3, seed=1)
    assert_close(run(x, w, "down", False, tile(16))[0], formula, x, w, "down", False)


def test_addresses_beyond_two_to_the_31() -> None:
    """Images that lie 2^31 elements and more apart: an address that wrapped would fault or read zeros."""
    far = torch.empty(2**32 + 4096, dtype=torch.bfloat16)  # reserved, and touched in two places only
    x = far.as_strided((2, 16, 4, 4), (2**32, 1, 64, 16)).copy_(random_tensor(2, 16, 4, 4, dtype=torch.bfloat16))
    w = random_tensor(16, 16, 3, 3, seed=1)
    assert_close(run(x, w, "none", False, tile(16))[0], formula, x, w, "none", False)


@settings(max_examples=25)
@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5), st.integers(1, 5),
    st.sampled_from(["none", "up", "down"]), st.booleans(), st.sampled_from([1, 3]), st.sampled_from([16, 32]),
    st.integers(1, 3),
)  # fmt: skip
def test_any_shape(
    n: int, cin: int, c: int, h: int, w: int, resample: str, adjoint: bool, k: int, bk: int, splits: int
) -> None:
    if resample == "down":
        h, w = 2 * h, 2 * w
    x, weight = random_tensor(n, c if adjoint else cin, h, w), random_tensor(c, cin, k, k, seed=1)
    config = ConvConfig(16, 16, bk, 4, 2)
    steps = cdiv(taps_of(resample, k).taps ** 2 * x.shape[1], bk)
    splits = cdiv(steps, cdiv(steps, min(splits, steps)))
    assert_close(run(x, weight, resample, adjoint, config, splits=splits)[0], formula, x, weight, resample, adjoint)


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong tap, a missing halo row, a wrong phase, unflipped weights: each alone fails the comparison."""
    x, w = random_tensor(2, 16, 4, 4), random_tensor(16, 16, 3, 3, seed=1)

    def against(y: Tensor, *rest: Any) -> None:
        must_fail(y, formula, x, w, *rest)

    right = run(x, w, "none", False, tile(16))[0]
    assert_close(right, formula, x, w, "none", False)
    against(run(x, w.flip(3), "none", False, tile(16))[0], "none", False)
    against(run(x, w, "none", True, tile(16))[0], "none", False)
    halo = right.clone()
    halo[:, :, 0] -= F.conv2d(x, w[:, :, 2:] * SCALE, padding=(0, 1))[:, :, 1]
    against(halo, "none", False)
    up = run(x, w, "up", False, tile(16))[0]
    against(up.roll(1, 2), "up", False)
    against(run(x, w, "up", False, ConvConfig(16, 16, 16, 4, 2), splits=3)[0] * (1 + 1e-5), "up", False)
