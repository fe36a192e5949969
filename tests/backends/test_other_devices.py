"""Devices that no kernel of ours was tested on: AMD's, Apple's and Intel's. torch's own kernels run there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pggan_fast import BackendUnavailable
from pggan_fast.backends import BACKENDS, cuda, registry, report
from pggan_fast.backends.triton import availability
from pggan_fast.cli import info
from pggan_fast.ops import _register

OURS = ("cpu", "triton", "cuda")


@pytest.fixture
def rocm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A torch for AMD's devices, which it calls "cuda"."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.version, "cuda", None)
    availability.why_missing.cache_clear()
    yield
    availability.why_missing.cache_clear()


def tensors(device: str) -> tuple[Tensor, Tensor]:
    with FakeTensorMode(), torch.device(device):
        return torch.empty(2, 3, 8, 8), torch.empty(())


def first(op: str, device: str, args: tuple[Tensor, ...]) -> str:
    """The way that the automatic choice takes, for an op whose other arguments do not matter."""
    return next(c.way for c in registry.ranked(op, None, device, args) if c.reason is None)


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_the_automatic_choice_is_torch(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    for op in registry.ops_of("aten"):
        assert first(op, device, tensors(device)) == "aten"


@pytest.mark.parametrize("device", ["mps", "xpu"])
@pytest.mark.parametrize("backend", OURS)
def test_our_kernels_refuse_such_tensors(device: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "fade_reals" not in registry.ops_of(backend):
        pytest.skip(f"{backend} registers no such op here: {registry.unavailable(backend)}")
    monkeypatch.setitem(registry._UNAVAILABLE, backend, lambda: None)
    with pytest.raises(BackendUnavailable, match=f"got {device}"):
        registry.choose("fade_reals", backend, device, tensors(device))


@pytest.mark.usefixtures("rocm")
def test_amds_devices_get_torch_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no installation that lacks something."""
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for op in registry.ops_of("aten"):
            assert first(op, "cuda", tensors("cpu")) == "aten"
    assert registry.choose("fade_reals", None, "cpu", tensors("cpu")) is not None


@pytest.mark.usefixtures("rocm")
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_on_rocm_the_reason_does_not_send_for_a_cuda_build(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(cuda, "native", object())
    with pytest.raises(BackendUnavailable, match="built for ROCm, where these kernels are untested") as caught:
        registry.choose("fade_reals", backend, "cuda", tensors("cpu"))
    assert "install a CUDA build" not in str(caught.value)


def test_a_driver_that_is_missing_or_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Native:
        driver = 0

        def driver_version(self) -> int:
            return self.driver

        def runtime_version(self) -> int:
            return 13000

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda, "native", Native())
    told = {}
    for driver in (0, 12080, 13000, 14010):
        cuda._driver_too_old.cache_clear()
        monkeypatch.setattr(Native, "driver", driver)
        told[driver] = cuda.why_missing()
    cuda._driver_too_old.cache_clear()
    assert told[0] == "no CUDA driver answers"
    assert told[12080] == "the driver is for CUDA 12, the kernels need CUDA 13; update the driver"
    assert told[13000] is told[14010] is None


@pytest.mark.parametrize("kind", ["rocm", "mps", "xpu"])
def test_info_calls_them_untested(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = info.facts()
    assert not any("untested" in line for line in info._lines({**found, "untested": []}))
    monkeypatch.setattr(torch.version, "hip", "6.4" if kind == "rocm" else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "rocm")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: kind == "xpu")
    assert report.untested() == [kind]
    (line,) = (line for line in info._lines({**found, "untested": report.untested()}) if "untested" in line)
    assert line == f"{kind:<14}  untested: ops on such a device run torch's own kernels (backend 'aten')"


@pytest.mark.parametrize("key", ["CPU", "CUDA", "MPS", "XPU"])
def test_every_op_is_dispatched_there(key: str) -> None:
    """What traces and intercepts goes through torch's dispatcher."""
    for name in _register._overload:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"pggan_fast::{name}", key)
    assert BACKENDS[0] == "reference"
