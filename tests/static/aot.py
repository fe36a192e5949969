"""Compile recorded launches for chips that are not here, and read what the machine code says. Nothing runs."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from static import sass
from static.record import Job, source_of
from triton.backends.compiler import GPUTarget

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "triton-static"  # Triton's own: a kernel that did not change is not compiled again


@dataclass(frozen=True)
class Program:
    """What the compiled job needs of a chip. `failed` is the compiler's message where there is no program."""

    registers: int = 0
    shared: int = 0  # bytes per block
    stack: int = 0  # bytes per thread
    warps: int = 0
    stages: int = 0
    opcodes: tuple[tuple[str, int], ...] = ()
    dot: bool = False  # the source holds a tl.dot
    failed: str | None = None

    def count(self, name: str) -> int:
        return dict(self.opcodes).get(name, 0)


def compile_job(job: Job) -> Program:
    """Compile and disassemble; a refusal by Triton or ptxas is a result too."""
    importlib.import_module(job.module)
    try:
        compiled = triton.compile(source_of(job), target=GPUTarget("cuda", job.cc, 32), options=dict(job.options))
    except Exception as error:  # CompilationError, PTXASError, and what the language raises inside
        return Program(failed=f"{type(error).__name__}: {error}")
    registers, stack = resources(compiled.asm["cubin"])
    code = sass.disassemble(compiled.asm["cubin"])
    return Program(
        registers=registers,
        shared=int(compiled.metadata.shared),
        stack=stack,
        warps=int(compiled.metadata.num_warps),
        stages=int(compiled.metadata.num_stages),
        opcodes=tuple(sass.count(code).items()),
        dot="tt.dot" in compiled.asm["ttir"],
    )


def resources(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack) per thread."""
    usage = sass.run_tool("cuobjdump", "-res-usage", cubin=cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump names no registers: {usage}")
    return int(found[1]), int(found[2])


def compile_all(jobs: Iterable[Job], processes: int = 2, progress: Any = None) -> dict[Job, Program]:
    """Every job in worker processes that start afresh, with Triton's cache in build/. `progress(done, total)`."""
    jobs = list(dict.fromkeys(jobs))
    if not jobs:
        return {}
    programs = {}
    context = get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, prepare, (list(sys.path), str(CACHE))) as pool:
        waiting = {pool.submit(compile_job, job): job for job in jobs}
        for done, future in enumerate(as_completed(waiting), 1):
            programs[waiting[future]] = future.result()
            if progress is not None:
                progress(done, len(jobs))
    return {job: programs[job] for job in jobs}


def prepare(path: list[str], cache: str) -> None:
    """In a worker, before it imports a kernel."""
    sys.path[:] = path
    os.environ["TRITON_CACHE_DIR"] = cache


def versions() -> dict[str, str]:
    """Of what decides the result."""
    found = {"triton": triton.__version__}
    for name in ("ptxas", "ptxas-blackwell"):
        tool = sass.TRITON_TOOLS / name
        if tool.exists():
            text = subprocess.run([str(tool), "--version"], capture_output=True, text=True, check=True).stdout
            release = re.search(r"V([\d.]+)", text)
            found[name] = release[1] if release else text.strip()
    return found
