"""Time against resolution, batch and threads, with the fitted exponents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pggan_fast.benchmarks.growth import Along, Growth
from pggan_fast.benchmarks.plots import speed, style
from pggan_fast.benchmarks.plots.style import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOLD: Mapping[Along, str] = {
    "resolution": "Of one image; lines: fitted power laws, broken where that fits far better.",
    "batch": "1: twice the batch takes twice as long.",
    "threads": "-1: twice the threads take half as long.",
}


def panels(growths: Sequence[Growth], along: Along) -> list[Panel]:
    """A panel for each case that has a line along this, log-log."""
    cases: dict[str, list[Growth]] = {}
    for growth in growths:
        if growth.series.along == along:
            row = growth.series.rows[0]
            size = "" if along == "resolution" else f", {row.resolution}×{row.resolution}"
            cases.setdefault(f"{row.case}{size}, {row.dtype}", []).append(growth)
    return [(title, _lines(of, along)) for title, of in cases.items()]


def _lines(growths: Sequence[Growth], along: Along) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        every = [row for growth in growths for row in growth.series.rows]
        looks = speed.looks([growth.series for growth in growths])
        for growth, (line, look) in zip(growths, looks, strict=True):
            bend = growth.bend
            told = f"{growth.exponent:.2f}" if bend is None else f"{bend.before:.2f}, {bend.after:.2f} from {bend.at:g}"
            label = f"{look.pop('label')}: {told}"
            milliseconds = [1e3 * s for s in line.seconds]
            ax.plot(line.xs, milliseconds, "o", ms=4, color=look["color"])
            ax.plot(line.xs, _fitted(growth, milliseconds), linewidth=1.1, label=label, **look)
        if along == "resolution":
            speed.resolutions(ax, every)
        else:
            style.sizes(ax, sorted({getattr(row, along) for row in every}))
            ax.set_xlabel(along, fontsize=8)
        style.powers(ax, "ms per image" if along == "resolution" else "ms")
        ax.legend(fontsize=7, edgecolor="none", framealpha=0.85, title="exponent", title_fontsize=7)

    return draw


def _fitted(growth: Growth, ys: Sequence[float]) -> list[float]:
    """The power law through the points' middle, broken where it bends."""
    u, bend = np.log(growth.series.xs), growth.bend
    if bend is None:
        rise = growth.exponent * u
    else:
        rise = bend.before * u + (bend.after - bend.before) * np.maximum(u - np.log(bend.at), 0.0)
    return [float(y) for y in np.exp(rise + np.mean(np.log(ys) - rise))]
