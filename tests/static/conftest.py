"""Tests of machine code: a process in which kernels are compiled, not interpreted."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))  # static_analysis, the command


@pytest.fixture(autouse=True)
def compiler() -> None:
    from pggan_fast.kernels.launch import INTERPRETED

    if INTERPRETED:
        pytest.skip("compiles kernels, which needs TRITON_INTERPRET unset in the environment")


collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
