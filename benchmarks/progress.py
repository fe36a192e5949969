"""What is running now: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress as LiveProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


class Progress:
    """`with Progress(console) as progress: progress("what begins now")`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = time.perf_counter()
        self.live: LiveProgress | None = None
        if console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self.live = LiveProgress(*columns, console=console, transient=True)
            self.task = self.live.add_task("starting")

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, text: str) -> None:
        if self.live:
            self.live.update(self.task, description=text)
        else:
            seconds = time.perf_counter() - self.started
            self.console.print(f"[{seconds:5.0f} s] {text}", markup=False, highlight=False, soft_wrap=True)
