"""Backend "cuda": the CUDA C++ kernels of csrc/cuda.

Convolutions of few channels at high resolutions, where a tile's inputs, weights and results fit one multiprocessor;
and everything that is bound by memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import registry
from pggan_fast.backends.cpu import missing
from pggan_fast.backends.launch import launch_cuda
from pggan_fast.backends.native import NativeOps
from pggan_fast.backends.registry import backend_status, no_cuda_build, unavailable

native: Any = None
_missing: str | None = None
try:
    from pggan_fast import _cuda as native  # type: ignore[attr-defined, no-redef, unused-ignore]
except ImportError as error:
    _missing = str(error)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST_ELEMENTS = 8 << 20
# In tests: calls the functions of the host emulator on CPU tensors, or notes them for meta tensors; no device.
emulator: Callable[..., Any] | None = None


def why_missing() -> str | None:
    """Why the CUDA kernels cannot be used, with the remedy; asks no driver where torch has no CUDA."""
    if emulator is not None:
        return None
    if native is None:
        return missing("_cuda", _missing, "reinstall pggan_fast with nvcc on the PATH")
    return no_cuda_build() or _driver_too_old()


@functools.cache
def _driver_too_old() -> str | None:
    driver, runtime = native.driver_version(), native.runtime_version()
    if driver == 0:
        return "no CUDA driver answers"
    if driver // 1000 < runtime // 1000:
        return f"the driver is for CUDA {driver // 1000}, the kernels need CUDA {runtime // 1000}; update the driver"
    return None


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def unsupported(x: Tensor, *others: Any) -> str | None:
    """Reason of every op: the first tensor's device and dtype decide, the rest has been checked against it."""
    if x.dtype not in DTYPES:
        return f"it has no kernels for {x.dtype}; use backend='aten' or 'reference'"
    if emulator is not None:
        return None if x.is_cpu or x.is_meta else f"the emulator runs on CPU tensors, got {x.device}"
    if not x.is_cuda:
        return f"it needs tensors on a CUDA device, got {x.device}"
    if _capability(x.device) < (8, 0):
        return f"{torch.cuda.get_device_name(x.device)} is older than compute capability 8.0"
    return None


def cheap_to_launch(way: str, op: str, elements: Callable[..., int] = lambda x, *_: int(x.numel())) -> Any:
    """The rule of an op that is bound by memory, and done by `way` of Triton too: a launch from C++ takes the host less
    than half as long, and on large tensors Triton's kernels take the device less."""

    def rule(*args: Any) -> str | None:
        if why_missing() is not None:
            return "it is not installed"
        if elements(*args) <= MOST_ELEMENTS or unavailable(way) is not None:
            return None
        rival = registry._TABLE.get((way, op))
        if rival is None or rival.supports(*args) is not None:
            return None
        return f"of more than {MOST_ELEMENTS} elements Triton's kernels are faster"

    return rule


def launch(name: str, *args: Any) -> Any:
    """Call the native function `name` on the device of its first tensor."""
    if emulator is not None:
        return emulator(name, *args)
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    return launch_cuda(getattr(native, name), device, *args)


backend_status("cuda", why_missing)
ops = NativeOps(launch, workspaces=True)
ops.register("cuda", unsupported, functools.partial(cheap_to_launch, "triton"))
