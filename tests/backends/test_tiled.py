"""Tiled convolutions against torch's in float64: three directions, resampling, odd sizes, dtypes, ISAs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DTYPES, FORMATS, leaky, random_tensor, relative_errors
from torch import Tensor

from pggan_fast import ops
from pggan_fast.backends import cpu, layout, registry, tiled
from pggan_fast.reference import down2, up2

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")

SCALE = 0.7
HALVES = (torch.float16, torch.bfloat16)
RESAMPLES = ("none", "up", "down")
# (N, Cin, C, H, W) of the smaller image: odd and even sizes, less than a tile, channels that fill no vector, one, an
# odd and an even number of them, more than a part of the weight gradient; more tiles than a block
SHAPES = [
    (2, 3, 5, 7, 9), (1, 17, 16, 8, 5), (3, 16, 33, 4, 4), (1, 64, 20, 1, 1), (2, 40, 64, 33, 2), (1, 5, 3, 1, 8),
    (1, 1, 1, 2, 3), (1, 16, 16, 24, 31), (1, 136, 72, 6, 9),
]  # fmt: skip
LARGE = [(2, 64, 64, 24, 24), (1, 128, 96, 16, 40), (1, 512, 64, 8, 8), (1, 16, 16, 96, 96)]


def problem(shape: tuple[int, ...], resample: str, dtype: torch.dtype, k: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, and a gradient of y."""
    n, cin, c, h, w = shape
    small, large = (h, w), (2 * h, 2 * w)
    sizes = {"none": (small, small), "up": (small, large), "down": (large, small)}[resample]
    x, dy = (
        random_tensor(n, k, *size, dtype=dtype, memory_format=FORMATS[1])
        for k, size in zip((cin, c), sizes, strict=True)
    )
    return x, random_tensor(c, cin, k, k, dtype=dtype), dy


def three_directions(x: Tensor, w: Tensor, dy: Tensor, resample: str) -> list[Tensor]:
    """The input gradient is the other resampling with the adjoint's weights: of "up" 4 "down", of "down" "up" / 4."""
    other, factor = {"none": ("none", 1.0), "up": ("down", 4.0), "down": ("up", 0.25)}[resample]
    y, dx = tiled.conv(x, w, SCALE, resample, False), tiled.conv(dy, w, SCALE * factor, other, True)
    return [y, dx, tiled.weight_grad(x, dy, SCALE, resample, w.shape[2], w.dtype)]


def convolved(x: Tensor, w: Tensor, resample: str) -> Tensor:
    y = F.conv2d(up2(x) if resample == "up" else x, w, padding=w.shape[2] // 2)
    return down2(y) if resample == "down" else y


def torchs(x: Tensor, w: Tensor, dy: Tensor, resample: str) -> list[Tensor]:
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = SCALE * convolved(x, w, resample)
    return [y.detach(), *torch.autograd.grad(y, (x, w), dy)]


def exact(x: Tensor, w: Tensor, dy: Tensor, resample: str) -> list[Tensor]:
    return torchs(x.double(), w.double(), dy.double(), resample)


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_is_exact(shape: tuple[int, ...], resample: str, poison: None) -> None:
    given = *problem(shape, resample, torch.float64), resample
    got = three_directions(*given)
    assert max(relative_errors(got, torchs(*given))) < 1e-13


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
def test_float32_rounds_about_as_the_direct_convolution(shape: tuple[int, ...], resample: str, poison: None) -> None:
    """At most 3 times torch's own error, or 4 roundings where torch sums few terms."""
    x, w, dy = problem(shape, resample, torch.float32)
    right = exact(x, w, dy, resample)
    ours, rival = (relative_errors(f(x, w, dy, resample), right) for f in (three_directions, torchs))
    for mine, theirs in zip(ours, rival, strict=True):
        assert mine <= max(3.0 * theirs, 4.0 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("isa", cpu.native.isas() if cpu.native else [])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 7, 3, 1, 1), (1, 64, 64, 1, 2)], ids=str)
def test_single_pixels(shape: tuple[int, ...], isa: str, poison: None) -> None:
    """1x1 convolutions: the same tiles, of one pixel."""
    before = cpu.native.isa()
    try:
        cpu.set_isa(isa)
        for dtype in DTYPES:
            x, w, dy = problem(shape, "none", dtype, k=1)
            right = exact(x, w, dy, "none")
            bound = 1e-13 if dtype == torch.float64 else 2e-6
            for got, wanted in zip(three_directions(x, w, dy, "none"), right, strict=True):
                rounded = torch.finfo(dtype).eps * wanted.abs() if dtype in HALVES else torch.zeros(())
                assert ((got.double() - wanted).abs() - rounded).max() <= bound * wanted.abs().max()
    finally:
        cpu.set_isa(before)


