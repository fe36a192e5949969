"""The results as a picture: one panel per case, one bar per provider; or a curve, where a case has many resolutions."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pggan_fast.benchmarks.schema import Report, Row, write_atomically
from pggan_fast.benchmarks.table import ordered, seconds

from pggan_fast.data import faces_attribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey by their order.
COLOURS = {"auto": "#0072B2", "eager": "#999999", "eager_channels_last": "#E69F00", "compile": "#009E73"}
OTHERS = ("#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
COLUMNS = 3
MISSING = "plots need matplotlib: pip install 'pggan-fast[bench]'"


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(report: Report, path: Path) -> None:
    """Write a PNG: images per second of every provider that has a number, the reason of those that have none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if curves := _curves(report.results):
        _draw_curves(report, curves, path)
        return
    panels = _panels(report.results)
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    bars = max(len(rows) for rows in panels.values())
    height = 1.5 + lines * (0.42 * bars + 0.95)
    figure = Figure(figsize=(5.1 * columns, height), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, (title, rows) in zip(axes, panels.items(), strict=False):
        _panel(ax, title, rows)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(_title(report), fontsize=11, y=1 - 0.12 / height, va="top")
    figure.text(0.5, 0.1 / height, _footnote(report.results), ha="center", va="bottom", fontsize=7.5, color="#444444")
    figure.tight_layout(rect=(0, 0.55 / height, 1, 1 - 0.3 / height), h_pad=1.2, w_pad=1.5)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


LEAST_RESOLUTIONS = 4  # of a curve


def _curves(results: list[Row]) -> dict[str, list[Row]]:
    """The rows of every case, if all have enough resolutions."""
    curves: dict[str, list[Row]] = {}
    for row in results:
        curves.setdefault(row.case, []).append(row)
    few = any(len({row.resolution for row in rows}) < LEAST_RESOLUTIONS for rows in curves.values())
    return {} if few else curves


def _draw_curves(report: Report, curves: dict[str, list[Row]], path: Path) -> None:
    """Above the speed of each case against the resolution, below its peak memory, both relative to eager."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.1 * len(curves), 6.4), dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col")
    for column, (name, rows) in enumerate(curves.items()):
        above, below = axes[0][column], axes[1][column]
        above.set_title(f"{name}, {rows[0].dtype}", fontsize=9, loc="left")
        eager = {row.resolution: row for row in rows if row.provider == "eager"}
        for provider in dict.fromkeys(row.provider for row in rows):
            _curve(above, below, [row for row in rows if row.provider == provider and row.ratio], eager, rows)
        above.set_ylabel("times faster than eager (p20 to p80)", fontsize=8)
        below.set_ylabel("peak memory, parts of eager's", fontsize=8)
        batches = {row.resolution: row.batch for row in rows}
        below.set_xticks(list(batches), [f"{r}\nx{n}" for r, n in batches.items()], fontsize=8)
        below.set_xlabel("resolution, batch", fontsize=8)
        for ax in (above, below):
            ax.set_ylim(bottom=0)
            ax.grid(axis="y", color="#dddddd", linewidth=0.6)
            ax.tick_params(axis="y", labelsize=8)
            ax.spines[["top", "right"]].set_visible(False)
        above.legend(fontsize=8, frameon=False)
    figure.suptitle(_title(report), fontsize=10)
    told = f"eager: plain PyTorch in NCHW, in the same run. {CHECKED}"
    figure.text(0.5, 0.005, told, ha="center", va="bottom", fontsize=7, color="#444444")
    figure.tight_layout(rect=(0, 0.025, 1, 1))
    _save(figure, path)


def _curve(above: Axes, below: Axes, rows: list[Row], eager: dict[int, Row], all_rows: list[Row]) -> None:
    """One provider; on a logarithmic axis of resolutions."""
    if not rows:
        return
    x = [row.resolution for row in rows]
    style: dict[str, Any] = {"color": _colour(rows[0].provider, all_rows), "marker": "o", "ms": 3.5}
    above.set_xscale("log", base=2)
    above.plot(x, [row.ratio or 0.0 for row in rows], label=rows[0].provider.replace("_", " "), **style)
    above.fill_between(
        x, [row.ratio_p20 or 0.0 for row in rows], [row.ratio_p80 or 0.0 for row in rows], color=style["color"],
        alpha=0.2, linewidth=0,
    )  # fmt: skip
    memory = [
        (row.resolution, row.peak_bytes / base)
        for row in rows
        if row.peak_bytes and (base := eager[row.resolution].peak_bytes)
    ]
    below.plot([r for r, _ in memory], [m for _, m in memory], **style)


def _panels(results: list[Row]) -> dict[str, list[Row]]:
    panels: dict[str, list[Row]] = {}
    for row in ordered(results):
        name = "training step (D + G)" if row.case == "step" else row.case
        title = f"{name}, {row.resolution}×{row.resolution}, batch {row.batch}, {row.dtype}"
        panels.setdefault(title, []).append(row)
    return panels


def _panel(ax: Axes, title: str, rows: list[Row]) -> None:
    ax.set_title(title, fontsize=9, loc="left")
    top = max((row.batch / row.p20_s for row in rows if row.p20_s), default=1.0)
    ax.set_xlim(0, top * 1.42)  # room for the labels at the bars' ends
    for position, row in enumerate(rows):
        if row.median_s is None or row.p20_s is None or row.p80_s is None:
            ax.text(top * 0.015, position, _short(row), va="center", fontsize=6.5, color="#555555", style="italic")
            continue
        rate, low, high = (row.batch / t for t in (row.median_s, row.p80_s, row.p20_s))
        ax.barh(position, rate, height=0.66, color=_colour(row.provider, rows))
        whisker: dict[str, Any] = {"color": "#222222", "linewidth": 1.1, "capsize": 2.5}
        ax.errorbar(rate, position, xerr=[[rate - low], [high - rate]], **whisker)
        ratio = "" if row.ratio is None or row.provider == "eager" else f"{row.ratio:.2f}×  "
        label = ax.text(max(rate, high) + top * 0.025, position, ratio, va="center", fontsize=8.5, fontweight="bold")
        ax.annotate(seconds(row.median_s), xy=(1, 0.5), xycoords=label, va="center", fontsize=7.5, color="#555555")
    ax.set_yticks(range(len(rows)), [row.provider.replace("_", " ") for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.set_xlabel("images / s (median, whiskers p20 to p80)", fontsize=7.5)
    ax.tick_params(axis="x", labelsize=7.5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _colour(name: str, rows: list[Row]) -> str:
    others = [row.provider for row in rows if row.provider not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[others.index(name) % len(OTHERS)]


def _short(row: Row) -> str:
    return "\n".join(textwrap.wrap(textwrap.shorten(row.reason or "", 125, placeholder=" ..."), 66))


def _title(report: Report) -> str:
    machine = report.machine
    return (
        f"pggan_fast against plain PyTorch: {machine['device']}, {machine['threads']} threads, "
        f"torch {report.versions['torch']}"
    )


CHECKED = "Timed only after agreeing with the float64 reference."


def _footnote(results: list[Row]) -> str:
    text = f"Bold: times faster than eager (NCHW) in the same run. {CHECKED}"
    if any("step" in row.case for row in results):
        text += f"\nTraining steps run on embedded images. {faces_attribution}"
    return text
