"""A run's file of JSON lines: rows are appended as units finish, and a run that was cut short goes on with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pggan_fast.benchmarks import schema
from pggan_fast.benchmarks.cases import Unit
from pggan_fast.benchmarks.providers import Provider
from pggan_fast.benchmarks.schema import Report, Row

# What two parts of one run must have in common; what else differs is told by the file's own rows.
SAME_MACHINE = ("device", "cpu", "cores", "fp32_precision")
SAME = ("versions", "commit", "seed")


class RunFile:
    """`begun` finds what an earlier run has left, `start` writes the first line of a new one, `keep` appends rows and
    `close` the last line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begun(self, now: Report, resume: bool) -> Report | None:
        """What is there. Raises ValueError where it is of another machine, build or seed, or there though nothing is to
        be resumed."""
        if not self.path.exists():
            return None
        if not resume:
            raise ValueError(f"{self.path} is there already; --resume goes on with it")
        before = schema.read(self.path)
        here, there = _identity(now), _identity(before)
        for name in here:
            if here[name] != there[name]:
                raise ValueError(f"{self.path} was begun with another {name}: {there[name]!r}, now {here[name]!r}")
        # without its last line, or one that was cut off
        schema.write_atomically(self.path, _opened(before) + schema.lines(before.results))
        return before

    def start(self, report: Report) -> None:
        self.path.write_text(_opened(report))

    def keep(self, rows: Iterable[Row]) -> None:
        self._append(schema.lines(rows))

    def close(self, report: Report) -> None:
        self._append(schema.closing(report))

    def _append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def _opened(report: Report) -> str:
    """The first line of a run that has not ended."""
    return schema.header(replace(report, interrupted=True))


def _identity(report: Report) -> dict[str, Any]:
    return {name: getattr(report, name) for name in SAME} | {name: report.machine.get(name) for name in SAME_MACHINE}


def remaining(units: Sequence[Unit], providers: Sequence[Provider], rows: Sequence[Row]) -> list[Unit]:
    """The units of which a provider has no row yet."""
    done = {(r.case, r.provider, r.resolution, r.batch, r.dtype, r.asked_threads) for r in rows}

    def finished(unit: Unit) -> bool:
        keys = ((c.name, c.resolution, c.batch, str(c.dtype).removeprefix("torch."), c.threads) for c in unit)
        return all((name, who.name, *size) in done for name, *size in keys for who in providers)

    return [unit for unit in units if not finished(unit)]
