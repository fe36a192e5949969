"""Resampling convolutions by differences against torch's in float64: every direction, odd sizes, blocks and ISAs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import relative_errors
from torch import Tensor

from pggan_fast import ops
from pggan_fast.backends import cpu, differences
from pggan_fast.reference import down2, up2

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")

SCALE = 0.7
# (N, Cin, C, H, W) of the smaller image: odd and even sizes, channels that fill no lane, one lane, several
SHAPES = [(2, 3, 5, 7, 9), (1, 17, 16, 8, 5), (3, 16, 33, 4, 4), (1, 64, 20, 1, 1), (2, 40, 64, 33, 2), (1, 5, 3, 1, 8)]
RESAMPLES = ("up", "down")


def problem(shape: tuple[int, ...], resample: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, and a gradient of y."""
    n, cin, c, h, w = shape
    small, large = (h, w), (2 * h, 2 * w)
    sizes = (small, large) if resample == "up" else (large, small)
    x, dy = (
        torch.randn(n, k, *size, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for k, size in zip((cin, c), sizes, strict=True)
    )
    return x, torch.randn(c, cin, 3, 3, dtype=dtype), dy


def three_directions(x: Tensor, w: Tensor, dy: Tensor, resample: str) -> list[Tensor]:
    """The input gradient is the other resampling with the adjoint's weights: of "up" 4 "down", of "down" "up" / 4."""
    if resample == "up":
        y, dx = differences.up(x, w, SCALE, False), differences.down(dy, w, 4.0 * SCALE, True)
    else:
        y, dx = differences.down(x, w, SCALE, False), differences.up(dy, w, 0.25 * SCALE, True)
    return [y, dx, differences.weight_grad(x, dy, SCALE, resample)]


def torchs(x: Tensor, w: Tensor, dy: Tensor, resample: str) -> list[Tensor]:
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = SCALE * F.conv2d(up2(x) if resample == "up" else x, w, padding=1)
    y = down2(y) if resample == "down" else y
    return [y.detach(), *torch.autograd.grad(y, (x, w), dy)]


@pytest.mark.parametrize("pixels", [1, 7, 20, 512])
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_exact(
    shape: tuple[int, ...], resample: str, pixels: int, monkeypatch: pytest.MonkeyPatch, poison: None
) -> None:
    monkeypatch.setattr(differences, "BLOCK_PIXELS", pixels)
    given = *problem(shape, resample, torch.float64), resample
    got = three_directions(*given)
    assert max(relative_errors(got, torchs(*given))) < 1e-13
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in got[:2])


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 64, 64, 24, 24), (1, 128, 96, 16, 40), (1, 512, 64, 8, 8)], ids=str)
def test_float32_rounds_about_as_the_direct_convolution(shape: tuple[int, ...], resample: str, poison: None) -> None:
    """At most 3 times torch's own error, or 4 roundings where torch sums few terms."""
    x, w, dy = problem(shape, resample, torch.float32)
    exact = torchs(x.double(), w.double(), dy.double(), resample)
    ours, rival = (relative_errors(f(x, w, dy, resample), exact) for f in (three_directions, torchs))
    for mine, theirs in zip(ours, rival, strict=True):
        assert mine <= max(3.0 * theirs, 4.0 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("isa", cpu.native.isas() if cpu.native else [])
@pytest.mark.parametrize("resample", RESAMPLES)
def test_every_instruction_set(isa: str, resample: str) -> None:
    before = cpu.native.isa()
    x, w, dy = problem((2, 24, 17, 9, 6), resample, torch.float32)
    try:
        cpu.set_isa(isa)
        got = three_directions(x, w, dy, resample)
    finally:
        cpu.set_isa(before)
    assert max(relative_errors(got, torchs(x.double(), w.double(), dy.double(), resample))) < 2e-6


def test_seeded_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is not flipped, a border that is not there, a row of differences counted twice."""
    x, w, dy = problem((1, 8, 8, 8, 8), "up", torch.float64)
    y, dx, dw = torchs(x, w, dy, "up")
    unflipped = differences.down(dy, w.flip(2, 3), 4.0 * SCALE, True)
    no_border = differences.up(x, w, SCALE, False)
    no_border[:, :, 0] = SCALE * F.conv2d(up2(x), w, padding=(0, 1))[:, :, 0]
    monkeypatch.setattr(differences, "BLOCK_PIXELS", 16)
    blocks = differences._blocks
    monkeypatch.setattr(differences, "_blocks", lambda *sizes: [b._replace(last=True) for b in blocks(*sizes)])
    twice = differences.weight_grad(x, dy, SCALE, "up")
    for got, exact in ((unflipped, dx), (no_border, y), (twice, dw)):
        assert relative_errors([got], [exact])[0] > 1e-3


def test_an_unwritten_block_is_seen(monkeypatch: pytest.MonkeyPatch, poison: None) -> None:
    blocks = differences._blocks
    monkeypatch.setattr(differences, "BLOCK_PIXELS", 16)
    monkeypatch.setattr(differences, "_blocks", lambda *sizes: list(blocks(*sizes))[:-1])
    for resample, f in (("up", differences.up), ("down", differences.down)):
        x, w, dy = problem((1, 4, 4, 8, 8), resample, torch.float64)
        assert relative_errors([f(x, w, SCALE, False)], [torchs(x, w, dy, resample)[0]]) == [float("inf")]


@pytest.mark.parametrize("resample", RESAMPLES)
def test_gradcheck_and_gradgradcheck_through_the_layer(resample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def pays(*args: Any) -> bool:
        calls.append(1)
        return True

    monkeypatch.setattr(differences, "pays", pays)
    x, w, _ = problem((2, 3, 4, 3, 2), resample, torch.float64)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.scaled_conv2d(
            x, w, b, weight_scale=0.3, resample=resample, negative_slope=0.2, pixel_norm="after_act", eps=0.1,
            backend="cpu",
        )  # fmt: skip

    inputs = (x.requires_grad_(), w.requires_grad_(), b)
    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)
    assert len(calls) > 2


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(4, 128, 4, 4).contiguous(memory_format=torch.channels_last)
    assert differences.pays(x, 64)
    refused = {
        "few channels in": (x[:, :32].contiguous(memory_format=torch.channels_last), 512),
        "few channels out": (x, 32),
        "few of both": (x[:, :64].contiguous(memory_format=torch.channels_last), 64),
        "float64": (x.double(), 64),
        "bfloat16": (x.bfloat16(), 64),
        "planes": (x.contiguous(), 64),
        "nothing": (x[:0], 64),
    }
    assert not [why for why, (image, channels) in refused.items() if differences.pays(image, channels)]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert not differences.pays(x, 64)
