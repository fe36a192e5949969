"""Tests of the Triton kernels run in the interpreter: a process with TRITON_INTERPRET=1, bfloat16 put right."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # traffic
MISSING = find_spec("triton") is None


class WithoutTriton(pytest.Module):
    """A test file that cannot even be imported here."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        pytest.skip("Triton is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return WithoutTriton.from_parent(parent, path=module_path) if MISSING else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "any_process: needs no interpreter, or starts its own")


@pytest.fixture(autouse=True)
def interpreter(request: pytest.FixtureRequest) -> None:
    """Everything in this folder runs in the interpreter, less what is marked any_process."""
    from pggan_fast.kernels.launch import INTERPRETED

    if not INTERPRETED and request.node.get_closest_marker("any_process") is None:
        pytest.skip("runs in Triton's interpreter, which needs TRITON_INTERPRET=1 in the environment")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles of the epilogues that small images fill and cross."""
    from pggan_fast.kernels import bias_act

    monkeypatch.setattr(bias_act, "ELEMENTS", 256)
    bias_act.tiling.cache_clear()
    yield
    bias_act.tiling.cache_clear()
