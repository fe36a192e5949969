"""Rows of runs: what tells them apart, and which runs are one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from pggan_fast.benchmarks import stats
from pggan_fast.benchmarks.schema import Report, Row

from pggan_fast.errors import counted

AGAIN = "eager_again"  # plain PyTorch a second time: how far its ratio is from 1 is noise


class Key(NamedTuple):
    """What tells a run's rows apart."""

    case: str
    provider: str
    resolution: int
    batch: int
    dtype: str
    device: str
    mode: str | None
    threads: int | None = None  # only where a run has the rest more than once

    @property
    def size(self) -> str:
        threads = "" if self.threads is None else f", {counted(self.threads, 'thread')}"
        return f"{self.resolution}x{self.resolution} x{self.batch}{threads}"


def key(row: Row) -> Key:
    return Key(row.case, row.provider, row.resolution, row.batch, row.dtype, row.device, row.mode)


def crowded(reports: Iterable[Report]) -> bool:
    """Whether a run has rows that only the number of threads tells apart."""
    return any(count > 1 for report in reports for count in Counter(map(key, report.results)).values())


def keyed(rows: Iterable[Row], threads: bool) -> dict[Key, Row]:
    """Rows by what tells them apart; of equal ones (a run that went on) the last."""
    return {key(row)._replace(threads=row.threads if threads else None): row for row in rows}


def baselines(rows: Iterable[Row]) -> list[str]:
    """The providers that ratios are of, and that have none themselves: eager, and its second run."""
    rows = list(rows)
    names = dict.fromkeys(row.provider for row in rows)
    if "eager" in names:
        return [name for name in names if name in ("eager", AGAIN)]
    without = [name for name in names if all(row.ratio is None for row in rows if row.provider == name)]
    return without if len(without) < len(names) else []


def against_baseline(rows: Sequence[Row]) -> dict[int, stats.Spread]:
    """Times faster than the baseline of the same run, by the row's place; rows that have no such ratio are left out.

    Of the samples where both took as many, whatever the run itself says (files of earlier versions tell the ratio of
    the medians); else the run's own.
    """
    names = baselines(rows)
    base = {_place(row): row for row in rows if names and row.provider == names[0]}
    found = {}
    for at, row in enumerate(rows):
        other = base.get(_place(row)) or base.get((*_place(row)[:-1], None))  # torch.compile's mode is not eager's
        if other is not None and row.samples and len(row.samples) == len(other.samples):
            found[at] = stats.speedup(other.samples, row.samples)
        elif row.ratio is not None and row.median_s is not None:
            found[at] = stats.Spread(row.ratio, row.ratio_p20 or row.ratio, row.ratio_p80 or row.ratio)
    return found


def filled(report: Report) -> Report:
    """The run with the ratios of its samples; a baseline has none, unless the run says so."""
    base, rows = baselines(report.results), list(report.results)
    for at, (ratio, p20, p80) in against_baseline(rows).items():
        if rows[at].ratio is not None or rows[at].provider not in base:
            rows[at] = replace(rows[at], ratio=ratio, ratio_p20=p20, ratio_p80=p80)
    return replace(report, results=rows)


def _place(row: Row) -> tuple[object, ...]:
    """A row's case at its size."""
    return (row.case, row.resolution, row.batch, row.dtype, row.device, row.threads, row.mode)


def images(row: Row) -> float:
    """Of one sample: the batch, unless the run says otherwise (a training's samples are of a thousand images)."""
    if row.images_per_s and row.median_s:
        return row.images_per_s * row.median_s
    return float(row.batch)


def together(named: Sequence[tuple[str, Report]]) -> list[tuple[str, Report]]:
    """Runs of the same commit on the same machine as one, however many threads each had; in the order they came in.

    Of rows that several have the last is kept. A commit with changes may be any code, and joins no other.
    """
    groups: dict[str, list[tuple[str, Report]]] = {}
    for at, (name, report) in enumerate(named):
        clean = report.commit and not report.commit.endswith("+")
        machine = {name: value for name, value in report.machine.items() if name not in ("threads", "ceilings")}
        same = json.dumps([machine, report.versions, report.commit if clean else at], sort_keys=True, default=str)
        groups.setdefault(same, []).append((name, report))
    return [
        (" + ".join(dict.fromkeys(name for name, _ in group)), _joined([report for _, report in group]))
        for group in groups.values()
    ]


def _joined(group: Sequence[Report]) -> Report:
    rows = keyed((row for report in group for row in report.results), threads=True)
    took = [report.elapsed_s for report in group if report.elapsed_s is not None]
    cut = any(report.interrupted for report in group)
    return replace(group[0], results=list(rows.values()), elapsed_s=sum(took) if took else None, interrupted=cut)


def within_noise(row: Row, largest: float | None) -> bool:
    """Whether a ratio is as far from 1 as two runs of plain PyTorch are; `largest` noise of the run: of rows whose own
    rounds have not measured any."""
    noise = largest if row.noise is None else row.noise
    return row.ratio is not None and row.provider != "eager" and noise is not None and abs(row.ratio - 1.0) <= noise


def ratio_text(row: Row, largest: float | None) -> str:
    """The ratio as tables show it, marked with ~ where it says no difference; empty where there is none."""
    return "" if row.ratio is None else f"{'~' * within_noise(row, largest)}{row.ratio:.2f}"


def where(report: Report, threads: int | None = None) -> str:
    """The machine, and how many threads of it: `threads` of the rows that are meant, else the run's own."""
    device, threads = report.machine.get("device"), threads or report.machine.get("threads")
    told = f", {counted(threads, 'thread')}" if isinstance(threads, int) else ""
    return f"{device or 'a machine that is not told'}{told}"


UNFINISHED = "interrupted, or not at its end yet: cases may be missing"


def noise_of(report: Report) -> float | None:
    """The largest noise of a run's cases, relative; None where it did not measure any."""
    return max((row.noise for row in report.results if row.noise is not None), default=None)
