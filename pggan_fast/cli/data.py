"""`pggan-fast data`: convert, make, info and verify."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from pggan_fast import system
from pggan_fast.cli import UsageError
from pggan_fast.cli.files import check_writable
from pggan_fast.cli.options import Flag, option

if TYPE_CHECKING:
    from pggan_fast.data.convert import Options, Summary
    from pggan_fast.data.sources import Source

T = TypeVar("T")


@dataclass
class Convert:
    """Make a ZIP of PNGs, as StyleGAN's tools have it, of any images.

    The same bytes for any number of workers. A run that was stopped goes on where it was when it is started again. What
    is no image, broken, giant or too small is skipped, counted, and listed beside FILE.zip in FILE.skipped.tsv;
    FILE.sheet.png shows some of what was written.
    """

    source: Annotated[Path, option("PATH")]
    """A folder, a ZIP, tar shards, LSUN's LMDB, MNIST's idx3-ubyte, CIFAR's .tar.gz, the official .tfrecords."""
    dest: Annotated[Path, option("FILE.zip")]
    """Written in one go when all is done."""
    resolution: Annotated[str | None, option("R|WxH")] = None
    """Of every image; if not given, all must have the size of the first."""
    transform: Literal["center-crop", "center-crop-wide", "stretch"] = "center-crop"
    """How images come to the resolution; wide: WxH in the middle of a black WxW."""
    enlarge: Flag = False
    """Take images that are smaller than the resolution too."""
    labels: Literal["auto", "folders", "none"] = "auto"
    """auto: those that the source has, such as a dataset.json; folders: each first sub-folder is a class."""
    channels: Annotated[Literal[1, 3] | None, option("{1,3}")] = None
    """1 is grey; if not given, 3, and for sources of grey images such as MNIST 1."""
    background: Annotated[str, option("RRGGBB")] = "ffffff"
    """The colour behind transparent pixels; white, if not given."""
    max_images: Annotated[int | None, option("N")] = None
    """No more than these."""
    workers: Annotated[int | None, option("N")] = None
    """Processes; one for each CPU, if not given."""
    strict: Flag = False
    """Stop at the first image that would be skipped."""
    force: Flag = False
    """Replace DEST where it exists."""

    def run(self) -> int:
        def source() -> Source:
            from pggan_fast.data.guess import open_source

            return open_source(self.source)

        options = _checked(self._options)
        if self.source.resolve() in self.dest.resolve().parents:
            raise UsageError(f"--dest: {self.dest} is within {self.source}, which it would change while it is read")
        return _make(source, self.dest, options, self.workers, strict=self.strict, force=self.force)

    def _options(self) -> Options:
        from pggan_fast.data.convert import Options

        if not re.fullmatch(r"#?[0-9A-Fa-f]{6}", self.background):
            raise UsageError(f"--background: got {self.background!r}, expected six hexadecimal digits, such as ffffff")
        red, green, blue = bytes.fromhex(self.background.lstrip("#"))
        made = Options(
            resolution=None if self.resolution is None else _size(self.resolution),
            transform=self.transform,
            enlarge=self.enlarge,
            channels=self.channels,
            background=(red, green, blue),
            labels=self.labels,
            max_images=self.max_images,
        )
        made.check()
        return made


@dataclass
class Make:
    """Make a ZIP of images that need no download: procedural faces (the extra "demo"), or 5,000 digits ("digits")."""

    kind: tyro.conf.Positional[Annotated[Literal["faces", "digits"], tyro.conf.arg(metavar="{faces,digits}")]]
    """What to make."""
    dest: Annotated[Path, option("FILE.zip")]
    """Written in one go when all is done."""
    n: Annotated[int | None, option("N")] = None
    """How many; 10,000 faces or all digits, if not given."""
    resolution: Annotated[int | None, option("R")] = None
    """Of faces, a divisor of 256; 64, if not given. Digits are 32x32."""
    first_seed: Annotated[int | None, option("N")] = None
    """Of faces, each of which its seed decides: others make an honest held-out set. 0, if not given."""
    workers: Annotated[int | None, option("N")] = None
    """Processes; one for each CPU, if not given."""
    force: Flag = False
    """Replace DEST where it exists."""

    def run(self) -> int:
        from pggan_fast.data.convert import Options

        if self.kind == "digits" and (self.resolution not in (None, 32) or self.first_seed is not None):
            raise UsageError("digits: they are 32x32 and have no seeds; `data convert` makes them larger or smaller")
        if self.n is not None and self.n < 1:
            raise UsageError(f"--n: got {self.n}, expected a number >= 1")
        options = Options(max_images=self.n)
        status = _make(self._source, self.dest, options, self.workers, strict=True, force=self.force)
        if self.kind == "faces" and status == 0:
            from pggan_fast.data.embedded import faces_attribution

            print(faces_attribution)
        return status

    def _source(self) -> Source:
        from pggan_fast.data.generated import Digits, Faces

        if self.kind == "digits":
            return Digits()
        return Faces(self.n or 10_000, self.resolution or 64, self.first_seed or 0)


