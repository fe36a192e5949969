"""torch's convolutions as the backend "aten" calls them on a GPU: those branches on the CPU, by the grid of the op."""

from __future__ import annotations

import itertools

import grid
import pytest
import torch

from pggan_fast import ops
from pggan_fast.backends import registry
from pggan_fast.backends.aten import conv

LAYERS = grid.load("test_scaled_conv2d")
CASES = [i for i in range(grid.cover_length(LAYERS.CASES)) if LAYERS.CASES[i]["size"] < 64]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "_on_cpu", lambda x: False)
    registry.forget()  # what was planned for the CPU


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("few", [0, 1 << 20])
@pytest.mark.parametrize("i", CASES, ids=lambda i: grid.name_of(LAYERS.CASES[i]))
def test_grid(monkeypatch: pytest.MonkeyPatch, i: int, few: int) -> None:
    """With summed taps and without. Twice: the second call is by what the first one learned."""
    monkeypatch.setattr(conv, "FEW_PIXELS_GPU", few)
    for _ in range(2):
        LAYERS.test_grid("aten", i)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_few_passes_over_the_weights(dtype: torch.dtype, resample: str) -> None:
    """A weight is prepared in the dtype and format of the convolution, and by no more than one product before it."""
    x = torch.randn(4, 16, 48, 48).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(16, 16, 3, 3)
    with torch.profiler.profile() as recorded:
        conv.conv(x, w, 1.0, resample, False)
    names = [event.name for event in recorded.events()]
    copies = names.count("aten::copy_")
    assert names.count("aten::mm") == (resample != "none")
    assert copies == 1


@pytest.mark.parametrize("weights", [torch.float16, torch.float32])
def test_weight_gradients_of_float16_stay_in_its_range(weights: torch.dtype) -> None:
    """The mean of four pixels is taken before the sums are rounded."""
    x, dy = (torch.full((16, 4, s, s), 6.0, dtype=torch.float16) for s in (16, 8))
    dw = conv.conv_weight_grad(x, dy, 1.0, "down", 3, weights)
    assert dw.isfinite().all()
    assert float(dw.max()) == pytest.approx(16 * 16 * 16 * 36 / 4, rel=1e-3)


def test_boxes_are_kept_for_good_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured graph reads them by address."""
    monkeypatch.setattr(conv, "_scaled", {})
    monkeypatch.setattr(conv, "MOST_SCALES", 2)
    boxes = [conv._box_sum(0.1 * i, False, torch.float64, torch.device("cpu")) for i in range(1, 5)]
    again = [conv._box_sum(0.1 * i, False, torch.float64, torch.device("cpu")) for i in range(1, 5)]
    assert [a is b for a, b in zip(boxes, again, strict=True)] == [True, True, False, False]
    assert all(a.equal(b) for a, b in zip(boxes, again, strict=True))


@pytest.mark.parametrize("rows", [False, True], ids=["planes", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("resample", ["none", "up", "down"])
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_at_once_have_the_bits_of_those_one_by_one(
    k: int, resample: str, dtype: torch.dtype, rows: bool
) -> None:
    """A training that is gone on with begins with the one and had the other."""
    sizes = (1, 2, 4) if resample != "down" else (2, 4)
    for n, cin, c, size in itertools.product((0, 3, 64), (1, 6), (1, 40), sizes):
        x = torch.randn(n, cin, size, size).to(dtype)
        x = (x.contiguous(memory_format=torch.channels_last) if rows else x).requires_grad_()
        w = torch.randn(c, cin, k, k, requires_grad=True)
        y = ops.scaled_conv2d(x, w, weight_scale=0.3, resample=resample, negative_slope=0.2, backend="aten")
        dy = torch.randn_like(y.detach())
        first, second = (torch.autograd.grad(y, (x, w), dy, retain_graph=True) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b), (n, cin, c, size)
            assert a.stride() == b.stride(), (n, cin, c, size)
