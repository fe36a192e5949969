"""Signals that ask a training to end: it saves first."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_ASKING = [name for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Stop:
    """`with Stop() as stop`: `stop.signal` is the name of the one that came, else None. A second SIGINT interrupts.

    SIGUSR1 is what SLURM's --signal=USR1@120 sends before the time is up.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[str, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # Python's rule for handlers
            for name in _ASKING:
                self._before[name] = signal.signal(getattr(signal, name), self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, handler in self._before.items():
            signal.signal(getattr(signal, name), handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name

    @property
    def status(self) -> int:
        """The exit status that shells give for the signal."""
        return 0 if self.signal is None else 128 + getattr(signal, self.signal)
