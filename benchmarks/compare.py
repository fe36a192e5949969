"""Two runs side by side: is a case faster or slower than it was, by more than both runs' noise?

What is compared are ratios to plain PyTorch, each within its own run: a machine that is slower today is slower for
both. Absolute times stand beside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pggan_fast.benchmarks import runs
from pggan_fast.benchmarks.runs import Key
from pggan_fast.benchmarks.schema import Report
from pggan_fast.benchmarks.table import seconds
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Verdict = Literal["faster", "slower", "no difference", "only in A", "only in B", "wrong", "not measured"]
STYLES: Mapping[str, str] = {"faster": "green", "slower": "red", "wrong": "bold red", "no difference": "dim"}
# Of the machine: other values are other numbers.
FACTS = ("device", "cpu", "gpu", "cores", "threads", "fp32_precision")


class Measured(NamedTuple):
    """A case of one provider in one run."""

    ratio: float | None = None  # times faster than the baseline
    noise: float = 0.0  # relative
    median_s: float | None = None
    failed: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Change:
    """One case in both runs; None: the run does not have it."""

    key: Key
    a: Measured | None
    b: Measured | None

    @property
    def times(self) -> float | None:
        """B's ratio over A's: above 1 it became faster."""
        if self.a is None or self.b is None or not self.a.ratio or not self.b.ratio:
            return None
        return self.b.ratio / self.a.ratio

    @property
    def noise(self) -> float:
        """What both runs' noise together may turn no change into."""
        return math.prod(1.0 + side.noise for side in (self.a, self.b) if side is not None) - 1.0

    @property
    def verdict(self) -> Verdict:
        if any(side is not None and side.failed for side in (self.a, self.b)):
            return "wrong"
        times = self.times
        if times is not None:
            if max(times, 1.0 / times) <= 1.0 + self.noise:
                return "no difference"
            return "faster" if times > 1.0 else "slower"
        has_a, has_b = (side is not None and side.ratio is not None for side in (self.a, self.b))
        return "only in A" if has_a else "only in B" if has_b else "not measured"

    @property
    def why(self) -> str:
        """Why a side has no number, where it tells."""
        told = ((name, side.reason) for name, side in (("A", self.a), ("B", self.b)) if side is not None)
        return "; ".join(f"{name}: {reason}" for name, reason in told if reason)


Side = dict[Key, Measured]


def measured(report: Report, threads: bool = False) -> Side:
    """What a run says of each case and provider, the baseline itself left out; `threads`: they tell rows apart."""
    rows = list(runs.keyed(report.results, threads).values())
    ratios, base, run_noise = runs.against_baseline(rows), runs.baselines(rows), runs.noise_of(report)
    found: Side = {}
    for at, (key, row) in enumerate(runs.keyed(rows, threads).items()):
        if row.provider in base:
            continue
        if at not in ratios:
            found[key] = Measured(None, 0.0, row.median_s, row.failed, row.reason)
            continue
        ratio, p20, p80 = ratios[at]
        twice = (run_noise or 0.0) if row.noise is None else row.noise
        apart = max(p80 / ratio, ratio / p20, 1.0) - 1.0  # one A/A pair of few rounds may agree by chance
        found[key] = Measured(ratio, max(twice, apart), row.median_s, row.failed, row.reason)
    return found


def together(turns: Sequence[Side]) -> Side:
    """Several runs of the same code as one: the middle of their ratios; how far they are apart is noise too."""
    found: Side = {}
    for key in dict.fromkeys(key for turn in turns for key in turn):
        of = [turn[key] for turn in turns if key in turn]
        ratios = [m.ratio for m in of if m.ratio]
        medians = [m.median_s for m in of if m.median_s]
        ratio = _middle(ratios)
        apart = max((max(r / ratio, ratio / r) - 1.0 for r in ratios), default=0.0) if ratio else 0.0
        reason = next((m.reason for m in of if m.reason), None)
        noise = max(apart, *(m.noise for m in of))
        found[key] = Measured(ratio, noise, _middle(medians), any(m.failed for m in of), reason)
    return found


