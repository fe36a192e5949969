"""`backend="cuda"` on CPU tensors: inside `emulated()` the CUDA kernels run on the host, every access checked."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pggan_fast.backends import cuda
from pggan_fast.backends.launch import addresses

FIFO, LIFO, RANDOM = range(3)  # the order in which threads and blocks run


class Fault(AssertionError):
    """The emulator saw a kernel do what it must not."""


@functools.cache
def module() -> Any:
    """The emulator's `_cuda`, built if need be. Raises BuildError where it cannot be."""
    import compiled

    path = str(compiled.build())
    loader = importlib.machinery.ExtensionFileLoader("_cuda", path)
    spec = importlib.util.spec_from_file_location("_cuda", path, loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    return found


def call(name: str, *args: Any) -> Any:
    """Call a native function on CPU tensors, which are device memory for that long; raises Fault."""
    m = module()
    function = getattr(m, name)
    if name.endswith("_workspace"):
        return function(0, 0, *addresses(args, torch.device("cpu")))
    storages = {t.untyped_storage().data_ptr(): t for t in args if isinstance(t, Tensor) and t.numel()}
    for start, t in storages.items():
        m.emulator.memory(start, t.untyped_storage().nbytes(), True, f"{tuple(t.shape)}")
    try:
        result = function(0, 0, *addresses(args, torch.device("cpu")))
    except RuntimeError as error:
        raise Fault("\n".join(located(m.emulator.errors())) or str(error)) from error
    finally:
        for start in storages:
            m.emulator.forget(start)
    if errors := m.emulator.errors():
        raise Fault("\n".join(located(errors)))
    return result


def located(errors: list[str]) -> list[str]:
    """Messages with file:line in place of addresses."""

    def source(match: re.Match[str]) -> str:
        tool = ["addr2line", "-e", module().__spec__.origin, "-i", match[1]]
        lines = subprocess.run(tool, capture_output=True, text=True, check=False).stdout.split()
        ours = [line for line in lines if ".cu" in line]
        return "at " + (ours or lines or [match[1]])[0].rpartition("/")[2]

    return [re.sub(r"@(0x[0-9a-f]+)", source, message) for message in errors]


@contextmanager
def emulated(policy: int = FIFO, seed: int = 1, stats: bool = False) -> Iterator[Any]:
    """Inside, `backend="cuda"` takes CPU tensors; yields the emulator's controls."""
    m = module()
    m.emulator.configure(seed=seed, policy=policy, stats=stats)
    before, cuda.emulator = cuda.emulator, call
    try:
        yield m.emulator
    finally:
        cuda.emulator = before
