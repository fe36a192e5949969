"""How far a long piece of work is: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY_S = 5.0


class Bar:
    """`with Bar(console, "converting") as bar: bar(done, of, "a word more")`."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._started = self._last = time.perf_counter()
        self._live: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._live = Progress(*columns, console=console, transient=True)
            self._task = self._live.add_task(title, total=None)

    def __enter__(self) -> Bar:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, done: int, total: int, text: str = "") -> None:
        now = time.perf_counter()
        if self._live:
            self._live.update(self._task, completed=done, total=total, description=f"{self._title}{text}")
        elif done == total or now - self._last >= EVERY_S:
            self._last = now
            line = f"[{now - self._started:5.0f} s] {self._title}{text}: {done} of {total}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