def test_a_single_pixel_of_another_is_seen() -> None:
    x, w, dy = problem((2, 3, 5, 7, 9), "none", torch.float64, k=1)
    got = three_directions(x, w, dy, "none")
    got[0][:, :, 0] = got[0][:, :, 1]
    assert relative_errors(got, exact(x, w, dy, "none"))[0] > 1e-3


def test_negated_images(poison: None) -> None:
    """Gradients may be: of a parameter's gradient nobody resolves the second operand."""
    for memory_format in FORMATS:
        x, w, dy = (t.contiguous(memory_format=memory_format) for t in problem((2, 9, 17, 5, 6), "none", torch.float64))
        got = three_directions(torch._neg_view(-x), w, torch._neg_view(-dy), "none")
        assert max(relative_errors(got, torchs(x, w, dy, "none"))) < 1e-13


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("resample", "k"), [*((way, 3) for way in RESAMPLES), ("none", 1)])
@pytest.mark.parametrize("shape", [(2, 24, 17, 5, 7), (1, 3, 9, 1, 8), (3, 20, 100, 2, 3)], ids=str)
def test_small_planes_are_read_and_written_as_they_are(
    shape: tuple[int, ...], resample: str, k: int, dtype: torch.dtype, poison: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bits of rows, and no copy by torch."""
    x, w, dy = problem(shape, resample, dtype, k)
    b = random_tensor(w.shape[0], dtype=dtype)
    rows = [*three_directions(x, w, dy, resample), layer(x, w, b, resample, 0.2, "after_act")]
    x, dy = x.contiguous(), dy.contiguous()
    monkeypatch.setattr(tiled, "_to_rows", None)
    monkeypatch.setattr(layout, "conform", None)
    planes = [*three_directions(x, w, dy, resample), layer(x, w, b, resample, 0.2, "after_act")]
    assert all(t.is_contiguous() for t in planes)
    assert all(map(torch.equal, planes, rows))


@pytest.fixture
def high_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
def test_large_tiles_where_float32_may_round_more(shape: tuple[int, ...], high_precision: None, poison: None) -> None:
    """F(4x4, 3x3): a fiftieth of what TF32 loses, and by that told from F(2x2, 3x3)."""
    x, w, dy = problem(shape, "none", torch.float32)
    errors = relative_errors(three_directions(x, w, dy, "none"), exact(x, w, dy, "none"))
    assert max(errors) < 6e-6
    torch.set_float32_matmul_precision("highest")
    assert max(relative_errors(three_directions(x, w, dy, "none"), exact(x, w, dy, "none"))) < max(errors)


def test_weights_that_would_be_too_large_keep_small_tiles(high_precision: None) -> None:
    x = torch.empty(1, 512, 16, 16)
    assert tiled.large_tiles(x, 384)
    assert not tiled.large_tiles(x, 512)
    assert not tiled.large_tiles(x.double(), 8)
    torch.set_float32_matmul_precision("highest")
    assert not tiled.large_tiles(x, 8)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_half_precision_is_rounded_once(
    shape: tuple[int, ...], resample: str, dtype: torch.dtype, poison: None
) -> None:
    """Of the same halves: all is summed in float32, so that one rounding of each result is left."""
    x, w, dy = problem(shape, resample, dtype)
    for got, right in zip(three_directions(x, w, dy, resample), exact(x, w, dy, resample), strict=True):
        error = (got.double() - right).abs() - torch.finfo(dtype).eps * right.abs()
        assert error.max() <= 1e-5 * right.abs().max()


@pytest.mark.parametrize("dtype", HALVES)
def test_float32_parameters_beside_half_images(dtype: torch.dtype, poison: None) -> None:
    """Neither weights nor their gradient are rounded to half."""
    x, _, dy = problem((2, 24, 40, 6, 5), "up", dtype)
    w = random_tensor(40, 24, 3, 3)
    y, dx, dw = three_directions(x, w, dy, "up")
    right = exact(x, w, dy, "up")
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, torch.float32)
    assert relative_errors([dw], right[2:])[0] < 1e-6
    for got, wanted in ((y, right[0]), (dx, right[1])):
        assert ((got.double() - wanted).abs() <= torch.finfo(dtype).eps * wanted.abs() + 1e-5).all()


@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4)], ids=str)
@pytest.mark.parametrize("resample", RESAMPLES)
def test_the_weight_gradient_of_no_pixels_is_zero(resample: str, shape: tuple[int, ...], poison: None) -> None:
    n, c, h, w = shape
    x, _, dy = problem((n, c, 24, h, w), resample, torch.float32)
    assert not tiled.weight_grad(x, dy, SCALE, resample, 3, torch.float32).any()


@pytest.mark.parametrize("isa", cpu.native.isas() if cpu.native else [])
@pytest.mark.parametrize("resample", RESAMPLES)
def test_every_instruction_set(isa: str, resample: str, poison: None) -> None:
    before = cpu.native.isa()
    try:
        cpu.set_isa(isa)
        for dtype, shape in itertools.product((torch.float32, torch.float64), [(2, 24, 17, 9, 6), (1, 72, 136, 5, 8)]):
            given = *problem(shape, resample, dtype), resample
            bound = 2e-6 if dtype == torch.float32 else 1e-13
            assert max(relative_errors(three_directions(*given), exact(*given))) < bound
    finally:
        cpu.set_isa(before)


# (slope, norm, whether there is a bias)
EPILOGUES = [(0.2, "after_act", True), (0.2, "before_act", True), (0.2, "none", True), (None, "after_act", False)]
EPILOGUES += [(1.0, "none", True), (0.5, "none", False)]


def formula(x: Tensor, w: Tensor, b: Tensor | None, resample: str, slope: float | None, norm: str) -> Tensor:
    v = SCALE * convolved(x, w, resample)
    v = v if b is None else v + (0.6 * b).view(1, -1, 1, 1)
    v = v if norm == "before_act" else leaky(v, slope)
    v = v if norm == "none" else v * torch.rsqrt(v.square().mean(1, keepdim=True) + 1e-3)
    return leaky(v, slope) if norm == "before_act" else v


def assert_as_good_as_torch(y: Tensor, x: Tensor, w: Tensor, b: Tensor | None, *how: Any) -> None:
    """At most 3 times the error of the same formula in torch, or 4 roundings; 64 in float64."""
    right = formula(x.double(), w.double(), None if b is None else b.double(), *how)
    (ours,), (theirs,) = relative_errors([y], [right]), relative_errors([formula(x, w, b, *how)], [right])
    assert ours <= max(3.0 * theirs, (64.0 if y.dtype == torch.float64 else 4.0) * torch.finfo(y.dtype).eps)


def layer(x: Tensor, w: Tensor, b: Tensor | None, resample: str, slope: float | None, norm: str) -> Tensor:
    return tiled.layer(x, w, b, SCALE, 0.6, resample, slope, norm, 1e-3, "inside")[0]


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", [(2, 24, 40, 5, 7), (1, 16, 16, 10, 12), (1, 9, 131, 3, 4)], ids=str)
def test_the_epilogue(
    shape: tuple[int, ...], resample: str, dtype: torch.dtype, epilogue: tuple[Any, ...], poison: None
) -> None:
    slope, norm, biased = epilogue
    x, w, _ = problem(shape, resample, dtype)
    memory_format = FORMATS[shape[0] % 2]
    x = x.contiguous(memory_format=memory_format)
    b = random_tensor(w.shape[0], dtype=dtype) if biased else None
    y = layer(x, w, b, resample, slope, norm)
    assert y.is_contiguous(memory_format=memory_format)
    assert_as_good_as_torch(y, x, w, b, resample, slope, norm)


@pytest.mark.parametrize("eps_mode", ["inside", "outside"])
@pytest.mark.parametrize("norm", ["after_act", "before_act"])
def test_the_factor_of_the_norm(norm: str, eps_mode: str, poison: None) -> None:
    x, w, _ = problem((2, 16, 40, 5, 7), "up", torch.float64)
    _, r = tiled.layer(x, w, None, SCALE, 1.0, "up", 0.2, norm, 0.1, eps_mode)
    v = SCALE * convolved(x, w, "up")
    mean = (leaky(v, 0.2) if norm == "after_act" else v).square().mean(1)
    factor = (mean + 0.1).rsqrt() if eps_mode == "inside" else 1.0 / (mean.sqrt() + 0.1)
    assert r is not None
    assert relative_errors([r], [factor[:, None]])[0] < 1e-13


def test_seeded_faults_are_seen() -> None:
    """A kernel that is not flipped, a border that is not there, a tile of wrong sign, a pixel of another's factor."""
    x, w, dy = problem((2, 8, 8, 8, 8), "up", torch.float64)
    y, dx, _ = torchs(x, w, dy, "up")
    unflipped = tiled.conv(dy, w.flip(2, 3), 4.0 * SCALE, "down", True)
    no_border = tiled.conv(x, w, SCALE, "up", False)
    no_border[:, :, 0] = SCALE * F.conv2d(up2(x), w, padding=(0, 1))[:, :, 0]
    wrong_sign = tiled.conv(x, w, SCALE, "up", False)
    wrong_sign[0, 0, 2:4, 2:4] *= -1.0
    for got, right in ((unflipped, dx), (no_border, y), (wrong_sign, y)):
        assert relative_errors([got], [right])[0] > 1e-3
    z = layer(x, w, None, "up", 0.2, "after_act")
    z[0, :, 3, 4] *= 1.0 + 1e-9
    with pytest.raises(AssertionError):
        assert_as_good_as_torch(z, x, w, None, "up", 0.2, "after_act")


def test_an_unwritten_pixel_is_seen(poison: None) -> None:
    """A kernel that is told of one row less leaves what was there."""
    x, w, dy = problem((1, 8, 8, 8, 8), "none", torch.float64)
    right = torchs(x, w, dy, "none")[0]

    def short(function: Any, *args: Any) -> None:
        args = (*args[:11], args[11] - 2, *args[12:])  # H
        real(function, *args)

    real = tiled.launch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "launch", short)
        assert relative_errors([tiled.conv(x, w, SCALE, "none", False)], [right]) == [float("inf")]


