"""What `fuse` did and did not do."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """One module: what it was seen to do, and whether that runs fused now.

    `error`: the largest relative difference in float64 that the probe saw. `before`, `after`: seconds of a forward and
    backward pass, where they were measured.
    """

    name: str
    pattern: str
    replaced: bool
    reason: str = ""
    error: float | None = None
    before: float | None = None
    after: float | None = None


@dataclass
class FuseReport:
    """`model`: what was fused, the copy with `copy=True`. `rows`: modules in the order of `named_modules`."""

    model: torch.nn.Module
    rows: list[Row] = field(default_factory=list)

    @property
    def replaced(self) -> list[Row]:
        return [row for row in self.rows if row.replaced]

    @property
    def left(self) -> list[Row]:
        return [row for row in self.rows if not row.replaced]

    def __rich__(self) -> Table:
        timed = any(row.before is not None for row in self.rows)
        headings = ("module", "what it does", "fused", "error", *(("before", "after") if timed else ()), "why not")
        table = Table(*headings, title=self._title())
        for row in self.rows:
            table.add_row(*_cells(row, timed))
        return table

    def _title(self) -> str:
        count = len(self.replaced)
        return f"{type(self.model).__name__}: {count} part{'s' if count != 1 else ''} fused"

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(self)
        return text.getvalue()


def _cells(row: Row, timed: bool) -> Sequence[str]:
    error = "" if row.error is None else f"{row.error:.0e}"
    times = [f"{1e3 * t:.2f} ms" if t is not None else "" for t in (row.before, row.after)] if timed else []
    return (row.name or "(itself)", row.pattern, "yes" if row.replaced else "no", error, *times, row.reason)
