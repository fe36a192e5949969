"""Launching: the grid, the device guard, and nothing else per call."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

# Read by triton.jit when a kernel's module is imported: kernels then run on CPU tensors, one program after another.
INTERPRETED: bool = triton.knobs.runtime.interpret


def launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *args: Any, **options: Any) -> None:
    """Run `kernel` over `grid` on the device of `x`, its first argument, and that device's current stream."""
    if 0 in grid:
        return
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            kernel[grid](x, *args, **options)
    else:
        kernel[grid](x, *args, **options)


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The least power of two that is >= n: what tl.arange takes."""
    return 1 << max(0, n - 1).bit_length()
