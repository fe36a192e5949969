"""The results as a picture: one panel per case, one bar per provider."""

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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


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


def _footnote(results: list[Row]) -> str:
    text = "Bold: times faster than eager (NCHW) in the same run. Timed only after agreeing with the float64 reference."
    if any("step" in row.case for row in results):
        text += f"\nTraining steps run on embedded images. {faces_attribution}"
    return text
