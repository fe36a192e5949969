"""What every test file gets: one thread (the arrays are tiny), a clean environment, and the poison fixture."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import grid
import hypothesis
import pytest
import torch
from allocators import poisoned, wrap_allocators
from choices import forget_choices

from pggan_fast.backends import registry
from pggan_fast.backends.triton import availability

if availability.interpreted():  # Triton's interpreter is wrong for bfloat16
    import triton_bf16

    triton_bf16.apply()
    availability.interpreter_knows_bfloat16 = True

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def repeats(item: pytest.Item) -> bool:
    """Whether a test of tests/ops runs none of the kernels in slow motion: `make test` has it in its third process.

    Without a name these kernels are never chosen for the CPU's tensors.
    """
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return item.path.parent == grid.OPS and params.get("backend") not in grid.BACKENDS_UNDER_TEST


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long begin first: one that began last would keep a process busy when all others are done."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    if grid.SLOW_MOTION:
        config.hook.pytest_deselected(items=[item for item in items if repeats(item)])
        items[:] = [item for item in items if not repeats(item)]


def pytest_collection_finish() -> None:
    """Ten thousand tests stay: gc.collect() in one of them, which took 0.3 s for these alone, looks at them no more."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # what stays at the exit, Triton's bindings call a leak


@pytest.fixture(scope="session", autouse=True)
def emulated_process() -> Iterator[None]:
    """Under PGGAN_TEST_EMULATOR=1, backend "cuda" is the host emulator's (tests/emulator) for the whole process."""
    if not grid.EMULATED:
        yield
        return
    sys.path.append(str(Path(__file__).parent / "emulator"))
    import emulate

    if reason := emulate.why_missing():
        pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
    torch.backends.cudnn.allow_tf32 = False  # products as exact as the CPU's, which they are compared with
    with emulate.emulated():
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No table of the user's, and none of the test's for the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGGAN_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def fresh_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing measured, checked, warned of or chosen before, and an empty cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(folder))
    monkeypatch.setattr(registry, "_WARNED", set())
    forget_choices()
    yield folder
    forget_choices()


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same numbers in every order of tests, and no choice of backend from the shell that runs them."""
    for name in ("PGGAN_FAST_BACKEND", "PGGAN_FAST_STRICT"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs hold NaN before a kernel writes them, so that an element never written shows in every comparison."""
    wrap_allocators(monkeypatch, poisoned)
