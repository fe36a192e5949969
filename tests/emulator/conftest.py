"""The CUDA kernels on the host: every test here needs the emulator, and finds NaN where a kernel has not written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import emulate


@pytest.fixture(scope="session", autouse=True)
def emulator() -> None:
    """Builds the emulator once, or skips with the reason why it cannot be built."""
    if reason := emulate.why_missing():
        pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")


@pytest.fixture(autouse=True)
def poisoned(emulator: None, poison: None) -> None:
    """What `poison` does, for all."""
