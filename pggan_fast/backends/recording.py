"""Who wants to know of every internal op that runs: `explain`, and tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

recorders: list[Callable[[str, str | None, tuple[Any, ...]], None]] = []
_quiet = threading.local()  # .on: of this thread recorders see nothing


@contextmanager
def recorded(recorder: Callable[[str, str | None, tuple[Any, ...]], None]) -> Iterator[None]:
    """Within this context `recorder(op, backend, args)` sees every internal op that runs, in any thread."""
    recorders.append(recorder)
    try:
        yield
    finally:
        recorders.remove(recorder)


def record(op: str, backend: str | None, args: tuple[Any, ...]) -> None:
    if not getattr(_quiet, "on", False):
        for recorder in tuple(recorders):
            recorder(op, backend, args)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Within this context recorders see nothing of this thread: a check's own calls are not the user's."""
    before, _quiet.on = getattr(_quiet, "on", False), True
    try:
        yield
    finally:
        _quiet.on = before
