"""What tests of the CPU kernels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_checks import poisoned

from pggan_fast.backends import cpu, native


@pytest.fixture
def poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Outputs hold NaN before a kernel writes them; the test may choose among the instruction sets."""
    for allocator in ("empty", "allocate"):
        monkeypatch.setattr(native, allocator, poisoned(getattr(native, allocator)))
    before = cpu.describe()["isa"]
    yield
    cpu.set_isa(before)
