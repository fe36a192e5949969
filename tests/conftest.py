"""What every test file gets: one thread (the arrays are tiny), a clean environment, and the poison fixture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor

from pggan_fast.backends import layout
from pggan_fast.backends.triton import availability

if availability.interpreted():  # Triton's interpreter is wrong for bfloat16
    import triton_bf16

    triton_bf16.apply()
    availability.interpreter_knows_bfloat16 = True

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


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


def spoil(t: Tensor) -> Tensor:
    """Fill with what no computation leaves unseen: NaN, or a bit pattern."""
    return t.fill_(float("nan") if t.is_floating_point() else 0xA5)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs hold NaN before a kernel writes them, so that an element never written shows in every comparison."""
    real_empty, real_new_empty = layout.empty, torch.Tensor.new_empty

    def empty(*args: Any, **options: Any) -> Tensor:
        return spoil(real_empty(*args, **options))

    def new_empty(self: Tensor, *args: Any, **options: Any) -> Tensor:
        return spoil(real_new_empty(self, *args, **options))

    for name, module in list(sys.modules.items()):  # modules that hold the allocator by its name too
        if name.startswith("pggan_fast") and getattr(module, "empty", None) is real_empty:
            monkeypatch.setattr(module, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
