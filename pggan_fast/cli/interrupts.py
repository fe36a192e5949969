"""Ctrl-C, which ends a command with one line and status 130 wherever it comes."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

STATUS = 128 + signal.SIGINT


class Interrupt:
    """`with Interrupt() as interrupt`: `interrupt.came` says whether an error is only what a Ctrl-C became.

    An import that it stops half-way may end as any error, a KeyboardInterrupt within a C extension as another.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and `&` of a script have it
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def say() -> None:
    """The line, below the ^C that a terminal shows."""
    print(f"{chr(10) if sys.stderr.isatty() else ''}pggan-fast: interrupted", file=sys.stderr)
