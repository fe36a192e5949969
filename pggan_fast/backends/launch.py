"""The bridge from tensors to native functions: the only Python that takes a tensor's address (csrc/bind/tensors.h does
so by itself)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SCALARS = frozenset((int, float, bool))  # looked up by exact type first: isinstance takes 0.2 us an argument
_PLAIN = frozenset((Tensor, torch.nn.Parameter))


class _Host:
    """What `pggan_fast._cpu` can do with tensors by itself."""

    reads = False  # it takes their addresses
    signature: Callable[[tuple[Any, ...]], bytes | None] = staticmethod(lambda args: None)


def let_read(native: Any) -> None:
    """Let `pggan_fast._cpu` look at tensors through DLPack's C functions, where torch has them and they do as they say:
    it saves 2 us a call."""
    functions = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if type(functions).__name__ != "PyCapsule":
        return
    probe = torch.empty(3, 2)[1:]
    _Host.reads = native.read_tensors(functions, probe, probe.data_ptr(), torch.nn.Parameter, torch.dtype)
    if _Host.reads:
        _Host.signature = native.signature


def signature(args: tuple[Any, ...]) -> bytes | None:
    """Equal for arguments of equal shapes, strides, dtypes, devices, negations and scalars, of equal types; None where
    one is neither a plain tensor nor a scalar, or nobody can tell."""
    return _Host.signature(args)


def launch(function: Callable[..., Any], *args: Tensor | float | None) -> Any:
    """Call a function of `pggan_fast._cpu` with tensors, None and scalars.

    The tensors stay referenced for the whole call, during which other Python threads may run.
    Raises ValueError where a tensor is not in host memory: its address would mean nothing to a CPU kernel.
    """
    if _Host.reads:
        try:
            return function(*args)
        except TypeError:  # a tensor elsewhere, which is told below, or zeros that are nowhere
            args = tuple(a.clone() if isinstance(a, Tensor) and a._is_zerotensor() else a for a in args)
    return function(*_host_addresses(args))


def launch_cuda(function: Callable[..., Any], device: torch.device, *args: Tensor | float | None) -> Any:
    """Call a function of `pggan_fast._cuda` on `device` and its current stream; otherwise as `launch`.

    Tensors have been allocated on the stream that is current, so that their memory is not reused before the kernel ran.
    """
    index = device.index
    return function(index, _raw_stream(index), *_device_addresses(args, index, device))


_CPU = torch.device("cpu")
# torch.cuda.current_stream makes a Python object around it, in 15 us
_raw_stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)


def addresses(args: tuple[Any, ...], device: torch.device) -> list[Any]:
    """What a native function takes for these arguments; ValueError where a tensor is not on `device`."""
    return [arg if type(arg) in _SCALARS else 0 if arg is None else _address(arg, device) for arg in args]


def _host_addresses(args: tuple[Any, ...]) -> list[Any]:
    """The same on the CPU, where a call should cost little."""
    return [
        arg
        if type(arg) in _SCALARS
        else 0
        if arg is None
        else arg.data_ptr()
        if type(arg) is Tensor and arg.is_cpu
        else _address(arg, _CPU)
        for arg in args
    ]


def _device_addresses(args: tuple[Any, ...], index: int, device: torch.device) -> list[Any]:
    """The same on CUDA device `index`, where a call costs the host more than the device."""
    return [
        arg
        if type(arg) in _SCALARS
        else 0
        if arg is None
        else arg.data_ptr()
        if type(arg) in _PLAIN and arg.get_device() == index
        else _address(arg, device)
        for arg in args
    ]


def _address(tensor: Any, device: torch.device) -> int | float:
    if isinstance(tensor, (int, float)):  # NumPy's float64 is a float
        return tensor
    if tensor.device != device:
        raise ValueError(
            f"tensor: expected all of a call on {device}, as its kernel is, got one of shape {tuple(tensor.shape)} on "
            f"{tensor.device}; move it with .to({str(device)!r})"
        )
    address: int = tensor.data_ptr()
    return address


LARGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14
_madvise: Any = ctypes.CDLL(None).madvise if sys.platform == "linux" else None


def use_large_pages(tensor: Tensor) -> None:
    """Ask Linux for large pages under a CPU tensor of 4 MB or more that nobody has written yet, as NumPy does: the
    first touch of a small page takes longer than writing it."""
    size = tensor.nbytes
    if size < 2 * LARGE_PAGE or _madvise is None:
        return
    first = -(-tensor.data_ptr() // LARGE_PAGE) * LARGE_PAGE
    length = (tensor.data_ptr() + size) // LARGE_PAGE * LARGE_PAGE - first
    _madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)  # only advice, which may fail
