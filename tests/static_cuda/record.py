"""What the launchers of csrc/cuda would launch on a chip: noted instead of run, for tensors that need no memory.

The sources are compiled by g++ as for the emulator, with a LAUNCH that writes down the kernel, its grid, its block and
its dynamic shared memory, which no compiler knows.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from static.chips import CHIPS
from static_cuda import programs
from static_cuda.programs import ROOT, recipe
from torch import Tensor

from pggan_fast.backends import cuda

EMULATOR = ROOT / "tests" / "emulator"
HERE = Path(__file__).parent / "recorder"
FOLDER = ROOT / "build" / "cuda-recorder"
MULTIPROCESSORS = 132
SOMEWHERE = 1 << 40  # a tensor's address where it has none
UNASKED = 48 * 1024  # bytes of shared memory that a launch gets without cudaFuncSetAttribute


@dataclass(frozen=True)
class Launch:
    kernel: str  # file.kernel<arguments>
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int  # dynamic, bytes
    opted: int  # the most that cudaFuncSetAttribute has asked for

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]


def cuda_headers() -> str:
    sys.path.insert(0, str(EMULATOR))
    import compiled

    return compiled.cuda_headers()


def module() -> recipe.Module:
    common = ["-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-w", "-DPGGAN_EMULATOR"]
    common.append(f"-I{cuda_headers()}")
    noting, python = [*common, f"-I{HERE}"], recipe.python_flags()
    emulator = [source for source in sorted(EMULATOR.glob("*.cpp")) if source.stem != "bind"]
    host = [HERE / "recorder.cpp", ROOT / "csrc" / "bind" / "cuda_module.cpp"]

    def objects(sources: Iterable[Path], flags: list[str]) -> list[recipe.Object]:
        return [recipe.Object(s, f"{s.stem}.o", recipe.cxx(), flags) for s in sources]

    return recipe.Module(
        objects(programs.sources(), [*noting, "-x", "c++"])
        + objects(emulator, [*common, f"-I{EMULATOR}"])
        + objects(host, [*noting, *python]),
        recipe.cxx(),
        ["-shared"],
    )


@functools.cache
def build() -> Path:
    output = FOLDER / "_cuda.so"
    recipe.build(module(), FOLDER, output)
    return output


@functools.cache
def for_chip(cc: int) -> Any:
    """The module on such a chip; each has its own, since launchers may remember what the device said."""
    original, path = build(), FOLDER / f"sm{cc}" / "_cuda.so"
    path.parent.mkdir(exist_ok=True)
    shutil.copy2(original, path)
    name = f"recorder_sm{cc}._cuda"  # pybind11 gives the same module for the same name
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, str(path), loader=loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    loader.exec_module(found)
    chip = CHIPS[cc]
    found.emulator.chip(MULTIPROCESSORS, chip.shared_block, chip.shared)
    return found


@functools.cache
def symbols() -> dict[int, str]:
    """The module's functions, by offset."""
    told = subprocess.run(["nm", "--defined-only", str(build())], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in told.splitlines()]
    return {int(at, 16): name for at, kind, name in lines if kind in "tTwW"}


@functools.cache
def kernel_at(file: str, offset: int) -> str:
    return f"{Path(file).stem}.{programs.demangled([symbols()[offset]])[0]}"


Call = tuple[Any, ...]  # a function of _cuda and its arguments, tensors as addresses


@contextmanager
def recorded(cc: int) -> Iterator[list[Call]]:
    """Inside, calls of the CUDA backend go to the list, and compute nothing; questions are answered as on the chip."""
    native, calls = for_chip(cc), []

    def call(name: str, *args: Any) -> Any:
        plain = [_address(a) if isinstance(a, Tensor) else 0 if a is None else a for a in args]
        calls.append((name, *plain))
        answer = getattr(native, name)(0, 0, *plain)
        native.emulator.take()
        return answer

    before, cuda.emulator = cuda.emulator, call
    try:
        yield calls
    finally:
        cuda.emulator = before


def _address(t: Tensor) -> int:
    """Aligned like the tensor's own."""
    return 0 if t.numel() == 0 else SOMEWHERE + t.storage_offset() * t.element_size()


def launches_of(calls: Iterable[Call], cc: int) -> list[Launch]:
    """What those calls launch on a chip, each kind of launch once."""
    native, found = for_chip(cc), {}
    for name, *args in calls:
        getattr(native, name)(0, 0, *args)
        for file, offset, *launch in native.emulator.take():
            found[Launch(kernel_at(file, offset), *launch)] = None
    return list(found)
