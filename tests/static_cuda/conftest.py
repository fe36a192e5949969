"""Tests of the CUDA kernels' machine code: they need nvcc and a disassembler, and no device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from static import sass
from static_cuda.programs import recipe

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # cuda_static_analysis, the command


def missing() -> str | None:
    try:
        recipe.nvcc()
    except recipe.BuildError as error:
        return str(error)
    return None if sass.tool("nvdisasm") else "no nvdisasm, in Triton's package or the CUDA toolkit"


@pytest.fixture(autouse=True, scope="session")
def compiler() -> None:
    if reason := missing():
        pytest.skip(f"compiles CUDA kernels: {reason}")
