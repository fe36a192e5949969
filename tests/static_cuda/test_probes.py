"""The probes of port.h that tests/gpu runs on a device: they compile, load, and are the instructions they name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from static_cuda import gate, programs

GPU = Path(__file__).parents[1] / "gpu"
EXPECTED = {"mma<": "mma", "matrices<": "matrix_loads", "copies": "async_copies"}


@pytest.fixture(scope="module")
def probes() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_probes", GPU / "probes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("code", gate.COMPILED)
def test_each_operation_becomes_its_instruction(probes: Any, code: int) -> None:
    compiled = programs.compile_cached(probes.EMULATOR / "probes.cu", code)
    assert compiled.failed is None, compiled.failed
    seen = set()
    for program in compiled.programs:
        for start, instruction in EXPECTED.items():
            if program.kernel.startswith(f"probes.seeded::{start}"):
                assert program.instructions[instruction] > 0, program.kernel
                seen.add(start)
    assert seen == set(EXPECTED)


def test_they_load_without_a_driver(probes: Any) -> None:
    library = probes.library(("9.0",))
    assert probes.names(library) == set(probes.INPUTS)


def test_their_inputs_are_as_long_as_the_kernels_read(probes: Any) -> None:
    lengths = {name: len(make(np.random.default_rng(0))) for name, (make, _) in probes.INPUTS.items()}
    products = dict.fromkeys(("mma_f16", "mma_bf16", "mma_tf32"), 320)
    assert lengths == {**dict.fromkeys(probes.INPUTS, 128), **products, "shuffles": 32, "sums": 32}
