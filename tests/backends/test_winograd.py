"""Winograd's convolutions against torch's in float64: three directions, odd sizes, every block size and ISA."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import relative_errors
from torch import Tensor

from pggan_fast import ops
from pggan_fast.backends import cpu, winograd

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")

SCALE = 0.7
# (N, Cin, C, H, W): odd and even sizes, less than a tile, channels that fill no lane, one lane, several
SHAPES = [(2, 3, 5, 7, 9), (1, 17, 16, 8, 5), (3, 16, 33, 4, 4), (1, 64, 20, 1, 1), (2, 40, 64, 33, 2), (1, 5, 3, 1, 8)]


def problem(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    n, cin, c, h, w = shape
    x, dy = (torch.randn(n, k, h, w, dtype=dtype).contiguous(memory_format=torch.channels_last) for k in (cin, c))
    return x, torch.randn(c, cin, 3, 3, dtype=dtype), dy


def three_directions(x: Tensor, w: Tensor, dy: Tensor) -> list[Tensor]:
    return [winograd.conv(x, w, SCALE, False), winograd.conv(dy, w, SCALE, True), winograd.weight_grad(x, dy, SCALE)]


def torchs(x: Tensor, w: Tensor, dy: Tensor) -> list[Tensor]:
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = SCALE * F.conv2d(x, w, padding=1)
    return [y.detach(), *torch.autograd.grad(y, (x, w), dy)]


def exact_of(x: Tensor, w: Tensor, dy: Tensor) -> list[Tensor]:
    return torchs(x.double(), w.double(), dy.double())


@pytest.mark.parametrize("tiles", [1, 7, 512])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_exact(shape: tuple[int, ...], tiles: int, monkeypatch: pytest.MonkeyPatch, poison: None) -> None:
    monkeypatch.setattr(winograd, "BLOCK_TILES", tiles)
    monkeypatch.setattr(winograd, "GRADIENT_TILES", tiles)
    x, w, dy = problem(shape, torch.float64)
    assert max(relative_errors(three_directions(x, w, dy), torchs(x, w, dy))) < 1e-13


@pytest.mark.parametrize("shape", [*SHAPES, (2, 64, 64, 24, 24), (1, 128, 96, 16, 40)], ids=str)
def test_float32_rounds_about_as_the_direct_convolution(shape: tuple[int, ...], poison: None) -> None:
    """At most 3 times torch's own error, or 4 roundings where torch sums few terms; 2.6 is the most that was seen."""
    x, w, dy = problem(shape, torch.float32)
    exact = exact_of(x, w, dy)
    ours, rival = (relative_errors(f(x, w, dy), exact) for f in (three_directions, torchs))
    for mine, theirs in zip(ours, rival, strict=True):
        assert mine <= max(3.0 * theirs, 4.0 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("isa", cpu.native.isas() if cpu.native else [])
def test_every_instruction_set(isa: str) -> None:
    before = cpu.native.isa()
    x, w, dy = problem((2, 24, 17, 9, 6), torch.float32)
    try:
        cpu.set_isa(isa)
        got = three_directions(x, w, dy)
    finally:
        cpu.set_isa(before)
    assert max(relative_errors(got, exact_of(x, w, dy))) < 2e-6


def test_seeded_faults_are_seen() -> None:
    """A kernel that is not flipped, a border that is not there, one tile with a wrong sign."""
    x, w, dy = problem((2, 8, 8, 8, 8), torch.float64)
    y, dx, _ = torchs(x, w, dy)
    unflipped = winograd.conv(dy, w.flip(2, 3), SCALE, True)
    no_border = winograd.conv(x, w, SCALE, False)
    no_border[:, :, 0] = SCALE * F.conv2d(x, w, padding=(0, 1))[:, :, 0]
    wrong_sign = winograd.conv(x, w, SCALE, False)
    wrong_sign[0, 0, 2:4, 2:4] *= -1.0
    for got, exact in ((unflipped, dx), (no_border, y), (wrong_sign, y)):
        assert relative_errors([got], [exact])[0] > 1e-3


def test_an_unwritten_tile_is_seen(monkeypatch: pytest.MonkeyPatch, poison: None) -> None:
    blocks = winograd._blocks
    monkeypatch.setattr(winograd, "BLOCK_TILES", 4)
    monkeypatch.setattr(winograd, "_blocks", lambda *sizes: blocks(*sizes)[:-1])
    x, w, dy = problem((1, 4, 4, 8, 8), torch.float64)
    assert relative_errors([winograd.conv(x, w, SCALE, False)], [torchs(x, w, dy)[0]]) == [float("inf")]


def test_gradcheck_and_gradgradcheck_through_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(winograd, "pays", lambda *args: calls.append(1) or True)
    x, w, _ = problem((2, 3, 4, 5, 4), torch.float64)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.scaled_conv2d(
            x, w, b, weight_scale=0.3, negative_slope=0.2, pixel_norm="after_act", eps=0.1, backend="cpu"
        )

    inputs = (x.requires_grad_(), w.requires_grad_(), b)
    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)
    assert calls


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(4, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    assert winograd.pays(x, 64, 64)
    refused = {
        "few channels in": (x[:, :32].contiguous(memory_format=torch.channels_last), 64),
        "few channels out": (x, 32),
        "few pixels": (x[:, :, :8].contiguous(memory_format=torch.channels_last), 64),
        "float64": (x.double(), 64),
        "bfloat16": (x.bfloat16(), 64),
        "planes": (x.contiguous(), 64),
        "nothing": (x[:0], 64),
    }
    assert not [why for why, (image, channels) in refused.items() if winograd.pays(image, channels, 64)]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert not winograd.pays(x, 64, 64)
