"""How cost grows with resolution, batch and threads: exponents of power laws, and where their curves bend.

The exponent is the slope of log(time) over log(x), by least squares: 2 says that twice the resolution costs four times
as much. Beside it stands the exponent of the work itself, from the rows (`floor_s`, else `flops`) or, in files that do
not have them, from the networks' own widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pggan_fast.benchmarks import runs
from pggan_fast.benchmarks.fit import CHANNELS_BASE, CHANNELS_MAX
from pggan_fast.benchmarks.schema import Row
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pggan_fast.errors import counted

Along = Literal["resolution", "batch", "threads"]
ALONG: tuple[Along, ...] = ("resolution", "batch", "threads")
LEAST_POINTS = 3  # of a line
LEAST_POINTS_TO_BEND = 5
# A bend is told where the exponent changes by this much at least, and what is left of the squared error, by the degrees
# of freedom that are left, is this many times less than without it. Noise alone rarely does either.
BEND_CHANGE = 0.3
BEND_MARGIN = 4.0
CLOSE = 0.2  # exponents nearer than this are called the same


@dataclass(frozen=True)
class Series:
    """One provider of one case, all else equal but what it goes along."""

    along: Along
    rows: tuple[Row, ...]  # by x

    @property
    def xs(self) -> list[float]:
        return [_x(row, self.along) for row in self.rows]

    @property
    def seconds(self) -> list[float]:
        """Of a call; along the resolution of one image, since batches may differ."""
        return [(row.median_s or math.nan) / self._per(row) for row in self.rows]

    @property
    def fixed(self) -> str:
        """What is the same for all, in words."""
        return ", ".join(self.parts)

    @property
    def parts(self) -> list[str]:
        first = self.rows[0]
        told = [first.dtype, *filter(None, [first.mode])]
        if self.along != "resolution":
            told.insert(0, f"{first.resolution}x{first.resolution}")
        if self.along != "batch":
            batches = sorted({row.batch for row in self.rows})
            told.append(f"batch {batches[0]}" + (f" to {batches[-1]}" if len(batches) > 1 else ""))
        if self.along != "threads" and first.threads is not None:
            told.append(counted(first.threads, "thread"))
        return told

    @property
    def work(self) -> list[float] | None:
        """In any unit, of what `seconds` are of: the floor of the time, else flops, else products of the networks."""
        for name in ("floor_s", "flops"):
            values = [getattr(row, name) for row in self.rows]
            if all(values):
                return [value / self._per(row) for value, row in zip(values, self.rows, strict=True)]
        if self.along != "resolution":
            return None
        counted = [products(row.case, row.resolution) for row in self.rows]
        return [value for value in counted if value] if all(counted) else None

    def _per(self, row: Row) -> float:
        return runs.images(row) if self.along == "resolution" else 1.0


class Bend(NamedTuple):
    at: float
    before: float
    after: float


@dataclass(frozen=True)
class Growth:
    series: Series
    exponent: float
    bend: Bend | None
    work: tuple[float, ...] = ()  # its exponents: one, or before and after the bend; none where nobody knows
    why: str = ""  # a sentence about the bend


def _x(row: Row, along: Along) -> float:
    return float(getattr(row, along) or math.nan)


def series(rows: Iterable[Row], along: Along) -> list[Series]:
    """Every line of at least LEAST_POINTS rows that have a time."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.median_s and getattr(row, along):
            groups.setdefault(_group(row, along), []).append(row)
    if along == "resolution":  # each has its own batch, unless some have several
        groups = {(name, part): of for name, group in groups.items() for part, of in _by_batch(group).items()}
    lines = []
    for group in groups.values():
        by_x = {_x(row, along): row for row in group}
        if len(by_x) >= LEAST_POINTS:
            lines.append(Series(along, tuple(by_x[x] for x in sorted(by_x))))
    return lines


