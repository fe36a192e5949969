"""The bridge from tensors to native functions: the only place that takes a tensor's address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SCALARS = frozenset((int, float, bool))  # looked up by exact type first: isinstance takes 0.2 us an argument


def launch(function: Callable[..., Any], *args: Tensor | float | None) -> Any:
    """Call a function of `pggan_fast._cpu` with addresses for tensors, 0 for None and scalars as they are.

    The tensors stay referenced for the whole call, during which other Python threads may run.
    Raises ValueError where a tensor is not in host memory: its address would mean nothing to a CPU kernel.
    """
    return function(*addresses(args, _CPU))


def launch_cuda(function: Callable[..., Any], device: torch.device, *args: Tensor | float | None) -> Any:
    """Call a function of `pggan_fast._cuda` on `device` and its current stream; otherwise as `launch`.

    Tensors have been allocated on the stream that is current, so that their memory is not reused before the kernel ran.
    """
    stream = torch.cuda.current_stream(device).cuda_stream
    return function(device.index, stream, *addresses(args, device))


_CPU = torch.device("cpu")


def addresses(args: tuple[Any, ...], device: torch.device) -> list[Any]:
    """What a native function takes for these arguments; ValueError where a tensor is not on `device`."""
    return [arg if type(arg) in _SCALARS else 0 if arg is None else _address(arg, device) for arg in args]


def _address(tensor: Any, device: torch.device) -> int | float:
    if isinstance(tensor, (int, float)):  # NumPy's float64 is a float
        return tensor
    if tensor.device != device:
        raise ValueError(f"a kernel on {device} got a tensor on {tensor.device}; all tensors of a call must be there")
    address: int = tensor.data_ptr()
    return address
