"""Any source to a ZIP in StyleGAN's format: in parallel, the same bytes for any number of workers, and resumable."""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Literal, NamedTuple

import PIL

from pggan_fast.data import labels as label_files
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.images import TRANSFORMS, Transform, encode, fit
from pggan_fast.data.journal import Done, Journal, name_of
from pggan_fast.data.labels import Kind, Label
from pggan_fast.data.sources import Skipped, Source
from pggan_fast.errors import counted, line

Say = Callable[[int, int, int], None]  # images looked at, of how many, written
_CHUNK = 16  # images of one task


@dataclass(frozen=True)
class Options:
    """How images are converted; all of it goes into the journal's state.

    resolution: (height, width), or None: every image must have the size of the first.
    transform: see `images.fit`. enlarge: take images that are smaller than the resolution.
    channels: 3, 1 for grey, or None: as the source is by its kind.
    background: what shows behind transparent pixels.
    labels: "auto" (those that the source has), "folders" (each first folder a class) or "none".
    """

    resolution: tuple[int, int] | None = None
    transform: Transform = "center-crop"
    enlarge: bool = False
    channels: Literal[1, 3] | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    labels: Kind = "auto"
    max_images: int | None = None

    def check(self) -> None:
        """Raises ValueError."""
        size = self.resolution
        if size is not None and (len(size) != 2 or min(size) < 1 or max(size) > 16384):
            raise ValueError(f"resolution: expected (height, width) from 1 to 16384, got {size!r}")
        if self.transform not in TRANSFORMS:
            raise ValueError(f"transform: expected one of {', '.join(TRANSFORMS)}, got {self.transform!r}")
        if self.transform == "center-crop-wide" and (size is None or size[0] > size[1]):
            got = "none" if size is None else f"{size[1]}x{size[0]}"
            raise ValueError(f"transform: center-crop-wide: expected a resolution WxH with W >= H, got {got}")
        if self.max_images is not None and self.max_images < 1:
            raise ValueError(f"max_images: expected a number >= 1, got {self.max_images}")


@dataclass
class Summary:
    """What a conversion did. size: (height, width, channels). resumed: images that a run before had written."""

    dest: Path
    candidates: int
    written: int
    size: tuple[int, int, int]
    classes: int | None
    seconds: float
    resumed: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, int]:
        return dict(collections.Counter(row.kind for row in self.skipped).most_common())


class _Refused(NamedTuple):
    kind: str
    why: str


_Result = tuple[bytes, tuple[int, ...]] | _Refused


def convert(
    source: Source,
    dest: Path,
    options: Options,
    *,
    workers: int = 1,
    strict: bool = False,
    say: Say = lambda seen, total, written: None,
) -> Summary:
    """Write `dest`, replacing what is there in one go. What is no image of the set is skipped and told in the summary.

    What was done is kept beside `dest` when it stops before its end, and gone on with when it runs again.
    `workers` > 1 are processes of multiprocessing's forkserver, so a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Raises DataError: no image at all, the first one that is skipped where `strict`, another process at the same
    `dest`. ValueError: options. OSError: reading the source's list or writing.
    """
    options.check()
    started = time.perf_counter()
    labels, classes = label_files.of_source(source, options.labels)
    listed = list(source.skipped)
    _check_none(source, listed, strict)
    channels = options.channels or source.channels
    about = [source.state(), asdict(options), channels, PIL.__version__]
    state = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    with Journal(dest, state) as journal:
        done, resumed = journal.done, len(journal.done.taken)
        _check_none(source, done.skipped, strict)  # by a run that was not
        numbers = _chunks(done.next, len(source.names))
        worker = functools.partial(_converted, options=options, channels=channels, labels=labels)
        with closing(_results(source, worker, numbers, workers)) as results:
            _add(journal, source, results, options, strict, say)
        if not done.taken:
            journal.discard()
            raise DataError(_nothing(source, [*listed, *done.skipped]))
        of_taken: list[Label | None] = [None if labels is None else labels[i] for i in done.taken]
        names = [name_of(i) for i in range(len(of_taken))]
        journal.finish(label_files.write(names, of_taken, classes), label_files.FILE)
    assert done.size is not None
    return Summary(
        dest,
        candidates=len(source.names),
        written=len(names),
        size=(done.size[0], done.size[1], channels),
        classes=_classes(of_taken),
        seconds=time.perf_counter() - started,
        resumed=resumed,
        skipped=[*listed, *done.skipped],
    )


