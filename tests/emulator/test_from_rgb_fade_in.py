"""The CUDA kernels of from_rgb_fade_in on the host emulator; aten runs the convolutions of its backward pass."""

from __future__ import annotations

import emulate
import grid
import op_cases
import pytest
import torch
import torch.nn.functional as F
from kernel_checks import F64, assert_close, bits_of, blocks, leaky, must_fail
from torch import Tensor

from pggan_fast.backends import cuda

CASES = op_cases.cover("from_rgb_fade_in", 2e4, channels=op_cases.CHANNELS)
A, SCALE, BIAS_SCALE, SLOPE = 0.3125, 0.5, 1.25, 0.2
ALPHA = torch.tensor(A)


@pytest.mark.parametrize("seed", grid.numbered(CASES))
def test_grid(seed: int) -> None:
    op_cases.run("from_rgb_fade_in", CASES[seed], seed, policy=seed % 3)


def draw(
    c: int, rgb: int = 3, size: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float16,
    channels_last: bool = True, batch: int = 2,
) -> list[Tensor]:  # fmt: skip
    """(image, high, weight, bias), parameters in float32."""
    h, w = size
    features = {"dtype": dtype, "channels_last": channels_last}
    image, high = op_cases.random(batch, rgb, 2 * h, 2 * w, **features), op_cases.random(batch, c, h, w, **features)
    return [image, high, op_cases.random(c, rgb, 1, 1, seed=1), op_cases.random(c, seed=2)]


def convolved(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """In float32 at least: what the kernels round once."""
    wide = torch.promote_types(image.dtype, weight.dtype)
    return F.conv2d(blocks(image.to(wide)).mean((3, 5)), weight * SCALE, bias * BIAS_SCALE)


def formula(image: Tensor, high: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    low = leaky(convolved(image, weight, bias), SLOPE)
    return ((1 - A) * low + A * high.to(low.dtype)).to(torch.promote_types(image.dtype, high.dtype))


def run(tensors: list[Tensor], slope: float = SLOPE) -> tuple[Tensor, Tensor]:
    y, mask = cuda.ops.from_rgb_fade_in_forward(*tensors, ALPHA, SCALE, BIAS_SCALE, slope)
    return y, mask


def check_signs(mask: Tensor, image: Tensor, high: Tensor, weight: Tensor, bias: Tensor) -> None:
    v = convolved(image.to(F64), weight.to(F64), bias.to(F64))
    assert (v[bits_of(mask, high.shape[1]) != (v > 0)].abs() < 1e-6).all()


def check(tensors: list[Tensor]) -> None:
    y, mask = run(tensors)
    assert_close(y, formula, *tensors)
    check_signs(mask, *tensors)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_every_width(dtype: torch.dtype, channels_last: bool) -> None:
    """Whole vectors and bytes of the mask, cut ones, and more than a block has threads for."""
    with emulate.emulated():
        for i, c in enumerate((2, 4, 8, 12, 16, 24, 40, 63, 72, 257, 1032, 2056)):
            check(draw(c, i % 4 + 1, size=(1, 3) if c > 99 else (3, 5), dtype=dtype, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("c", [12, 16, 17])
def test_no_order_of_threads_matters(c: int, channels_last: bool) -> None:
    tensors = draw(c, dtype=torch.float32, channels_last=channels_last)
    results = []
    for policy in op_cases.POLICIES:
        with emulate.emulated(policy):
            results.append(run(tensors))
    for y, mask in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(mask, results[0][1])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("which", [0, 1])
def test_tensors_off_16_bytes(which: int, channels_last: bool) -> None:
    tensors = draw(16, channels_last=channels_last)
    tensors[which] = op_cases.off_16_bytes(tensors[which], channels_last)
    with emulate.emulated():
        check(tensors)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("c", [3, 16])
def test_blocks_go_on_with_stride(c: int, channels_last: bool) -> None:
    tensors = draw(c, size=(61, 67), channels_last=channels_last)
    with emulate.emulated(multiprocessors=1):
        check(tensors)


def test_features_in_whole_sectors() -> None:
    tensors = draw(16, size=(16, 32), batch=1)
    with emulate.emulated(stats=True) as emulator:
        y, mask = run(tensors)
        places = [p for p in emulator.traffic() if p["space"] == "global"]
        moved = emulator.counts()
    for kind in ("read", "write"):
        features = [p for p in places if p["kind"] == kind and p["bytes"] == 16 * 32 * p["requests"]]
        assert sum(p["sectors"] for p in features) * 32 == y.nbytes
    assert moved["read"] == sum(t.nbytes for t in tensors) + ALPHA.nbytes
    assert moved["written"] == y.nbytes + mask.nbytes


def test_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = draw(16, size=(4, 4))
    with emulate.emulated():
        y, mask = run(tensors)
        must_fail(run(tensors, 0.25)[0], formula, *tensors)
    must_fail(y, lambda image, *rest: formula(image.roll(1, 3), *rest), *tensors)
    mask[0, 1, 2, 3] ^= 16
    with pytest.raises(AssertionError):
        check_signs(mask, *tensors)
    op_cases.changed(monkeypatch, "from_rgb_fade_in_forward", lambda args: args.__setitem__(11, 24))  # channels
    with emulate.emulated(), pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        run(tensors)