def _group(row: Row, along: Along) -> tuple[object, ...]:
    others = [getattr(row, name) for name in ALONG if name != along and (name, along) != ("batch", "resolution")]
    return (row.case, row.provider, row.dtype, row.device, row.mode, *others)


def _by_batch(group: list[Row]) -> dict[int, list[Row]]:
    """One line with the one batch of each resolution, or one for each batch that all resolutions have.

    Where only some resolutions have several batches, as of a run that goes along the batch too, the one is taken that
    lies between those of the neighbours.
    """
    at: dict[int, set[int]] = {}
    for row in group:
        at.setdefault(row.resolution, set()).add(row.batch)
    single = {r: next(iter(batches)) for r, batches in sorted(at.items()) if len(batches) == 1}
    if (set.intersection(*at.values()) and len(single) < len(at)) or not single:
        return {batch: [row for row in group if row.batch == batch] for batch in set.union(*at.values())}
    middle = {r: np.interp(math.log(r), np.log(list(single)), np.log(list(single.values()))) for r in at}
    chosen = {r: min(batches, key=lambda batch: abs(math.log(batch) - middle[r])) for r, batches in at.items()}
    return {0: [row for row in group if row.batch == chosen[row.resolution]]}


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent of y over x."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def bend(xs: Sequence[float], ys: Sequence[float]) -> Bend | None:
    """The one point at which a broken line fits best; None where it does not fit better by the margins above."""
    if len(xs) < LEAST_POINTS_TO_BEND:
        return None
    u, v = np.log(xs), np.log(ys)
    straight, _ = _fitted([np.ones_like(u), u], v)
    found = []
    for at in range(1, len(xs) - 1):
        error, (_, before, more) = _fitted([np.ones_like(u), u, np.maximum(u - u[at], 0.0)], v)
        found.append((error, Bend(float(xs[at]), float(before), float(before + more))))
    error, best = min(found)
    gain = (straight / (len(xs) - 2)) / max(error / (len(xs) - 4), 1e-12)
    return best if gain >= BEND_MARGIN and abs(best.after - best.before) >= BEND_CHANGE else None


def _fitted(columns: list[np.ndarray], v: np.ndarray) -> tuple[float, np.ndarray]:
    """Squared error and coefficients."""
    design = np.stack(columns, axis=1)
    solved = np.linalg.lstsq(design, v, rcond=None)[0]
    return float(np.square(design @ solved - v).sum()), solved


def fit(line: Series) -> Growth:
    xs, ys, work = line.xs, line.seconds, line.work
    at = bend(xs, ys)
    exponent = slope(xs, ys)
    if at is None:
        return Growth(line, exponent, None, (slope(xs, work),) if work else ())
    sides = [[n for n, x in enumerate(xs) if keep(x)] for keep in (lambda x: x <= at.at, lambda x: x >= at.at)]
    grown = tuple(slope([xs[n] for n in side], [work[n] for n in side]) for side in sides) if work else ()
    bounds = [_common([line.rows[n].bound for n in side]) for side in sides]
    return Growth(line, exponent, at, grown, _why(at, grown, bounds))


def _common(names: Sequence[str | None]) -> str | None:
    """The most frequent; None where some are not known."""
    return None if None in names else max(dict.fromkeys(names), key=names.count)


def _why(at: Bend, work: tuple[float, ...], bounds: Sequence[str | None]) -> str:
    """From what the rows tell alone."""
    told = []
    below, above = bounds
    if below and above and below != above:
        told.append(f"the machine's bound is {below} below and {above} above")
    if work:
        same = abs(work[1] - work[0]) >= BEND_CHANGE and (work[1] > work[0]) == (at.after > at.before)
        verb = "bends the same way" if same else "does not bend this way"
        told.append(f"the work {verb}, from {_digits(work[0])} to {_digits(work[1])}")
        told.append(f"below, time grows {_compared(at.before - work[0])}; above, {_compared(at.after - work[1])}")
    return "; ".join(told) or "the rows do not tell why"


