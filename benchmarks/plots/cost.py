"""Where the time goes: the layers stacked, how near the machine's roof, how much memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pggan_fast.benchmarks import growth, runs
from pggan_fast.benchmarks.growth import Series
from pggan_fast.benchmarks.plots import speed, style
from pggan_fast.benchmarks.plots.style import Panel
from pggan_fast.benchmarks.schema import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYERS = {
    "dense": "#F0E442",
    "up": "#0072B2",
    "conv": "#56B4E9",
    "to_rgb": "#CC79A7",
    "from_rgb": "#D55E00",
    "down": "#009E73",
}
PAIR = ("eager", "auto")


def layers(report: Report) -> Figure | None:
    """For each mode, dtype and batch: bars at each resolution, eager's layers stacked beside ours."""
    modes: dict[str, list[Row]] = {}
    for row in report.results:
        layer, _, mode = row.case.rpartition(".")
        if layer in LAYERS and row.provider in PAIR and row.median_s:
            modes.setdefault(f"{mode}, {row.dtype}, batch {row.batch}", []).append(row)
    drawn = [(title, found) for title, rows in modes.items() if (found := _stacks(rows))]
    if not drawn:
        return None
    panels = [(f"all layers, {title}", _stacked(found)) for title, found in drawn]
    told = "Bars: median times of each layer by itself, over the batch. Left, pale: eager; right: auto; "
    told += "above: the left stack over the right one."
    return style.grid(panels, f"Time by layer: {style.machine(report)}", told, columns=3, height=2.8, legend=True)


Stacks = dict[int, dict[str, tuple[float, float]]]  # by resolution and layer: milliseconds of eager and auto


def _stacks(rows: Sequence[Row]) -> Stacks:
    """Layers that both providers have, of rows of one batch."""
    times = {(row.resolution, row.case.rpartition(".")[0], row.provider): row for row in rows}
    found: Stacks = {}
    for resolution in sorted({row.resolution for row in rows}):
        for layer in LAYERS:
            eager, auto = (times.get((resolution, layer, who)) for who in PAIR)
            if eager is not None and auto is not None:
                found.setdefault(resolution, {})[layer] = (_milliseconds(eager), _milliseconds(auto))
    return found


def _milliseconds(row: Row) -> float:
    """Of one image."""
    return 1e3 * (row.median_s or 0.0) / runs.images(row)


def _stacked(found: Stacks) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        used = [layer for layer in LAYERS if any(layer in of for of in found.values())]
        for at, of in enumerate(found.values()):
            tops = [0.0, 0.0]
            for layer in (layer for layer in used if layer in of):
                for side, value in enumerate(of[layer]):
                    look: dict[str, Any] = {"alpha": (0.45, 1.0)[side], "edgecolor": "white", "linewidth": 0.5}
                    x = at + (-0.21, 0.21)[side]
                    ax.bar(x, value, 0.38, bottom=tops[side], color=LAYERS[layer], **look)
                    tops[side] += value
            ax.text(at, max(tops), f"{tops[0] / tops[1]:.1f}×", ha="center", va="bottom", fontsize=7)
        for layer in reversed(used):
            ax.bar(0, 0, color=LAYERS[layer], label=layer.replace("_", " "))
        ax.set_xticks(range(len(found)), [str(resolution) for resolution in found])
        ax.set_xlim(-0.6, max(len(found), 3) - 0.4)  # bars of the same width in every panel
        ax.set_xlabel("resolution", fontsize=8)
        ax.set_ylabel("ms per image", fontsize=8)
        style.lines(ax)

    return draw


def roofline(report: Report) -> Figure | None:
    """FLOP/s over FLOP per byte of every row that tells both, under the machine's ceilings; None without these."""
    ceilings = report.machine.get("ceilings")
    # The ceilings are of the machine's threads: a row of more or fewer has another roof.
    here = (None, report.machine.get("threads"))
    rows = [r for r in report.results if r.median_s and r.flops and r.min_bytes]
    rows = [row for row in rows if row.threads in here]
    if not isinstance(ceilings, dict) or not ceilings.get("flops") or not ceilings.get("bytes") or not rows:
        return None
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(f"{family(row.case)}, {row.dtype}", []).append(row)
    panels: list[Panel] = [(title, _scatter(of, rows, ceilings)) for title, of in families.items()]
    told = "A dot: a case at one size by one provider; up: the FLOP that it multiplies in its own form over its median "
    told += "time; right: over the least bytes\nthat must be read and written. Black: the roof, what this machine's "
    told += f"products ({ceilings['flops'] / 1e9:.3g} GFLOP/s) and copies ({ceilings['bytes'] / 1e9:.3g} GB/s) allow."
    return style.grid(panels, f"Roofline: {style.machine(report)}", told, height=3.6, legend=True)


def _scatter(rows: Sequence[Row], every: Sequence[Row], ceilings: Mapping[str, float]) -> Callable[[Axes], None]:
    flops, rate = float(ceilings["flops"]), float(ceilings["bytes"])

    def draw(ax: Axes) -> None:
        ridge = flops / rate
        xs = [(row.flops or 0.0) / (row.min_bytes or 1.0) for row in rows]
        ends = [min(*xs, ridge) / 2, max(*xs, ridge) * 2]
        roof = [ends[0], ridge, ends[1]]
        ax.plot(roof, [min(flops, x * rate) / 1e9 for x in roof], color="#222222", linewidth=1.2)
        for provider in dict.fromkeys(row.provider for row in rows):
            of = [(x, row) for x, row in zip(xs, rows, strict=True) if row.provider == provider]
            ys = [(row.flops or 0.0) / (row.median_s or 1.0) / 1e9 for _, row in of]
            look: dict[str, Any] = {
                "color": style.colour(provider, every),
                "edgecolor": "white",
                "linewidth": 0.4,
                "alpha": 0.85,
            }
            ax.scatter([x for x, _ in of], ys, s=26, label=style.name(provider), zorder=3, **look)
        ax.set_xscale("log")
        ax.set_xlabel("FLOP per byte", fontsize=8)
        style.powers(ax, "GFLOP/s")

    return draw


def memory(report: Report) -> list[Panel]:
    """A panel for each case that has a peak at enough resolutions, in MiB."""
    lines = growth.series([row for row in report.results if row.peak_bytes], "resolution")
    return [(title, _peaks(of)) for title, of in speed.by_case(lines).items()]


def _peaks(lines: Sequence[Series]) -> Callable[[Axes], None]:
    def draw(ax: Axes) -> None:
        rows = [row for line in lines for row in line.rows]
        for line, look in speed.looks(lines):
            ax.plot(line.xs, [(row.peak_bytes or 0) / 2**20 for row in line.rows], marker="o", ms=3.5, **look)
        speed.resolutions(ax, rows)
        style.powers(ax, "peak memory, MiB")

    return draw


FAMILIES = {
    "networks": {"G", "D", "step"},
    "blocks": {"G.block", "D.block"},
    "layers": set(LAYERS),
    "ops": {"pixel_norm", "bias_act", "fade_in", "minibatch_stddev"},
}


def family(case: str) -> str:
    """What kind of thing a case runs: cases of one kind share pictures."""
    subject, _, mode = case.rpartition(".")
    for name, members in FAMILIES.items():
        if (subject or mode) in members:
            return name
    return "other people's networks" if mode in ("step", "forward") and subject else "others"
