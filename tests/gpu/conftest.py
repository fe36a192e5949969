"""Tests on a CUDA device. Collected everywhere; without a device, or in Triton's interpreter, each skips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pggan_fast.backends import registry, tables, unavailable
from pggan_fast.backends.triton.availability import interpreted

DEVICE = "cuda"
OURS = ("triton", "cuda")
BACKENDS = ("aten", *OURS)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The device's name; float32 in IEEE precision, and no measurement of an earlier run chooses a plan."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if interpreted():
        pytest.skip("TRITON_INTERPRET=1 runs Triton's kernels on the CPU")
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    forget_measurements()
    yield DEVICE
    torch.cuda.synchronize()  # a fault of this test is this test's
    forget_measurements()


def forget_measurements() -> None:
    tables.forget()
    registry.forget()
    if unavailable("triton") is None:
        from pggan_fast.backends.triton import tuning

        tuning.forget()


def needs(name: str) -> str:
    """`name`, or a skip that says why this machine cannot run the backend."""
    reason = unavailable(name)
    if reason is None and name in OURS and torch.cuda.get_device_capability() < (8, 0):
        reason = f"{torch.cuda.get_device_name()} is too old for the products of {name!r} (compute capability 8.0 does)"
    if reason is not None:
        pytest.skip(reason)
    return name


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, device: str) -> str:
    """Each backend that runs on the device."""
    return needs(request.param)


@pytest.fixture(params=OURS)
def ours(request: pytest.FixtureRequest, device: str) -> str:
    """Each backend of kernels of our own."""
    return needs(request.param)


@pytest.fixture
def triton(device: str) -> str:
    """The backend of Triton's kernels alone."""
    return needs("triton")


@pytest.fixture
def cuda(device: str) -> str:
    """The backend of CUDA C++ alone."""
    return needs("cuda")
