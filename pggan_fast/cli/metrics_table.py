"""The table of `pggan-fast metrics`."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pggan_fast.metrics.names import KINDS
from pggan_fast.metrics.published import LEVELS, Published, Row, beside
from pggan_fast.metrics.running import Result, duration

OFFICIAL = {"swd": 16384, "msssim": 20000}  # images that published numbers are of


def show(screen: Console, results: Sequence[Result], dataset: str | None, size: tuple[int, int]) -> None:
    """A row per number with its floor, what there is to know of it, and published numbers where they are comparable."""
    screen.print(_values(screen, results))
    of_note: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            of_note.setdefault(note, []).append(result.name.text)
    for note, names in of_note.items():
        _line(screen, f"{', '.join(names)}: {note}")
    if dataset is not None:
        known = beside(dataset, size[0]) if size[0] == size[1] else None
        if known is None:
            _line(screen, f"nothing was published of {dataset} at {size[0]}x{size[1]}")
        else:
            screen.print(_published(screen, known, results))
            _line(screen, known.source)


def _line(screen: Console, text: str) -> None:
    screen.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(screen: Console, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAVY if screen.is_terminal else box.ASCII2, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=True, justify="right" if number else "left")
    return table


def _values(screen: Console, results: Sequence[Result]) -> Table:
    matched = ["matched"] if any("matched" in key for result in results for key in result.values) else []
    counted = ("reals", "generated", "floor of", "time")
    table = _table(screen, "metric", "", "value", *matched, "reals with reals", *counted)
    for result in results:
        name, images = result.name.text, result.images
        head: list[str] = [name if result.used == result.name.count else f"{name}, of {result.used:,}"]
        counts = [_count(images, "reals"), _count(images, "fakes"), _floor_of(images), duration(result.seconds)]
        for key in _parts(result):
            value, like, floor = (result.values.get(_key(name, what, key)) for what in ("", "matched", "floor"))
            floor = result.values.get(f"{name}_reals") if floor is None else floor
            part = key or KINDS[result.name.kind][0]
            table.add_row(*head, part, _number(value), *(_number(like) for _ in matched), _number(floor), *counts)
            head, counts = [""], [""] * 4
        table.add_section()
    return table


def _parts(result: Result) -> list[str]:
    """What the values' names end in: levels and their average for the sliced Wasserstein distance."""
    ends = [_end(result, key) for key in result.values]
    ends = [end.removeprefix("floor").removeprefix("matched").lstrip("_") for end in ends]
    return list(dict.fromkeys("" if end == "reals" else end for end in ends))


def _key(*parts: str) -> str:
    return "_".join(part for part in parts if part)


def _count(images: dict[str, int], side: str) -> str:
    return f"{images[side]:,}" if images.get(side) else "-"


def _floor_of(images: dict[str, int]) -> str:
    return f"2 x {images['floor']:,}" if images.get("floor") else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _published(screen: Console, known: Published, results: Sequence[Result]) -> Table:
    table = _table(screen, "published", *map(str, LEVELS), "SWD x 1000", "MS-SSIM", "FID")
    for row in known.rows:
        table.add_row(row.name, *_cells(row))
    table.add_section()
    table.add_row(*_own(results))
    return table


def _cells(row: Row) -> list[str]:
    levels = [f"{value:.2f}" for value in row.swd] or [""] * len(LEVELS)
    forms = ((row.average, ".2f"), (row.msssim, ".4f"), (row.fid, ".2f"))
    return [*levels, *("" if value is None else format(value, form) for value, form in forms)]


def _own(results: Sequence[Result]) -> list[str]:
    by_kind = {result.name.kind: result for result in results}
    values = {kind: {_end(result, key): v for key, v in result.values.items()} for kind, result in by_kind.items()}
    swd = values.get("swd", {})
    levels = tuple(swd[str(level)] for level in LEVELS if str(level) in swd)
    row = Row("", levels, swd.get("avg"), *(values.get(kind, {}).get("") for kind in ("msssim", "fid")))
    fewer = any(by_kind[kind].used < count for kind, count in OFFICIAL.items() if kind in by_kind)
    return ["this run, of fewer images" if fewer else "this run", *_cells(row)]


def _end(result: Result, key: str) -> str:
    """What a value's name says besides the metric's."""
    return key[len(result.name.text) :].lstrip("_")