def _middle(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def reports(a: Report, b: Report) -> list[Change]:
    """Every case and provider that either run has, but for the baseline."""
    threads = runs.crowded((a, b))
    return changes(measured(a, threads), measured(b, threads))


def changes(a: Side, b: Side) -> list[Change]:
    """Those that both have first."""
    keys = sorted(dict.fromkeys((*a, *b)), key=lambda key: not (key in a and key in b))
    return [Change(key, a.get(key), b.get(key)) for key in keys]


def differences(a: Report, b: Report) -> list[str]:
    """A line for each run that is not whole, and for each fact of the machine, and of torch, that is not the same."""
    cut = [f"warning: {side} was {runs.UNFINISHED}" for side, run in (("A", a), ("B", b)) if run.interrupted]
    facts: list[tuple[str, Any, Any]] = [(name, a.machine.get(name), b.machine.get(name)) for name in FACTS]
    facts.append(("torch", a.versions.get("torch"), b.versions.get("torch")))
    return cut + [
        f"warning: {name}: A {was}, B {now}: absolute times do not compare, ratios only roughly"
        for name, was, now in facts
        if was != now
    ]


def below(found: Sequence[Change], limit: float) -> list[Change]:
    """Those that became slower than `limit` times what they were, by more than the noise, or wrong."""
    broken = (c for c in found if c.b is not None and c.b.failed)
    return [*broken, *(c for c in found if c.verdict == "slower" and c.times is not None and c.times < limit)]


def render(found: Sequence[Change], titles: tuple[str, str], notes: Sequence[str], terminal: bool) -> RenderableType:
    """A line for each case, how many there are of each verdict, and what to know of the two."""
    table = Table(box=box.SIMPLE_HEAVY if terminal else box.ASCII2, pad_edge=False)
    for name in ("case", "size", "dtype", "provider"):
        table.add_column(name, no_wrap=True)
    for name in ("A, ratio", "B, ratio", "B / A", "noise", "A, median", "B, median"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    told: dict[tuple[str, str], list[str]] = {}  # cases by provider and reason
    for c in found:
        who = c.key.provider + (f" ({c.key.mode})" if c.key.mode else "")
        sides = (c.a or Measured(), c.b or Measured())
        ratios = ["" if m.ratio is None else f"{m.ratio:.2f}" for m in sides]
        medians = ["" if m.median_s is None else seconds(m.median_s) for m in sides]
        times, noise = ("", "") if c.times is None else (f"{c.times:.2f}", f"{100 * c.noise:.0f} %")
        verdict = Text(c.verdict, style=STYLES.get(c.verdict, ""))
        names = map(Text, (c.key.case, c.key.size, c.key.dtype, who))  # a run's own: no markup
        table.add_row(*names, *ratios, times, noise, *medians, verdict)
        if c.why:
            told.setdefault((who, c.why), []).append(f"{c.key.case} {c.key.size}")
    counts: dict[str, int] = {}
    for c in found:
        counts[c.verdict] = counts.get(c.verdict, 0) + 1
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no case"
    named = [f"{name}: {title}" for name, title in zip("AB", titles, strict=True)]
    explained = "ratio: times faster than plain PyTorch in the same run; B / A above 1: faster than it was"
    lines = [*named, *notes, explained, f"{summary}; what is within the noise of both runs is no difference"]
    reasons = [Text(f"{'; '.join(cases)}, {who}: {why}", style="dim") for (who, why), cases in told.items()]
    return Group(table, *reasons, *map(Text, lines))


def title(report: Report, name: str) -> str:
    commit = f", commit {report.commit[:10]}" if report.commit else ""
    return f"{name}{commit}, {runs.where(report)}, torch {report.versions.get('torch')}"


def named(change: Change) -> str:
    """A change on one line."""
    key, times = change.key, change.times
    what = change.verdict if times is None or change.verdict == "wrong" else f"{times:.2f} of A's ratio"
    return f"{key.case} {key.size} {key.dtype}, {key.provider}: {what}"
