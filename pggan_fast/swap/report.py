"""What `fuse` did and did not do."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pggan_fast.errors import counted


@dataclass
class Row:
    """One module: what it was seen to do, and whether that runs fused now.

    `name`: its path, "" for the model itself, "path[a:b]" for children of an nn.Sequential. `error`: the largest
    relative difference from the original in outputs, gradients and second-order gradients, in float64, that the probe
    saw. `before`, `after`: seconds of a forward and backward pass, where they were measured. `kind`: its class.
    """

    name: str
    pattern: str
    replaced: bool
    reason: str = ""
    error: float | None = None
    before: float | None = None
    after: float | None = None
    kind: str = ""


@dataclass(repr=False)
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
        caption = "\n".join(self._legend(timed)) or None
        table = Table(title=self._title(), caption=caption, caption_justify="left", pad_edge=False)
        headings = ("module", "what it does", "fused", "error", *(("before", "after") if timed else ()), "why not")
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, _cells(row, timed)))  # paths may have brackets
        return table

    def _title(self) -> str:
        left = f", {len(self.left)} left as {'it is' if len(self.left) == 1 else 'they are'}" if self.left else ""
        return f"{type(self.model).__name__}: {counted(len(self.replaced), 'part')} fused{left}"

    def _legend(self, timed: bool) -> Iterator[str]:
        if any(row.error is not None for row in self.rows):
            yield "error: largest relative error of outputs and gradients against the original, in float64"
        if timed:
            yield "before, after: median milliseconds of a forward and backward pass"
        if any("()" in row.pattern for row in self.rows):
            yield "X(): a module of class X that runs as it is, between fused steps"

    def __repr__(self) -> str:
        return f"FuseReport({self._title()!r}, rows={self.rows!r})"

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(self)
        return text.getvalue()


def merged(rows: Sequence[Row]) -> Row:
    """One row for all that was tried with one module, in order: what replaced it, else the first attempt."""
    row = next((row for row in rows if row.replaced), rows[0])
    row.reason = "; ".join(dict.fromkeys(each.reason for each in rows if each.reason))
    return row


def _cells(row: Row, timed: bool) -> Sequence[str]:
    error = "" if row.error is None else f"{row.error:.0e}"
    times = [f"{1e3 * t:.3g}" if t is not None else "" for t in (row.before, row.after)] if timed else []
    what = "unknown" if row.pattern == row.kind else row.pattern
    return (f"{row.name or 'the model'} ({row.kind})", what, "yes" if row.replaced else "no", error, *times, row.reason)
