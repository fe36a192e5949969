"""The grids of tests/ops on the device: outputs, gradients and second order against the float64 reference."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import grid
import pytest
import torch

from pggan_fast import BackendUnavailable, ops

sys.path.append(str(Path(__file__).parents[1] / "emulator"))
import inventory

CASES = [(name, i) for name in grid.FILES for i in range(len(grid.load(name).CASES))]
# What backend "cuda" leaves to the others: reasons in backends/cuda_layer.py and cuda_grad.py
BEYOND = "at most 64 channels|more shared memory than the device has|no 2x2 mean after a pixel norm"
FIRST = {name: grid.cover_length(grid.load(name).CASES) for name in grid.FILES}


def row(name: str, i: int) -> Any:
    """A case as a parameter; what comes after the first cover is slow: kernels are compiled for its channel counts."""
    marks = () if i < FIRST[name] else (pytest.mark.slow,)
    title = f"{name.removeprefix('test_')}-{grid.name_of(grid.load(name).CASES[i])}"
    return pytest.param(name, i, id=title, marks=marks)


# cuDNN chooses algorithms by layout and shape, Winograd's among them, whose errors differ tenfold: torch's other choice
ATEN = 64.0


def run(monkeypatch: pytest.MonkeyPatch, name: str, i: int, backend: str, device: str, **options: Any) -> None:
    """The grid test of tests/ops, on the device; a skip says which case the CUDA kernels are not for."""
    monkeypatch.setattr(grid, "check", functools.partial(grid.check, device=device, **options))
    if backend == "aten":
        monkeypatch.setattr(grid, "ROUNDINGS", ATEN)
    try:
        grid.load(name).test_grid(backend, i)
    except BackendUnavailable as refused:
        if backend != "cuda" or not re.search(BEYOND, str(refused)):
            raise
        pytest.skip(str(refused))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("name", "i"), [row(name, i) for name, i in CASES])
def test_case(monkeypatch: pytest.MonkeyPatch, device: str, backend: str, name: str, i: int) -> None:
    run(monkeypatch, name, i, backend, device)


def smooth(name: str) -> list[int]:
    """float32 convolutions of many channels without a kink, which roundings of a thousandth would throw across it."""
    cases = grid.load(name).CASES
    return [
        i for i, c in enumerate(cases)
        if c["dtype"] == torch.float32 and not grid.is_kinked(c["slope"]) and c["cin"] >= 16 and c["cout"] >= 16
    ]  # fmt: skip


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("i", smooth("test_scaled_conv2d")[:8])
def test_case_in_tf32(monkeypatch: pytest.MonkeyPatch, device: str, ours: str, i: int) -> None:
    """The rival is torch's own convolution in TF32, whose roundings are float16's: ten bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    run(monkeypatch, "test_scaled_conv2d", i, ours, device, roundings=torch.float16)


def test_tf32_is_what_cudnn_is_set_to(monkeypatch: pytest.MonkeyPatch, device: str, ours: str) -> None:
    x, w = torch.randn(2, 64, 16, 16, device=device), torch.randn(64, 64, 3, 3, device=device)
    want = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
    errors = []
    for allowed in (False, True):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        y = ops.scaled_conv2d(x, w, weight_scale=1.0, backend=ours)
        errors.append(float((y - want).abs().max() / want.abs().max()))
    assert errors[0] < 2e-6
    assert 1e-5 < errors[1] < 6e-3


def test_a_fault_on_the_device_is_caught(monkeypatch: pytest.MonkeyPatch, device: str, backend: str) -> None:
    """The judge sees one element of the device's output that is wrong."""
    right = ops.fade_reals

    def wrong(*args: Any, **options: Any) -> torch.Tensor:
        y = right(*args, **options)
        spike = torch.zeros_like(y)
        spike.view(-1)[-1] = 0.01
        return y + spike

    monkeypatch.setattr(ops, "fade_reals", wrong)
    image = torch.randn(2, 3, 8, 8)
    with pytest.raises(AssertionError, match=r"^y: error"):
        grid.check("fade_reals", {"image": image}, {"alpha": 0.25}, backend, data=["image"], seed=0, device=device)


SMALL = {
    name: [
        i for i, c in enumerate(grid.load(name).CASES)
        if c["dtype"] in (torch.float32, torch.float16) and c.get("size", 1) <= 7
        and all(c.get(k, 1) <= 48 for k in ("cin", "cout", "channels"))
    ][:3]
    for name in grid.FILES
}  # fmt: skip


@pytest.mark.parametrize(("name", "i"), [(name, i) for name in grid.FILES for i in SMALL[name]])
def test_sanitized(monkeypatch: pytest.MonkeyPatch, device: str, ours: str, name: str, i: int) -> None:
    """A few small calls of every op and its derivatives: what scripts/gpu.sh runs under compute-sanitizer."""
    run(monkeypatch, name, i, ours, device)


@pytest.mark.parametrize("kernel", inventory.KERNELS)
def test_sanitized_kernel(monkeypatch: pytest.MonkeyPatch, device: str, cuda: str, kernel: str) -> None:
    """The CUDA kernels, some of which no small case launches."""
    monkeypatch.setattr(grid, "check", functools.partial(grid.check, device=device))
    entry = inventory.KERNELS[kernel]
    for layout in entry.layouts:
        for dtype in (torch.float32, torch.float16):
            inventory.compare(entry, dtype, layout)