@pytest.mark.parametrize("resample", [*RESAMPLES, "pool"])
def test_gradcheck_and_gradgradcheck_through_the_layer(resample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def rule(*args: Any) -> None:
        calls.append(1)

    monkeypatch.setattr(tiled, "rule", rule)
    shape = (2, 3, 4, 5, 4) if resample == "none" else (2, 3, 4, 3, 2)
    x, w, _ = problem(shape, "down" if resample == "pool" else resample, torch.float64)
    b = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def through(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.scaled_conv2d(
            x, w, b, weight_scale=0.3, resample=resample, negative_slope=0.2,
            pixel_norm="none" if resample == "pool" else "after_act", eps=0.1, backend="cpu",
        )  # fmt: skip

    inputs = (x.requires_grad_(), w.requires_grad_(), b)
    assert torch.autograd.gradcheck(through, inputs)
    assert torch.autograd.gradgradcheck(through, inputs)
    assert len(calls) > 2


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(4, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    assert all(tiled.rule(x, 64, 3, resample) is None for resample in RESAMPLES)
    assert tiled.rule(x[:1, :, :2, :2], 64, 3, "up") is None
    refused = {
        "few channels in": (x[:, :7], 64),
        "few channels out": (x, 7),
        "few pixels": (x[:1, :, :2, :8], 64),
        "rows": (x.reshape(4, 64, 1, 256).contiguous(memory_format=torch.channels_last), 64),
        "planes": (x.contiguous(), 64),
    }
    assert not [why for why, (image, channels) in refused.items() if tiled.rule(image, channels, 3, "none") is None]
    narrow = x[:1, :32, :1, :2].contiguous(memory_format=torch.channels_last)
    assert tiled.rule(narrow.expand(1, 32, 2, 2), 32, 3, "none") is None
    assert tiled.rule(x[:1, :, :8, :8].contiguous(), 64, 3, "none") is None
    small = x[:1, :, :8, :16].contiguous(memory_format=torch.channels_last)
    assert tiled.rule(small, 64, 1, "none") is None
    assert tiled.rule(small[:, :, :4, :4].contiguous(), 3, 1, "none") is None
    many = torch.empty(2, 4, 16, 16).contiguous(memory_format=torch.channels_last)
    for image, channels in ((many, 4), (x[:3, :, :8, :16], 3), (small, 65), (small.contiguous(), 3)):
        assert "than a call" in (tiled.rule(image, channels, 1, "none") or "")
    for multiplies in (False, True):
        monkeypatch.setattr(cpu.native, "multiplies_bfloat16", multiplies)
        assert tiled.conv_rule(x, 64, 3, "up") is None
        assert (tiled.conv_rule(x.bfloat16(), 64, 3, "up") is None) is not multiplies


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_ways_of_the_rule_agree(dtype: torch.dtype) -> None:
    """Where it does not pay torch's convolutions run: the same op, results apart by roundings."""
    x, w, dy = problem((2, 16, 24, 8, 12), "down", dtype)
    results = []
    for way in ("cpu", "aten+cpu"):
        forward, weight_grad = (registry._TABLE[way, op].run for op in ("scaled_conv2d_forward", "conv_weight_grad"))
        y = forward(x, w, None, 0.1, 1.0, "down", 0.2, "none", 0.1, "inside")[0]
        results.append([y, weight_grad(x, dy, 0.1, "down", 3, dtype)])
    for ours, theirs in zip(*results, strict=True):
        assert relative_errors([ours], [theirs.double()])[0] < 4.0 * torch.finfo(dtype).eps