def _compared(off: float) -> str:
    if abs(off) < CLOSE:
        return "as the work"
    return "slower (costs weigh that do not grow with the work)" if off < 0 else "faster (more of it is slow)"


def of(rows: Iterable[Row]) -> list[Growth]:
    """Of every line along anything."""
    rows = list(rows)
    return [fit(line) for along in ALONG for line in series(rows, along)]


def _channels(resolution: int) -> int:
    return min(2 * CHANNELS_BASE // resolution, CHANNELS_MAX)


def _conv(resolution: int, before: int | None = None) -> float:
    """A 3x3 convolution at a resolution, from the channels of another one."""
    return 9.0 * _channels(resolution) * _channels(before or resolution) * resolution**2


def _features(resolution: int) -> float:
    return float(_channels(resolution) * resolution**2)


def _network(resolution: int) -> float:
    levels = [2**i for i in range(3, resolution.bit_length())]
    return PRODUCTS["dense"](4) + _conv(4) + sum(map(_block, levels)) + PRODUCTS["to_rgb"](resolution)


def _block(resolution: int) -> float:
    return _conv(resolution) + _conv(resolution, resolution // 2)


# Products for one image of what a case runs as plain PyTorch does, but for a factor; of ops without any, elements.
PRODUCTS: Mapping[str, Callable[[int], float]] = {
    "pixel_norm": _features,
    "bias_act": _features,
    "minibatch_stddev": _features,
    "fade_in": lambda r: 3.0 * r**2,
    "up": lambda r: _conv(r, r // 2),
    "down": lambda r: _conv(r, r // 2),
    "conv": _conv,
    "to_rgb": lambda r: 3.0 * _features(r),
    "from_rgb": lambda r: 3.0 * _features(r),
    "dense": lambda r: 16.0 * CHANNELS_MAX**2,
    "block": _block,
    "G": _network,
    "D": _network,
}


def products(case: str, resolution: int) -> float | None:
    """By the case's name, `<subject>.<mode>`; steps run both networks. None for other names."""
    *subject, mode = case.split(".")
    if mode in ("step", "train"):
        return _network(resolution)
    count = PRODUCTS.get(subject[-1]) if subject else None
    return None if count is None else count(resolution)


def _digits(exponent: float) -> str:
    return f"{round(exponent, 2) + 0.0:.2f}"  # no -0.00


def sentence(growth: Growth) -> str:
    """What there is to say of a bend; empty where there is none."""
    if growth.bend is None:
        return ""
    row, at = growth.series.rows[0], growth.bend
    where = f"{row.case}, {row.provider} ({growth.series.fixed})"
    bends = f"bends at {growth.series.along} {at.at:g}, its exponent from {_digits(at.before)} to {_digits(at.after)}"
    return f"{where} {bends}: {growth.why}."


HEAD = ("case", "provider", "along", "from..to", "of", "exponent", "work's", "bend")


def cells(growth: Growth) -> list[str]:
    """A line of a table with the columns HEAD."""
    line, at = growth.series, growth.bend
    bent = "" if at is None else f"at {at.at:g}: {_digits(at.before)} -> {_digits(at.after)}"
    work = " -> ".join(map(_digits, growth.work))
    row = line.rows[0]
    span = f"{line.xs[0]:g}..{line.xs[-1]:g}"
    return [row.case, row.provider, line.along, span, line.fixed, _digits(growth.exponent), work, bent]


EXPLAINED = (
    "exponent: of the median time over what it goes along (of one image along the resolution; 2: four times for twice "
    "as much); work's: of the products, or of the least time that the machine allows, where rows tell it."
)


def render(growths: Sequence[Growth], terminal: bool) -> RenderableType:
    table = Table(*HEAD, box=box.SIMPLE_HEAVY if terminal else box.ASCII2, pad_edge=False)
    for growth in growths:
        table.add_row(*map(Text, cells(growth)))  # names of the run: no markup
    told = [Text(text) for growth in growths if (text := sentence(growth))]
    return Group(table, *told, Text(EXPLAINED, style="dim"))
