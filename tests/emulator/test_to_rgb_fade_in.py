"""The CUDA kernels of to_rgb_fade_in on the host emulator; aten runs the convolutions of its backward pass."""

from __future__ import annotations

import emulate
import grid
import op_cases
import pytest
import torch
import torch.nn.functional as F
from kernel_checks import assert_close, must_fail, up2
from torch import Tensor

from pggan_fast.backends import cuda

CASES = op_cases.cover("to_rgb_fade_in", 1e5, cin=op_cases.CHANNELS, cout=op_cases.CHANNELS)
A = 0.3125
ALPHA = torch.tensor(A)
SCALES = 0.5, 0.75, 1.25, 1.5  # of the weights and of the biases, of low and high


@pytest.mark.parametrize("seed", grid.numbered(CASES))
def test_grid(seed: int) -> None:
    op_cases.run("to_rgb_fade_in", CASES[seed], seed, policy=seed % 3)


def draw(
    low: int, high: int, rgb: int = 3, size: tuple[int, int] = (3, 5), dtype: torch.dtype = torch.float16,
    channels_last: bool = True, batch: int = 2,
) -> list[Tensor]:  # fmt: skip
    """(x_low, x_high, w_low, b_low, w_high, b_high), parameters in float32."""
    h, w = size
    features = {"dtype": dtype, "channels_last": channels_last}
    shapes = (rgb, low, 1, 1), (rgb,), (rgb, high, 1, 1), (rgb,)
    parameters = [op_cases.random(*shape, seed=i) / (low + high) ** 0.5 for i, shape in enumerate(shapes)]
    xs = op_cases.random(batch, low, h, w, **features), op_cases.random(batch, high, 2 * h, 2 * w, seed=1, **features)
    return [*xs, *parameters]


def formula(x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor, w_high: Tensor, b_high: Tensor) -> Tensor:
    def to_rgb(x: Tensor, w: Tensor, b: Tensor, scale: float, bias_scale: float) -> Tensor:
        return F.conv2d(x, (w * scale).to(x.dtype), (b * bias_scale).to(x.dtype))

    low, high = to_rgb(x_low, w_low, b_low, SCALES[0], SCALES[2]), to_rgb(x_high, w_high, b_high, SCALES[1], SCALES[3])
    return (1 - A) * up2(low) + A * high


def run(tensors: list[Tensor], *scales: float) -> Tensor:
    image: Tensor = cuda.ops.to_rgb_fade_in_forward(*tensors, ALPHA, *(scales or SCALES))
    return image


WIDTHS = ((8, 8), (16, 8), (24, 16), (40, 24), (64, 32), (16, 64), (128, 72), (264, 256), (8, 520), (5, 7), (9, 131))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_every_number_of_lanes(dtype: torch.dtype, channels_last: bool) -> None:
    with emulate.emulated():
        for rgb, (low, high) in enumerate(WIDTHS):
            tensors = draw(low, high, rgb % 4 + 1, dtype=dtype, channels_last=channels_last)
            # Roundings of partial sums, of which torch has fewer or more as its threads share them out
            magnitude = formula(*(t.abs() for t in tensors)).max().item() if dtype == torch.float32 else 0.0
            assert_close(run(tensors), formula, *tensors, magnitude=magnitude)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_no_order_of_threads_matters(dtype: torch.dtype, channels_last: bool) -> None:
    tensors = draw(32, 16, dtype=dtype, channels_last=channels_last)
    images = []
    for policy in op_cases.POLICIES:
        with emulate.emulated(policy):
            images.append(run(tensors))
    assert all(torch.equal(images[0], image) for image in images[1:])


@pytest.mark.parametrize("which", [0, 1])
def test_features_off_16_bytes(which: int) -> None:
    tensors = draw(32, 16)
    tensors[which] = op_cases.off_16_bytes(tensors[which], True)
    with emulate.emulated():
        assert_close(run(tensors), formula, *tensors)


@pytest.mark.parametrize(("low", "high"), [(16, 8), (64, 32), (8, 256), (3, 5)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_blocks_go_on_with_stride(low: int, high: int, channels_last: bool) -> None:
    """Of many pixels; the last ones are fewer than a block takes."""
    tensors = draw(low, high, size=(21, 23) if high > 100 else (55, 67), channels_last=channels_last)
    with emulate.emulated(multiprocessors=1):
        assert_close(run(tensors), formula, *tensors)


def test_weights_beyond_the_usual_shared_memory() -> None:
    """48 KB hold those of 3072 channels."""
    for low, high in ((2040, 1024), (2048, 1024), (2048, 2056)):
        tensors = draw(low, high, size=(1, 2), batch=1)
        with emulate.emulated():
            assert_close(run(tensors), formula, *tensors)


def test_features_are_read_in_whole_sectors() -> None:
    tensors = draw(64, 32, size=(8, 16), batch=1)
    with emulate.emulated(stats=True) as emulator:
        image = run(tensors)
        places = [p for p in emulator.traffic() if p["kind"] == "read" and p["bytes"] == 16 * 32 * p["requests"]]
        moved = emulator.counts()
    features = [p for p in places if p["space"] == "global"]
    assert sum(p["sectors"] for p in features) * 32 == tensors[0].nbytes + tensors[1].nbytes
    assert all(p["wavefronts"] == p["ideal"] for p in places if p["space"] == "shared")
    assert moved["read"] == sum(t.nbytes for t in tensors) + ALPHA.nbytes
    assert moved["written"] == image.nbytes


def test_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = draw(32, 16, size=(4, 4))
    with emulate.emulated():
        ours = run(tensors)
        must_fail(run(tensors, 0.5, 0.75, 1.25, 1.0), formula, *tensors)
    must_fail(ours, formula, tensors[0].flip(1), *tensors[1:])
    must_fail(ours, lambda low, *rest: formula(low.flip(3), *rest), *tensors)
    op_cases.changed(monkeypatch, "to_rgb_fade_in_forward", lambda args: args.__setitem__(16, 10))  # too wide
    with emulate.emulated(), pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        run(tensors)
