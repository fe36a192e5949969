"""The bridge from tensors to native functions: the only place that takes a tensor's address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def launch(function: Callable[..., None], *args: Tensor | float | None) -> None:
    """Call a function of `pggan_fast._cpu` with addresses for tensors, 0 for None and scalars as they are.

    The tensors stay referenced for the whole call, during which other Python threads may run.
    Raises ValueError where a tensor is not in host memory: its address would mean nothing to a CPU kernel.
    """
    function(*[_address(arg) if isinstance(arg, Tensor) else 0 if arg is None else arg for arg in args])


def _address(tensor: Tensor) -> Any:
    if not tensor.is_cpu:
        raise ValueError(f"a CPU kernel got a tensor on {tensor.device}; all tensors of a call must be on the CPU")
    return tensor.data_ptr()
