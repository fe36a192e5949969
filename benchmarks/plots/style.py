"""What all pictures of benchmarks share: colours, a grid of panels, titles, bytes of a PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pggan_fast.benchmarks.schema import Report, Row
from PIL import Image

from pggan_fast import drawing
from pggan_fast.data import faces_attribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"auto": drawing.BLUE, "eager": drawing.GREY, "eager_channels_last": drawing.ORANGE, "compile": drawing.GREEN}
OTHERS = drawing.OTHERS
DOTS_PER_INCH = 130
WIDTH, HEIGHT = 5.1, 3.0  # inches of a panel
COLUMNS = 2

Panel = tuple[str, Callable[["Axes"], None]]  # its title, and what draws into it


def colour(provider: str, rows: Sequence[Row]) -> str:
    """A provider's own, or one of the others by its place among the rows' providers."""
    if provider in COLOURS:
        return COLOURS[provider]
    others = list(dict.fromkeys(row.provider for row in rows if row.provider not in COLOURS))
    return OTHERS[others.index(provider) % len(OTHERS)]


def name(provider: str) -> str:
    return provider.replace("_", " ")


def grid(
    panels: Sequence[Panel],
    title: str,
    footnote: str,
    columns: int = COLUMNS,
    height: float = HEIGHT,
    legend: bool = False,
) -> Figure:
    """A figure of panels, row by row; `height` in inches of each, `legend`: one for all of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    whole, width = 0.9 + lines * height, WIDTH * max(columns, 1.45)  # room for the title above a single panel
    figure = Figure(figsize=(width, whole), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flatten())
    for ax, (text, draw) in zip(axes, panels, strict=False):
        ax.set_title(text, fontsize=9, loc="left", parse_math=False)
        draw(ax)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    above = 0.28 + (_legend(figure, axes, whole) if legend else 0.0)
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / whole, va="top", parse_math=False)
    figure.text(0.5, 0.08 / whole, footnote, ha="center", va="bottom", fontsize=7, color="#444444", parse_math=False)
    below = 0.1 + 0.15 * (footnote.count("\n") + 1)
    figure.tight_layout(rect=(0, below / whole, 1, 1 - above / whole), h_pad=1.2, w_pad=1.5)
    return figure


def _legend(figure: Figure, axes: Sequence[Axes], whole: float) -> float:
    """What all panels name, each once, below the title; its height in inches."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    columns = min(len(found), 7)
    figure.legend(
        list(found.values()), list(found), loc="upper center", bbox_to_anchor=(0.5, 1 - 0.27 / whole), ncols=columns,
        frameon=False, fontsize=8, borderpad=0,
    )  # fmt: skip
    return 0.2 * -(-len(found) // columns)


def png(figure: Figure) -> bytes:
    """In 256 colours, which takes a third of the bytes and looks the same."""
    held, small = io.BytesIO(), io.BytesIO()
    figure.savefig(held, format="png")
    with Image.open(held) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def machine(report: Report) -> str:
    """Where the numbers are from, short enough for a title."""
    facts = report.machine
    threads = sorted({row.threads for row in report.results if row.threads} or {facts.get("threads", "?")})
    told = f"{_span(threads)} thread" + ("" if threads == [1] else "s")
    return f"{facts.get('device', '?')}, {told}, torch {report.versions.get('torch', '?')}"


def _span(values: Sequence[object]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def checked(report: Report) -> str:
    """What came before any timing: a preset's cases have a reference, other programs compare providers."""
    return f"Timed only after agreeing with {'each other' if report.preset is None else 'the float64 reference'}."


def embedded_images(rows: Sequence[Row]) -> str:
    """Whose images training steps ran on; empty where there is none among the rows."""
    if not any(row.case.endswith("step") for row in rows):
        return ""
    return f"\nTraining steps run on embedded images. {faces_attribution}"


def sizes(ax: Axes, values: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """A logarithmic axis below, with a tick at each of the values."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(values), labels or [f"{value:g}" for value in values])
    ax.minorticks_off()


def lines(ax: Axes) -> None:
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)


def powers(ax: Axes, axis: str) -> None:
    """A logarithmic axis at the left, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    few = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=few))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel(axis, fontsize=8)
    lines(ax)
