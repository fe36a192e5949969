"""`with use_backend(name): ...`: who runs the ops that name no backend themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar

from pggan_fast import settings
from pggan_fast.backends.registry import BACKENDS


class _Forced:
    """Process-wide, as torch.compile guards on an attribute and on nothing per thread: a graph is made per backend."""

    backend: str | None = None  # of the last context that is open, None: none is; "": the automatic choice
    contexts: ClassVar[list[list[str]]] = []  # one name each; by identity, as threads may end them in any order


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Within this context, ops and layers that name no backend run by `name`; None or "auto": the automatic choice.

    A `backend=` of the op or layer wins over it, and it wins over PGGAN_FAST_BACKEND. Backward passes run by the
    backend of their forward pass, inside the context or after it. It holds for all threads of the process; contexts may
    be nested. "reference" gives graphs of plain ATen ops, for torch.export; a program exported by another backend is
    loaded only where pggan_fast was imported. Raises ValueError for an unknown name; a backend that cannot run raises
    BackendUnavailable at the first op.
    """
    check(name, "name")
    mine = ["" if name is None or name == "auto" else name]
    _Forced.contexts.append(mine)
    _Forced.backend = mine[0]
    try:
        yield
    finally:
        _Forced.contexts[:] = [context for context in _Forced.contexts if context is not mine]
        _Forced.backend = _Forced.contexts[-1][0] if _Forced.contexts else None


def check(backend: str | None, argument: str = "backend") -> None:
    """Raise ValueError where an argument is no backend's name."""
    if backend not in (None, "auto", *BACKENDS):
        raise ValueError(f"{argument}: expected None, auto or one of {', '.join(BACKENDS)}, got {backend!r}")


def named(backend: str | None) -> str:
    """The backend of a call: its argument's, the context's, the environment's; "" for the automatic choice.

    Raises ValueError where the argument or PGGAN_FAST_BACKEND is no backend's name.
    """
    if backend is not None:
        if backend not in BACKENDS:
            check(backend)
            return ""
        return backend
    if _Forced.backend is not None:
        return _Forced.backend
    name = settings.backend()
    if name is not None and name not in BACKENDS:
        raise ValueError(f"PGGAN_FAST_BACKEND: expected auto or one of {', '.join(BACKENDS)}, got {name!r}")
    return name or ""
