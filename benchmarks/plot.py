"""The results as one picture: one panel per case, one bar per provider; or a curve, where a case has many resolutions.

The pictures of `pggan-fast bench report` are in benchmarks/plots, whose panels these are.
"""

from __future__ import annotations

from pathlib import Path

from pggan_fast.benchmarks.plots import speed, style
from pggan_fast.benchmarks.schema import Report, write_atomically

LEAST_RESOLUTIONS = 4  # of a curve


def draw(report: Report, path: Path) -> None:
    """Write a PNG: images per second of every provider that has a number, the reason of those that have none.

    Where every case has many resolutions: the ratio to eager against them, and below it the peak memory. Raises
    ValueError where nothing has a number.
    """
    if is_curve(report):
        above, below = speed.ratios(report), speed.memory_parts(report)
        told = f"{speed.CURVES}\nBelow: peak memory over eager's. eager: plain PyTorch in NCHW, in the same run. "
        told += style.checked(report)
        title = f"pggan_fast against plain PyTorch: {style.machine(report)}"
        figure = style.grid([*above, *below], title, told, columns=len(above), legend=True)
    else:
        bars = speed.bars(report)
        if bars is None:
            raise ValueError("results: none has a time, there is nothing to draw")
        figure = bars
    write_atomically(path, style.png(figure))


def is_curve(report: Report) -> bool:
    """Whether all cases have enough resolutions."""
    sizes: dict[str, set[int]] = {}
    for row in report.results:
        sizes.setdefault(row.case, set()).add(row.resolution)
    return all(len(of) >= LEAST_RESOLUTIONS for of in sizes.values())
