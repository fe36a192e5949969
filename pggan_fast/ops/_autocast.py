"""What torch.autocast does to the ops' dtypes: `pggan_fast.ops` has the table.

An op asks once, before it checks its arguments, for the device of its first tensor. Registered ops below turn autocast
off for what they call, so that backward and double backward keep the dtypes of the forward pass in any context.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def dtype_for(x: object) -> torch.dtype | None:
    """Autocast's dtype on the device of x; None where it is off, and for what it leaves alone, as float64."""
    if not isinstance(x, Tensor) or x.is_meta:
        return None
    kind = "cpu" if x.is_cpu else x.device.type
    if not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind) if x.dtype in (torch.float32, *HALF) else None


def lowered(x: Tensor) -> Tensor:
    """The input of a product: in autocast's dtype where autocast is on."""
    dtype = dtype_for(x)
    return x if dtype is None else x.to(dtype)


def promoted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of a blend: where autocast is on, both in the wider type, as `torch.cat` and a sum by hand promote."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.dtype == b.dtype:
        return a, b
    if dtype_for(a) is None and dtype_for(b) is None:
        return a, b
    wider = torch.promote_types(a.dtype, b.dtype)
    return a.to(wider), b.to(wider)


def off(x: Tensor) -> AbstractContextManager[Any]:
    """For plain PyTorch on x, whose dtypes have been chosen; torch's own `cat` refuses the other half type."""
    return nullcontext() if dtype_for(x) is None else torch.autocast(x.device.type, enabled=False)


def parameter(p: Any, x: Tensor) -> Any:
    """A weight or bias beside x: where autocast is on, one of a half type that is not x's goes as float32.

    A float32 one stays as it is and is rounded inside, once, after its scale.
    """
    if isinstance(p, Tensor) and p.dtype in HALF and dtype_for(x) is not None and p.dtype != x.dtype:
        return p.to(torch.float32)
    return p
