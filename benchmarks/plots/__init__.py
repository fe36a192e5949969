"""The pictures of a run, each by a function of its own that draws only what the rows hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pggan_fast.benchmarks.growth import ALONG
from pggan_fast.benchmarks.plots import cost, scaling, speed, style
from pggan_fast.benchmarks.schema import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pggan_fast.benchmarks.growth import Growth

MOST = 8  # panels of a figure: what a screen shows at a size that can be read
RATIOS = "How much faster, by resolution"
MEMORY = "Peak memory"


def figures(report: Report, growths: Sequence[Growth]) -> Iterator[tuple[str, str, Figure]]:
    """(name of a file, title, figure) of everything that the rows hold enough of."""
    curves = speed.ratios(report)
    yield from _pages("ratio", RATIOS, report, curves, f"{speed.CURVES} {style.checked(report)}")
    if bars := speed.bars(_others(report, curves), most=MOST):
        yield "speed", "How fast", bars
    for name, title, figure in (
        ("layers", "Time by layer", cost.layers(report)),
        ("roofline", "Roofline", cost.roofline(report)),
    ):
        if figure is not None:
            yield name, title, figure
    peaks = cost.memory(report)
    yield from _pages("memory", MEMORY, report, peaks, "Above parameters, gradients, optimiser state and inputs.")
    if bars := speed.bars(_others(report, peaks), speed.PEAK, MOST):
        yield "memory-bars", MEMORY, bars
    for along in ALONG:
        panels = scaling.panels(growths, along)
        yield from _pages(f"by-{along}", f"Cost by {along}", report, panels, scaling.TOLD[along], False)


def _others(report: Report, panels: Sequence[style.Panel]) -> Report:
    """The run without the cases that panels by resolution show already."""
    shown = {title for title, _ in panels}
    return replace(report, results=[row for row in report.results if speed.title_of(row) not in shown])


def _pages(
    name: str, title: str, report: Report, panels: Sequence[style.Panel], told: str, legend: bool = True
) -> Iterator[tuple[str, str, Figure]]:
    """Panels in figures of at most MOST, those of one kind of case together."""
    kinds: dict[str, list[style.Panel]] = {}
    for panel in panels:
        kinds.setdefault(cost.family(panel[0].partition(", ")[0]), []).append(panel)
    chunks = [(kind, at // MOST, of[at : at + MOST]) for kind, of in kinds.items() for at in range(0, len(of), MOST)]
    for kind, number, chunk in chunks:
        # A single figure needs no name of its own.
        kept = [] if len(chunks) == 1 else [kind.replace("other people's networks", "peers"), str(number + 1)]
        if len(kinds) > 1 and len(kinds[kind]) <= MOST:
            kept = kept[:1]
        called = title if len(kinds) == 1 else f"{title} ({kind})"
        figure = style.grid(chunk, f"{called}: {style.machine(report)}", told, legend=legend)
        yield "-".join([name, *kept]), called, figure
