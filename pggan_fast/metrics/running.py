"""All metrics that are asked for, in one pass over the generated images and one over the reals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pggan_fast.files import write_atomically
from pggan_fast.metrics.measures import MEASURES, SETS, SIDES, Measure, Settings, Side
from pggan_fast.metrics.names import Name
from pggan_fast.metrics.ranks import Ranks
from pggan_fast.metrics.samples import Source, chunks

Say = Callable[[str, int, int], None]  # what is computed now, how many images are done, of how many


@dataclass(frozen=True)
class Result:
    """values: by name, `swd16k_avg` and so on. images: how many of each set, as used; used: of the smaller one, which
    may be fewer than the name says."""

    name: Name
    values: dict[str, float]
    images: dict[str, int]
    seconds: float
    used: int
    notes: list[str] = field(default_factory=list)

    def as_json(self, ranks: int, network: str | None) -> dict[str, Any]:
        """The fields of StyleGAN's `metric-*.jsonl`, and then ours; `network` by its `name_from` the file's folder."""
        return {
            "results": self.values,
            "metric": self.name.text,
            "total_time": self.seconds,
            "total_time_str": duration(self.seconds),
            "num_gpus": ranks,
            "snapshot_pkl": network,
            "timestamp": time.time(),
            "images": self.images,
            "num_images": self.used,
            "notes": self.notes,
        }


def measures(names: Sequence[Name], fakes: Source | None, reals: Source | None, settings: Settings) -> list[Measure]:
    """The metrics before any image is computed. fakes or reals may be None. ValueError tells what is lacking."""
    sides: dict[Side, Source | None] = {"reals": reals, "fakes": fakes}
    sizes = {source.resolution: source.name for source in sides.values() if source is not None}
    if len(sizes) != 1:
        told = " and ".join(f"{h}x{w} ({name})" for (h, w), name in sizes.items()) or "none"
        raise ValueError(f"images: expected one size, got {told}")
    available = {side: 0 if source is None else source.available for side, source in sides.items()}
    for name in names:
        if reals is None and MEASURES[name.kind].needs_reals:
            raise ValueError(f"{name.text}: compares with reals, and there are none: --data names them")
    made = [MEASURES[name.kind](name, next(iter(sizes)), available, settings) for name in names]
    if fakes is not None and reals is not None and (fakes.channels == 1) != (reals.channels == 1):
        grey, other = (SETS["fakes"], SETS["reals"]) if fakes.channels == 1 else (SETS["reals"], SETS["fakes"])
        for measure in made:
            measure.notes.append(f"the {grey} is grey, the {other} is not: grey is compared as three equal channels")
    for measure in made:
        if few := [f"1 in the {SETS[side]}" for side, count in measure.compared.items() if count == 1]:
            raise ValueError(f"{measure.name.text}: expected at least 2 images, got {few[0]}")
        if not measure.possible:
            raise ValueError(f"{measure.name.text}: without a floor it needs generated images, and there are none")
    return made


def evaluate(
    wanted: Sequence[Measure], fakes: Source | None, reals: Source | None, *, batch: int = 64,
    ranks: Ranks | None = None, say: Say | None = None,
) -> list[Result]:  # fmt: skip
    """Compute them. On all ranks but the first the list is empty.

    fakes, reals: as given to `measures`. batch: images of a rank's turn, an even number. say: told of what is computed.
    Results are the same for any number of ranks. Raises ValueError for another batch, and for images of another size or
    dtype than the first; what the sources raise, such as DataError, for an image that cannot be read.
    """
    if batch < 2 or batch % 2:
        raise ValueError(f"batch: expected an even number, at least 2, got {batch}")
    ranks = ranks or Ranks.current()
    say = say or (lambda text, done, total: None)
    for side, source in zip(SIDES, (reals, fakes), strict=True):
        if source is not None:
            _pass(wanted, side, source, batch, ranks, say)
    if ranks.rank:
        return []
    results = []
    for number, measure in enumerate(wanted):
        say(f"computing {measure.name.text}", number, len(wanted))
        results.append(_result(measure))
    return results


def _pass(wanted: Sequence[Measure], side: Side, source: Source, batch: int, ranks: Ranks, say: Say) -> None:
    """Every image of one side once; each metric takes those that it wants, from the first on."""

    def compute(numbers: range) -> list[list[Tensor]]:
        taken = [max(0, measure.wanted[side] - numbers.start) for measure in wanted]
        began = time.perf_counter()
        images = source.images(numbers)
        shared = time.perf_counter() - began
        made = []
        for measure, count in zip(wanted, taken, strict=True):
            began = time.perf_counter()
            mine = images[:count].to(measure.settings.device)
            made.append([t.cpu() for t in measure.extract(mine, numbers.start, side)] if count else [])
            measure.seconds += (shared if count else 0.0) + time.perf_counter() - began
        return made

    total = max((measure.wanted[side] for measure in wanted), default=0)
    for numbers, made in ranks.in_order(chunks(total, batch), compute):
        for measure, rows in zip(wanted, made, strict=True):
            if rows:
                measure.add(side, numbers.start, rows)
        say(f"{SETS[side]} {source.name}", numbers.stop, total)


def _result(measure: Measure) -> Result:
    began = time.perf_counter()
    values = measure.results()
    seconds = measure.seconds + time.perf_counter() - began
    images = {str(side): count for side, count in measure.compared.items()}
    if measure.floor > 1:
        images["floor"] = measure.floor
    return Result(measure.name, values, images, seconds, measure.used, [*measure.notes, *measure.of_the_floor()])


def duration(seconds: float) -> str:
    """5s, 1m 05s, 2h 00m 05s, 1d 02h 00m, as StyleGAN writes it."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02}s"
    if s < 86400:
        return f"{s // 3600}h {s // 60 % 60:02}m {s % 60:02}s"
    return f"{s // 86400}d {s // 3600 % 24:02}h {s // 60 % 60:02}m"


def name_from(folder: Path, network: Path) -> str:
    """A network file's path from a folder, as StyleGAN writes it: of a run's own networks, and only of them, the name
    alone. Links to folders are followed, those to files are not: the name of a link is the name that was meant."""
    path, start = network.parent.resolve() / network.name, folder.resolve()
    try:
        return os.path.relpath(path, start)
    except ValueError:  # Windows: on another drive
        return str(path)


def append(folder: Path, result: Result, line: dict[str, Any]) -> Path:
    """Add a line to FOLDER/metric-NAME.jsonl, whose reader sees it whole or not at all."""
    path = folder / f"metric-{result.name.text}.jsonl"
    before = path.read_bytes() if path.exists() else b""
    text = json.dumps(line, allow_nan=False)
    write_atomically(path, lambda file: file.write(before + text.encode() + b"\n"))
    return path
