"""Where a training is now, drawn for the width that the terminal has at that moment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pggan_fast.metrics.running import duration

GAP = 2  # columns between two fields
NARROW = 60  # columns; no bar below


@dataclass
class Status:
    """A bar over kimg, and below it as many lines of fields as the width asks for."""

    total_kimg: float
    kimg: float = 0.0
    resolution: int = 0  # 0: nothing is known yet
    alpha: float = 1.0
    batch: int = 0
    losses: Mapping[str, float] = field(default_factory=dict)
    sec_per_kimg: float = math.nan
    waiting: float = 0.0
    eta_s: float = math.nan
    memory: Mapping[str, float] = field(default_factory=dict)  # GB by place

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        share = self.kimg / self.total_kimg if self.total_kimg > 0 else 1.0
        seen, part = f"{self.kimg:.1f} of {self.total_kimg:g} kimg", f"{100 * min(share, 1.0):.1f}%"
        eta = duration(self.eta_s) if math.isfinite(self.eta_s) else "-"
        fields = list(self._fields()) if self.resolution else [("starting", "")]
        if options.max_width < NARROW:
            yield from _lines([("", seen), ("", part), ("ETA", eta), *fields], options.max_width)
            return
        head = Table.grid(padding=(0, GAP, 0, 0), expand=True)
        head.add_column(ratio=1)
        for _ in range(3):
            head.add_column(justify="right", no_wrap=True)
        head.add_row(ProgressBar(total=1.0, completed=share), seen, part, Text(f"ETA {eta}", style="cyan"))
        yield head
        yield from _lines(fields, options.max_width)

    def _fields(self) -> Iterable[tuple[str, str]]:
        """Names and values."""
        yield "", f"{self.resolution}x{self.resolution}"
        yield "alpha", f"{self.alpha:.2f}"
        yield "batch", f"{self.batch}"
        for name, value in self.losses.items():
            yield name.removeprefix("Loss/"), f"{value:+.3f}" if abs(value) < 1000 else f"{value:+.2e}"
        yield "s/kimg", f"{self.sec_per_kimg:.2f}" if math.isfinite(self.sec_per_kimg) else "-"
        yield "wait", f"{100 * self.waiting:.0f}%"
        for place, gb in self.memory.items():
            yield place, f"{gb:.1f} GB"


def _lines(fields: Iterable[tuple[str, str]], width: int) -> list[Text]:
    """Fields side by side, none broken unless it is wider than a line."""
    lines = [Text()]
    for name, value in fields:
        part = Text.assemble((f"{name} " if name else "", "dim"), value)
        if lines[-1] and len(lines[-1]) + GAP + part.cell_len > width:
            lines.append(Text())
        lines[-1] = lines[-1].append_text(Text(" " * GAP if lines[-1] else "").append_text(part))
    return lines
