"""Every environment variable that the library reads, in one table."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLES = {
    "PGGAN_FAST_BACKEND": "backend of every op that names none: auto (default), reference, aten, cpu, triton or cuda",
    "PGGAN_FAST_STRICT": "1: where the automatic choice would fall back to a slower backend, raise instead of warning",
    "PGGAN_FAST_CACHE": "folder of measurements and checks; default: pggan_fast in $XDG_CACHE_HOME, else in ~/.cache",
    "PGGAN_FAST_CPU_ISA": "instruction set of the CPU kernels: baseline, avx2 or avx512; default: the best there is",
    "PGGAN_FAST_CPU": "at build time. 0: never build the CPU kernels; with PGGAN_FAST_CUDA=0 the wheel fits any system",
    "PGGAN_FAST_CUDA": "at build time. 1: build the CUDA kernels without a CUDA device too; 0: never build them",
}


def value(name: str) -> str | None:
    """One of VARIABLES as it is set; None where it is unset or empty."""
    return os.environ.get(name) or None


def backend() -> str | None:
    """The backend that PGGAN_FAST_BACKEND asks for; None for the automatic choice."""
    name = os.environ.get("PGGAN_FAST_BACKEND", "auto")
    return None if name in ("", "auto") else name


def strict() -> bool:
    return os.environ.get("PGGAN_FAST_STRICT", "0") not in ("", "0")


def cpu_isa() -> str | None:
    return os.environ.get("PGGAN_FAST_CPU_ISA") or None


def cache_folder() -> Path:
    given = os.environ.get("PGGAN_FAST_CACHE")
    if given:
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pggan_fast"
    except RuntimeError:  # a user without a home: nothing is kept
        return Path(os.devnull) / "pggan_fast"