def _add(
    journal: Journal, source: Source, results: Iterator[tuple[range, list[_Result]]], options: Options, strict: bool,
    say: Say,
) -> None:  # fmt: skip
    for chunk, found in results:
        if _full(journal.done, options):
            return
        taken, pngs, skipped, size = _sorted(source, chunk, found, journal.done, options)
        if strict and skipped:
            journal.discard()
        _check_none(source, skipped, strict)
        journal.add(chunk.stop, taken, pngs, skipped, size)
        say(chunk.stop, len(source.names), len(journal.done.taken))


def _classes(labels: list[Label | None]) -> int | None:
    """How many there are; of vectors, how many numbers each has."""
    table = label_files.table(labels)
    return None if table is None else table.shape[1] if table.ndim == 2 else len(set(table.tolist()))


def _full(done: Done, options: Options) -> bool:
    return options.max_images is not None and len(done.taken) >= options.max_images


def _check_none(source: Source, skipped: list[Skipped], strict: bool) -> None:
    if strict and skipped:
        raise DataError(f"{source.path}: {_row(skipped[0])}")


def _row(row: Skipped) -> str:
    return f"{line(row.name)}: {row.kind}: {row.why}"


def _nothing(source: Source, skipped: list[Skipped]) -> str:
    first = f"; the first: {_row(skipped[0])}" if skipped else ""
    return f"{source.path}: no usable image among {counted(len(source.names), 'file')}{first}"


def _chunks(first: int, count: int) -> Iterator[range]:
    return (range(i, min(i + _CHUNK, count)) for i in range(first, count, _CHUNK))


def _sorted(
    source: Source, chunk: range, found: list[_Result], done: Done, options: Options
) -> tuple[list[int], list[bytes], list[Skipped], list[int] | None]:
    """Of a chunk's results what is written and what is skipped, and the size that all images have."""
    taken: list[int] = []
    pngs: list[bytes] = []
    skipped: list[Skipped] = []
    size = done.size
    for number, result in zip(chunk, found, strict=True):
        if options.max_images is not None and len(done.taken) + len(taken) >= options.max_images:
            break
        if isinstance(result, _Refused):
            skipped.append(Skipped(source.names[number], *result))
            continue
        png, shape = result
        size = size or list(shape)
        if list(shape) != size:
            why = f"{shape[1]}x{shape[0]}, where the first has {size[1]}x{size[0]}; a resolution makes them alike"
            skipped.append(Skipped(source.names[number], "another size", why))
            continue
        taken.append(number)
        pngs.append(png)
    return taken, pngs, skipped, size


def _converted(
    source: Source, number: int, *, options: Options, channels: int, labels: list[Label | None] | None
) -> _Result:
    try:
        if labels is not None and labels[number] is None:
            folders = options.labels == "folders"
            raise ImageRefused("no label", "in no folder, which are the classes" if folders else "no label names it")
        pixels = source.pixels(number, channels, options.background)
        if options.resolution is not None:
            pixels = fit(pixels, options.resolution, options.transform, options.enlarge)
        return encode(pixels), pixels.shape
    except ImageRefused as error:
        return _Refused(error.kind, str(error))
    except MemoryError:
        return _Refused("giant", "more memory than there is")


_Worker = Callable[[Source, int], _Result]
_held: tuple[Source, _Worker] | None = None  # of a worker process


def _results(
    source: Source, worker: _Worker, chunks: Iterator[range], workers: int
) -> Generator[tuple[range, list[_Result]], None, None]:
    """The chunks' results in their order, a few of them ahead of who takes them."""
    if workers <= 1:
        for chunk in chunks:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, on metadata
                found = [worker(source, number) for number in chunk]
            yield chunk, found
        return
    forks = "forkserver" in multiprocessing.get_all_start_methods()  # nobody's threads; Windows forks nothing
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload([__name__])
    pool = ProcessPoolExecutor(workers, context, _begin, (source, worker))
    ahead: collections.deque[tuple[range, Future[list[_Result]]]] = collections.deque()
    try:
        while True:
            for chunk in itertools.islice(chunks, 4 * workers - len(ahead)):
                ahead.append((chunk, pool.submit(_run, chunk)))
            if not ahead:
                return
            chunk, future = ahead.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:
                names = f"{line(source.names[chunk.start])} .. {line(source.names[chunk.stop - 1])}"
                raise DataError(f"{source.path}: a worker died (of memory?) at or soon after {names}") from None
            yield chunk, found
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(source: Source, worker: _Worker) -> None:
    global _held
    _held = source, worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to tell of
    warnings.simplefilter("ignore")  # of Pillow, on metadata
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A pool's processes would wait for ever for a parent that was killed."""
    connection.wait([sentinel])
    os._exit(1)


def _run(chunk: range) -> list[_Result]:
    assert _held is not None
    source, worker = _held
    return [worker(source, number) for number in chunk]
