"""What benchmarks that are commands of their own (`python -m pggan_fast.benchmarks.NAME`) have in common."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pggan_fast.benchmarks.schema import Report, Row, dumps, write_atomically
from rich.console import Console

from pggan_fast.backends import report


def positive(text: str) -> int:
    """An argument of a command."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number from 1 on")
    return int(text)


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """With `--json`, whose folder `parsed` looks for before anything is measured."""
    form = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        f"python -m pggan_fast.benchmarks.{name}", description=description, formatter_class=form
    )
    made.add_argument("--json", type=Path, help="where the samples go")
    return made


def parsed(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: {options.json.absolute().parent} is no folder")
    return options


def finished(
    screen: Console,
    path: Path | None,
    rows: Sequence[Row],
    device: torch.device,
    started: float,
    title: Callable[[Row], str],
) -> int:
    """Tell of the rows that are wrong, each by its title, and `save`; the exit status."""
    wrong = [row for row in rows if row.failed]
    for row in wrong:
        screen.print(f"{title(row)}, {row.provider}: wrong, {row.reason}", soft_wrap=True)
    save(path, rows, device, started)
    return int(bool(wrong))


def save(
    path: Path | None,
    rows: Sequence[Row],
    device: torch.device,
    started: float,
    ceilings: dict[str, float] | None = None,
) -> None:
    """The run's file, if it was asked for; `started` by time.perf_counter. `ceilings`: the machine's, if measured."""
    if path is not None:
        machine, versions, commit = report.machine(device), report.versions(), report.commit()
        machine |= {} if ceilings is None else {"ceilings": ceilings}
        done = Report(machine, versions, commit, list(rows), elapsed_s=time.perf_counter() - started)
        write_atomically(path, dumps(done))
