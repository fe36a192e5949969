"""The bridge from tensors to native functions: the only place that takes a tensor's address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

_SCALARS = frozenset((int, float, bool))  # looked up by exact type first: isinstance takes 0.2 us an argument


def launch(function: Callable[..., None], *args: Tensor | float | None) -> None:
    """Call a function of `pggan_fast._cpu` with addresses for tensors, 0 for None and scalars as they are.

    The tensors stay referenced for the whole call, during which other Python threads may run.
    Raises ValueError where a tensor is not in host memory: its address would mean nothing to a CPU kernel.
    """
    function(*[arg if type(arg) in _SCALARS else 0 if arg is None else _address(arg) for arg in args])


def _address(tensor: Any) -> int | float:
    if isinstance(tensor, (int, float)):  # NumPy's float64 is a float
        return tensor
    if not tensor.is_cpu:
        raise ValueError(f"a CPU kernel got a tensor on {tensor.device}; all tensors of a call must be on the CPU")
    address: int = tensor.data_ptr()
    return address
