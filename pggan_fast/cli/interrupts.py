"""Ctrl-C, which ends a command with one line and status 130 wherever it comes."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

STATUS = 128 + signal.SIGINT


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within it a Ctrl-C is a KeyboardInterrupt, unless it is ignored, as nohup and `&` of a script have it."""
    before = None
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def became(error: BaseException) -> bool:
    """Whether an error is only what a Ctrl-C became: an import that it stops half-way may end as any.

    An error that comes after a command has dealt with its Ctrl-C is one of its own.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, KeyboardInterrupt):
            return True
        if id(one) not in seen:
            seen.add(id(one))
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]
    return False


def say() -> None:
    """The line, below the ^C that a terminal shows."""
    print(f"{chr(10) if sys.stderr.isatty() else ''}pggan-fast: interrupted", file=sys.stderr)
