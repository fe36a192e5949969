"""The site's figures: those of the README, and tables of the same committed results. No page has a number by hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pggan_fast.benchmarks import readme
from pggan_fast.benchmarks.schema import Report, Row
from pggan_fast.benchmarks.table import seconds

from pggan_fast import settings


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """As Markdown, in lines of its own."""
    lines = [" | ".join(headings)]
    lines += ["|".join("---" for _ in lines[0].split(" | ")), *(" | ".join(row) for row in rows)]
    return "\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n\n"


def resolutions(root: Path) -> str:
    report = readme.results("cpu-resolutions", root)
    levels = sorted({row.resolution for row in report.results})
    return table(
        ("", "batch", "G, x eager", "peak memory of G", "D, x eager", "peak memory of D"),
        (_level(report, level) for level in levels),
    )


def _level(report: Report, level: int) -> list[str]:
    cells: list[str] = []
    for case in ("G.forward", "D.forward"):
        eager, ours = (readme.row(report, case, who, level) for who in ("eager", "auto"))
        peaks = " -> ".join(f"{(r.peak_bytes or 0) / 2**20:.0f}" for r in (eager, ours))
        cells += [f"**{ours.ratio:.2f}** {readme.spread(ours)}", f"{peaks} MiB"]
    return [f"{level}x{level}", str(ours.batch), *cells]


def overhead(root: Path, name: str = "cpu-overhead") -> str:
    """Of every layer: microseconds of a call in each mode, ours and the chain of torch ops; of CUDA graphs, too."""
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for row in readme.results(name, root).results:
        name, mode = row.case.rsplit(": ", 1)
        who, _, graph = row.provider.partition(" ")
        found.setdefault(name, {}).setdefault(f"{mode}, {graph}" if graph else mode, {})[who] = row
    modes = sorted({mode: None for each in found.values() for mode in each}, key=lambda mode: mode.endswith("graph"))
    return table(
        ("us a call, eager -> ours", *modes),
        ([name, *(_us(each.get(m)) for m in modes)] for name, each in found.items()),
    )


def _us(rows: Mapping[str, Row] | None) -> str:
    return "" if rows is None else " -> ".join(f"{1e6 * (rows[who].median_s or 0):.0f}" for who in ("eager", "ours"))


def layers(root: Path) -> str:
    """The sweep over every kind of layer, forward and with gradients, at every resolution, in a sentence."""
    rows = readme.results("cpu-layers", root).results
    ours = [row for row in rows if row.provider == "auto" and row.ratio is not None]
    ratios = [row.ratio or 0.0 for row in ours]
    behind = [row for row in ours if (row.ratio or 0.0) < 1.0 - (row.noise or 0.0)]
    slower = "none is behind by more than the noise"
    if behind:
        named = ", ".join(f"{row.case} {row.resolution}x{row.resolution} at {row.ratio:.2f}" for row in behind)
        slower = f"{len(behind)} are behind by more than the noise: {named}"
    middle, best = statistics.median(ratios), max(ratios)
    return f"of {len(ours)} measurements the median is {middle:.2f} times as fast, the best {best:.1f}; {slower}"


def swaps(root: Path) -> str:
    report, told = readme.results("cpu-peers", root), []
    for case in sorted({row.case for row in report.results if row.case.endswith(".step")}):
        eager, fused = (readme.row(report, case, who, 32) for who in ("eager", "auto"))
        times = [seconds(row.median_s or 0.0) for row in (eager, fused)]
        told.append(
            [case.removesuffix(".step"), str(fused.batch), *times, f"**{fused.ratio:.2f}** {readme.spread(fused)}"]
        )
    return table(("WGAN-GP step at 32x32", "batch", "as it is", "fused", "x as it is"), told)


def _rate(images_per_s: float | None) -> str:
    rate = images_per_s or 0.0
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def loader(root: Path) -> str:
    """Of every resolution: images a second of each way of loading, and of a training step."""
    ways = ("cached", "threads", "caller", "step")
    found: dict[int, dict[str, Row]] = {}
    for row in readme.results("cpu-loader", root).results:
        found.setdefault(row.resolution, {})[row.provider] = row
    told = []
    for level, rows in sorted(found.items()):
        waits = (rows["step"].reason or "").split(" ")[0]
        told.append([f"{level}x{level}", *(_rate(rows[way].images_per_s) for way in ways), waits])
    heads = ("images/s", "kept on the device", "two threads", "the caller", "a training step", "of it waiting")
    return table(heads, told)


def metrics(root: Path) -> str:
    """Of every part of a metric: images a second."""
    rows = readme.results("cpu-metrics", root).results
    levels = sorted({row.resolution for row in rows})
    found = {(row.case, row.resolution): row.images_per_s for row in rows}
    cases = dict.fromkeys(row.case for row in rows)
    told = ([case, *(_rate(found[case, level]) for level in levels)] for case in cases)
    return table(("images/s", *(f"{level}x{level}" for level in levels)), told)


def machine(root: Path) -> str:
    report = readme.results("cpu-quick", root)
    found, versions = report.machine, report.versions
    return f"{found['cpu']}, {found['cores']} cores, torch {versions['torch']}, Python {versions['python']}"


def environment(root: Path) -> str:
    """The README's table, which a test holds to be this one."""
    return table(("variable", "meaning"), ([f"`{name}`", text] for name, text in settings.VARIABLES.items()))


FIGURES: Mapping[str, Callable[[Path], str]] = {
    **readme.FIGURES,
    "gpu-overhead": lambda root: overhead(root, "nvidia-h200/overhead"),
    "resolutions": resolutions,
    "overhead": overhead,
    "layers": layers,
    "swaps": swaps,
    "loader": loader,
    "metrics": metrics,
    "machine": machine,
    "environment": environment,
}
