"""Whether the Triton kernels can run here, and which arguments they take."""

from __future__ import annotations

import functools
import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends.registry import no_cuda_build

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Triton's interpreter multiplies the bits of bfloat16 numbers; tests mend it, and say so here.
interpreter_knows_bfloat16 = False
SHARED_MEMORY = 99 * 1024  # of compute capability 8.6, 8.9 and 12.0, the least from 8.0 on


def interpreted() -> bool:
    """TRITON_INTERPRET=1: the kernels run in Python, on CPU tensors. Triton reads it once, at import."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")  # as Triton reads it


@functools.cache
def why_missing() -> str | None:
    """Why this installation has no Triton backend, with the remedy; asks no driver, so that a later fork stays safe."""
    if find_spec("triton") is None:
        return "Triton is not installed; a CUDA build of torch for Linux brings it, else: pip install triton"
    if interpreted():
        return None
    reason = no_cuda_build()
    return reason and (
        f"{reason}, or start Python with TRITON_INTERPRET=1 to run the kernels interpreted, slowly, on CPU tensors"
    )


def unsupported(x: Tensor, *others: Any) -> str | None:
    """Reason of every op: the first tensor's device and dtype decide, the rest has been checked against it."""
    if interpreted():
        if not x.is_cpu:
            return f"TRITON_INTERPRET=1 runs on CPU tensors, got {x.device}"
        if x.dtype == torch.bfloat16 and not interpreter_knows_bfloat16:
            return "Triton's interpreter is wrong for bfloat16; use float32 or float16 under TRITON_INTERPRET=1"
    elif not x.is_cuda:
        return f"it needs tensors on a CUDA device, got {x.device}"
    if x.dtype not in DTYPES:
        return f"it has no kernels for {x.dtype}; use backend='aten' or 'reference'"
    if x.dtype == torch.bfloat16:
        return _too_old(x, "bfloat16 arithmetic")
    return None


def unsupported_product(x: Tensor, *others: Any) -> str | None:
    """Reason of the convolutions: below compute capability 8.0 Triton makes no tensor-core instructions."""
    return unsupported(x) or _too_old(x, "tensor-core products by Triton")


def _too_old(x: Tensor, what: str) -> str | None:
    if not x.is_cuda or capability(x.device) >= (8, 0):
        return None
    return f"{torch.cuda.get_device_name(x.device)} has no {what}, which need compute capability 8.0"


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have; where there is no device, the least of the supported ones."""
    if device.type != "cuda":
        return SHARED_MEMORY
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)
