"""Bars of a case's providers, and curves of their speed and memory against the resolution."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pggan_fast.benchmarks import growth, runs
from pggan_fast.benchmarks.growth import Series
from pggan_fast.benchmarks.plots import style
from pggan_fast.benchmarks.plots.style import Panel
from pggan_fast.benchmarks.schema import Report, Row
from pggan_fast.benchmarks.table import ordered, seconds, size

from pggan_fast.errors import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = tuple[float, float, float]  # the bar, and its whiskers' ends


@dataclass(frozen=True)
class Quantity:
    """What a bar's length is."""

    axis: str
    of: Callable[[Row], Numbers | None]
    label: Callable[[Row], str]
    bold: Callable[[Row], str] = lambda row: ""  # before the label


def _rate(row: Row) -> Numbers | None:
    if row.median_s is None or row.p20_s is None or row.p80_s is None:
        return None
    images = runs.images(row)
    return images / row.median_s, images / row.p80_s, images / row.p20_s


def _peak(row: Row) -> Numbers | None:
    mib = (row.peak_bytes or 0) / 2**20
    return (mib, mib, mib) if row.peak_bytes else None


RATE = Quantity(
    "images / s (median, whiskers p20 to p80)",
    _rate,
    lambda row: seconds(row.median_s or 0.0),
    lambda row: "" if row.ratio is None or row.provider == "eager" else f"{runs.ratio_text(row, None)}×  ",
)
PEAK = Quantity("peak memory, MiB", _peak, lambda row: size(row.peak_bytes or 0))


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows that one panel shows side by side, by its title."""
    found: dict[str, list[Row]] = {}
    for row in ordered(list(rows)):
        case = "training step (D + G)" if row.case == "step" else row.case
        mode = f", {row.mode}" if row.mode and not row.provider.startswith("compile") else ""
        threads = f", {counted(row.asked_threads, 'thread')}" if row.asked_threads else ""
        title = f"{case}, {row.resolution}×{row.resolution}{mode}, batch {row.batch}, {row.dtype}{threads}"
        found.setdefault(title, []).append(row)
    return found


def bars(report: Report, quantity: Quantity = RATE, most: int | None = None) -> Figure | None:
    """A panel for each case and size, at most so many; None where there is nothing to draw."""
    never = _never(report.results, quantity)
    found = groups([row for row in report.results if row.provider not in never])
    found = {title: rows for title, rows in found.items() if any(quantity.of(row) for row in rows)}
    shown = dict(list(found.items())[:most])
    if not shown:
        return None
    more = len(found) - len(shown)
    tallest = max(map(len, shown.values()))
    footnote = f"{_told(report, quantity)}{style.embedded_images(report.results)}"
    footnote += "".join(f"\n{style.name(provider)}: {reason}" for provider, reason in never.items())
    footnote += f"\n{more} more are in the table." if more else ""
    panels = [(title, _bars_of(rows, quantity)) for title, rows in shown.items()]
    return style.grid(panels, _title(report), footnote, columns=min(3, len(panels)), height=0.42 * tallest + 0.95)


def _never(rows: Sequence[Row], quantity: Quantity) -> dict[str, str]:
    """Providers that have nothing to show anywhere, where that has one reason for each: it is told once."""
    shown = {row.provider for row in rows if quantity.of(row)}
    reasons: dict[str, set[str]] = {}
    for row in rows:
        if row.provider not in shown and row.reason:
            reasons.setdefault(row.provider, set()).add(row.reason)
    return {provider: told.pop() for provider, told in reasons.items() if len(told) == 1}


def _title(report: Report) -> str:
    return f"pggan_fast against plain PyTorch: {style.machine(report)}"


def _told(report: Report, quantity: Quantity) -> str:
    if quantity is PEAK:
        return "Memory above parameters, gradients, optimiser state and inputs."
    told = f"Bold: times faster than {baseline(report.results)}, the median of the rounds' own ratios. "
    told += style.checked(report)
    again = any(row.provider == runs.AGAIN for row in report.results)
    return told + "\n~: within the noise, which eager again, plain PyTorch a second time, measures." * again


def baseline(rows: Sequence[Row]) -> str:
    name = next(iter(runs.baselines(rows)), "eager")
    return "eager (NCHW)" if name == "eager" else name


def _bars_of(rows: Sequence[Row], quantity: Quantity) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        top = max(numbers[2] for row in rows if (numbers := quantity.of(row)))
        ax.set_xlim(0, top * 1.42)  # room for the labels at the bars' ends
        for position, row in enumerate(rows):
            _bar(ax, position, row, rows, quantity, top)
        ax.set_yticks(range(len(rows)), [style.name(row.provider) for row in rows], fontsize=8)
        ax.set_ylim(len(rows) - 0.45, -0.55)
        ax.set_xlabel(quantity.axis, fontsize=7.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)

    return draw


def _bar(ax: Axes, position: int, row: Row, rows: Sequence[Row], quantity: Quantity, top: float) -> None:
    """One bar with its numbers; the reason where there is none."""
    numbers = quantity.of(row)
    if numbers is None:
        ax.text(top * 0.015, position, _short(row), va="center", fontsize=6.5, color="#555555", style="italic")
        return
    value, low, high = numbers
    ax.barh(position, value, height=0.66, color=style.colour(row.provider, rows))
    if high > low:
        whisker: dict[str, Any] = {"color": "#222222", "linewidth": 1.1, "capsize": 2.5}
        ends = [[max(0.0, value - low)], [max(0.0, high - value)]]
        ax.errorbar(value, position, xerr=ends, **whisker)
    at = max(value, high) + top * 0.025
    label = ax.text(at, position, quantity.bold(row), va="center", fontsize=8.5, fontweight="bold")
    ax.annotate(quantity.label(row), xy=(1, 0.5), xycoords=label, va="center", fontsize=7.5, color="#555555")


def _short(row: Row) -> str:
    return "\n".join(textwrap.wrap(textwrap.shorten(row.reason or "", 125, placeholder=" ..."), 66))


# Curves against the resolution.
CURVES = "Dots: the median of the ratios within each round, eager over the provider; shaded: their p20 to p80."


def by_case(lines: Sequence[Series]) -> dict[str, list[Series]]:
    """The lines that one panel shows, by its title."""
    found: dict[str, list[Series]] = {}
    for line in lines:
        found.setdefault(title_of(line.rows[0]), []).append(line)
    return found


def title_of(row: Row) -> str:
    return f"{row.case}, {row.dtype}"


def labels(lines: Sequence[Series]) -> list[str]:
    """Providers; and what tells their lines apart, where one of them has several."""
    names = [line.rows[0].provider for line in lines]
    if len(set(names)) == len(names):
        return list(map(style.name, names))
    common = set.intersection(*(set(line.parts) for line in lines))
    apart = [", ".join(part for part in line.parts if part not in common) for line in lines]
    return [style.name(name) + (f" ({part})" if part else "") for name, part in zip(names, apart, strict=True)]


DASHES = ("-", "--", ":", "-.")


def looks(lines: Sequence[Series]) -> list[tuple[Series, dict[str, Any]]]:
    """Each line with its colour, by its provider, its label, and dashes where its provider has more lines."""
    rows = [row for line in lines for row in line.rows]
    seen: dict[str, int] = {}
    found = []
    for line, label in zip(lines, labels(lines), strict=True):
        provider = line.rows[0].provider
        dash = DASHES[seen.setdefault(provider, 0) % len(DASHES)]
        seen[provider] += 1
        found.append((line, {"color": style.colour(provider, rows), "linestyle": dash, "label": label}))
    return found


def ratios(report: Report) -> list[Panel]:
    """A panel for each case that has a ratio at enough resolutions."""
    lines = growth.series([row for row in report.results if row.ratio], "resolution")
    told = f"times faster than {baseline(report.results).split()[0]}"
    return [(title, _curves_of(of, _ratio, told, 1.0)) for title, of in by_case(lines).items()]


def memory_parts(report: Report) -> list[Panel]:
    """A panel for each case that has a peak at enough resolutions, as parts of eager's at the same place."""
    eager = {_place(row): row.peak_bytes for row in report.results if row.provider == "eager" and row.peak_bytes}
    rows = [row for row in report.results if row.peak_bytes and _place(row) in eager]

    def part(row: Row) -> Numbers:
        value = (row.peak_bytes or 0) / (eager[_place(row)] or 1)
        return value, value, value

    lines = by_case(growth.series(rows, "resolution"))
    return [(title, _curves_of(of, part, "peak memory, parts of eager's", 1.0)) for title, of in lines.items()]


