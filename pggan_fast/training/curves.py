"""A run's curves against kimg: losses, schedule, speed, metrics. Needs matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pggan_fast.drawing import BLUE, GREEN, GREY, ORANGE, OTHERS
from pggan_fast.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pggan_fast.training.report import Run

PALETTE = [BLUE, ORANGE, GREEN, *OTHERS, GREY]
_STYLES = ("-", "--", ":")
_SPIKE = 3.0  # times the height of most of the curve: what stands out more is cut off


def draw(run: Run) -> bytes:
    """A PNG of a run that has ticks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = {name: curves for name, curves in ((n, _scores(run, n)) for n in run.metrics) if curves}
    panels = 3 + len(metrics)
    rows = -(-panels // 2)
    figure = Figure(figsize=(11, 0.5 + 2.9 * rows), dpi=110)
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, 2, squeeze=False, sharex=True).flatten())
    _lines(axes[0], "losses", {n.removeprefix("Loss/"): run.series(n) for n in run.names("Loss/")})
    _schedule(axes[1], run)
    speed = {"sec/kimg": run.series("Timing/sec_per_kimg")}
    _lines(axes[2], "seconds per 1,000 images", speed)
    axes[2].set_ylim(bottom=0)
    for ax, (name, curves) in zip(axes[3:], metrics.items(), strict=False):
        _lines(ax, name, curves, marker="o", ms=3)
    for ax in axes[panels:]:
        ax.set_axis_off()
    end = max(run.series("Progress/kimg")[0])
    for ax in axes[:panels]:
        _dress(ax, run, end)
    figure.suptitle(printable(run.path.resolve().name), fontsize=10, parse_math=False)
    figure.tight_layout()
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return held.getvalue()


def _scores(run: Run, metric: str) -> dict[str, tuple[list[float], list[float]]]:
    """The metric's values by their names, of the snapshots whose kimg is known."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for kimg, values in run.metrics[metric]:
        for name, value in values.items() if kimg is not None else ():
            x, y = found.setdefault(name.removeprefix(metric).lstrip("_") or metric, ([], []))
            x.append(float(kimg or 0.0))
            y.append(value)
    return found


def _lines(ax: Axes, title: str, curves: dict[str, tuple[list[float], list[float]]], **style: Any) -> None:
    for i, (name, (x, y)) in enumerate(curves.items()):
        look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], **style}
        look["linestyle"] = _STYLES[i // len(PALETTE) % len(_STYLES)]
        ax.plot(x, y, label=printable(name), linewidth=1.2, **look)
    if cut := _calm(np.array([value for _, y in curves.values() for value in y], dtype=np.float64)):
        ax.set_ylim(*cut)
        title += " (spikes cut off)"
    ax.set_title(printable(title), fontsize=9, loc="left", parse_math=False)
    if len(curves) > 1:
        for text in ax.legend(fontsize=7, frameon=False, ncols=2).get_texts():
            text.set_parse_math(False)


def _calm(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float] | None:
    """Limits without the few numbers that would make a flat line of all others; None where there are none such."""
    values = values[np.isfinite(values)]
    if len(values) < 20:
        return None
    low, high = np.percentile(values, [2, 98])
    margin = 0.1 * (high - low)
    if high <= low or np.ptp(values) <= _SPIKE * (high - low):
        return None
    return float(low - margin), float(high + margin)


def _schedule(ax: Axes, run: Run) -> None:
    """Resolution as steps on a logarithmic axis, alpha on the right."""
    x, y = run.series("Progress/resolution")
    ax.set_yscale("log", base=2)
    ax.plot(x, y, drawstyle="steps-post", color=PALETTE[0], linewidth=1.4)
    ticks = sorted({value for value in y if math.isfinite(value)})
    ax.set_yticks(ticks, [f"{value:.0f}" for value in ticks])
    ax.set_yticks([], minor=True)
    ax.set_title("resolution, and alpha of the newest level (dashed, right)", fontsize=9, loc="left")
    right = ax.twinx()
    right.plot(*run.series("Progress/alpha"), color=PALETTE[2], linewidth=1.0, linestyle="--")
    right.set_ylim(-0.04, 1.04)
    right.tick_params(labelsize=8)
    right.spines[["top"]].set_visible(False)


def _dress(ax: Axes, run: Run, end: float) -> None:
    """The same x axis for all, grey where a level fades in."""
    for start, stop in _fades(*run.series("Progress/alpha")):
        ax.axvspan(start, stop, color="#888888", alpha=0.13, linewidth=0)
    ax.set_xlim(0, 1.01 * end or 1.0)
    ax.tick_params(labelsize=8, labelbottom=True)
    ax.set_xlabel("kimg (grey: a level fades in)", fontsize=7.5)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _fades(kimg: list[float], alpha: list[float]) -> Iterator[tuple[float, float]]:
    """Spans of ticks with an alpha below 1."""
    start: float | None = None
    before = 0.0
    for x, a in zip(kimg, alpha, strict=True):
        if a < 1 and start is None:
            start = before
        elif not a < 1 and start is not None:
            yield start, x
            start = None
        before = x
    if start is not None:
        yield start, before