@dataclass
class Info:
    """Say what a data set is: its images, sizes, levels and labels."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PATH")]]
    """What `pggan_fast.data.open_dataset` takes: a ZIP, a folder, an .npz, tar shards, "faces"."""

    def run(self) -> int:
        from pggan_fast.data.examine import describe

        print("\n".join(_used(lambda: describe(self.file))))
        return 0


@dataclass
class Verify:
    """Decode every image of a data set and compare sizes, names and labels. The exit status is 1 if anything is off."""

    file: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="PATH")]]
    """What `pggan_fast.data.open_dataset` takes."""

    def run(self) -> int:
        from pggan_fast.benchmarks.table import console
        from pggan_fast.cli.bar import Bar
        from pggan_fast.data.errors import DataError
        from pggan_fast.data.examine import verify
        from pggan_fast.errors import counted

        try:
            with Bar(console(stderr=True), "decoding") as bar:
                count, problems = _used(lambda: verify(self.file, bar), DataError)
        except DataError as error:
            count, problems = 0, [str(error)]
        for text in problems[:20]:
            print(text)
        more = f", {len(problems) - 20} of them not shown" if len(problems) > 20 else ""
        found = f"{counted(len(problems), 'problem')}{more}" if problems else "all of them whole"
        print(f"{self.file}: {counted(count, 'image')}, {found}")
        return 1 if problems else 0


Command = (
    Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Make, tyro.conf.subcommand("make")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def _size(text: str) -> tuple[int, int]:
    """(height, width) of "R" or "WxH"."""
    if not re.fullmatch(r"\d{1,5}(x\d{1,5})?", text):
        raise UsageError(f"--resolution: got {text!r}, expected R or WxH, such as 128 or 160x96")
    width, _, height = text.partition("x")
    return int(height or width), int(width)


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        name, _, rest = str(error).partition(":")
        raise UsageError(f"--{name.replace('_', '-')}:{rest}") from None


def _used(read: Callable[[], T], *through: type[Exception]) -> T:
    """What `read` gives; what is wrong with the file is one line."""
    from pggan_fast.data.errors import DataError

    try:
        return read()
    except through:
        raise
    except DataError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"cannot read {error.filename or ''}: {error.strerror or error}") from None


def _make(
    source: Callable[[], Source], dest: Path, options: Options, workers: int | None, *, strict: bool, force: bool
) -> int:
    """Convert with a bar, and tell what was done; a full disk is one line and status 1."""
    from pggan_fast.benchmarks.table import console
    from pggan_fast.cli.bar import Bar
    from pggan_fast.data.convert import convert
    from pggan_fast.data.examine import beside, write_beside

    check_writable("--dest", dest)
    if dest.suffix != ".zip":
        raise UsageError(f"--dest: got {dest.name}, expected a name that ends in .zip")
    if dest.exists() and not force:
        raise UsageError(f"--dest: {dest} exists; --force replaces it")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers: got {workers}, expected a number >= 1")
    opened = _used(source)
    count = workers or system.cores()
    screen = console()
    try:
        with Bar(console(stderr=True), "converting") as bar:
            say = lambda seen, total, written: bar(seen, total, f", {written} written")  # noqa: E731
            summary = _used(lambda: convert(opened, dest, options, workers=count, strict=strict, say=say), OSError)
        write_beside(summary)
    except OSError as error:
        kept = " what is done is kept: the same command goes on with it" if not dest.exists() else ""
        what = f"{error.filename}: " if error.filename else ""
        print(f"pggan-fast: error: writing {dest}: {what}{error.strerror or error};{kept}".rstrip(";"), file=sys.stderr)
        return 1
    for text in _told(summary, beside(dest, "skipped.tsv")):
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


def _told(summary: Summary, listed: Path) -> list[str]:
    from pggan_fast.errors import counted, file_size

    height, width, channels = summary.size
    resumed = f", {summary.resumed} of them by a run before" if summary.resumed else ""
    labels = f", {counted(summary.classes, 'class')}" if summary.classes else ""
    lines = [
        f"{summary.dest}: {counted(summary.written, 'image')} of {width}x{height}x{channels}{labels}, "
        f"{file_size(summary.dest.stat().st_size)}, in {summary.seconds:.1f} s{resumed}"
    ]
    rows = [("written", summary.written, ""), *_rows(summary)]
    width = max(len(kind) for kind, _, _ in rows)
    lines += [f"  {kind:<{width}}  {count:>8}  {example}".rstrip() for kind, count, example in rows]
    return [*lines, f"  all that was skipped: {listed}"] if summary.skipped else lines


def _rows(summary: Summary) -> list[tuple[str, int, str]]:
    from pggan_fast.errors import line

    first = {row.kind: row for row in reversed(summary.skipped)}
    return [(kind, n, line(f"{first[kind].name}: {first[kind].why}", 100)) for kind, n in summary.kinds.items()]