def _place(row: Row) -> tuple[object, ...]:
    return (row.case, row.resolution, row.batch, row.dtype, row.threads)


def _ratio(row: Row) -> Numbers:
    assert row.ratio is not None
    return row.ratio, row.ratio_p20 or row.ratio, row.ratio_p80 or row.ratio


def _curves_of(
    lines: Sequence[Series], value: Callable[[Row], Numbers], axis: str, one: float
) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        rows = [row for line in lines for row in line.rows]
        for line, look in looks(lines):
            numbers = [value(row) for row in line.rows]
            ax.plot(line.xs, [middle for middle, _, _ in numbers], marker="o", ms=3.5, **look)
            low, high = [n[1] for n in numbers], [n[2] for n in numbers]
            ax.fill_between(line.xs, low, high, color=look["color"], alpha=0.2, linewidth=0)
        ax.axhline(one, color="#bbbbbb", linewidth=0.8, zorder=0)
        resolutions(ax, rows)
        ax.set_ylim(bottom=0)
        ax.set_ylabel(axis, fontsize=8)
        style.lines(ax)

    return draw


def resolutions(ax: Axes, rows: Sequence[Row]) -> None:
    """The axis below: the resolutions, and the batch of each."""
    batches: dict[int, set[int]] = {}
    for row in rows:
        batches.setdefault(row.resolution, set()).add(row.batch)
    told = {r: f"x{next(iter(of))}" if len(of) == 1 else "" for r, of in sorted(batches.items())}
    style.sizes(ax, list(told), [f"{r}\n{batch}" for r, batch in told.items()])
    ax.set_xlabel("resolution, batch", fontsize=8)
