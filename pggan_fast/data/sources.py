"""What a data set is made of: folders, ZIPs, and the archives of sources_arrays.py, each as a list of images."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pggan_fast.data import labels as label_files
from pggan_fast.data.archives import Zip
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.images import Pixels, decode, read_file
from pggan_fast.data.labels import Label


class Skipped(NamedTuple):
    """What is left out: its name, a word to count by, and what is wrong with it."""

    name: str
    kind: str
    why: str


class Source:
    """Images by number, in an order that is the same every time. Sources are pickled to the processes that read them.

    names: what they are called, in messages and in dataset.json of the source.
    labels: of each, or None; classes: the names of classes 0, 1, ...
    channels: 1 where the source has grey images by its kind, else 3.
    files: whether images are files, whose names end as their formats do.
    skipped: what was seen to be no image of the set when the source was listed.
    """

    channels = 3
    files = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: Sequence[str] = []
        self.labels: list[Label | None] | None = None
        self.classes: list[str] | None = None
        self.skipped: list[Skipped] = []

    def pixels(self, number: int, channels: int | None, background: tuple[int, int, int]) -> Pixels:
        """uint8 [H, W, 3] or [H, W]; channels None: as the image has. Raises ImageRefused."""
        return decode(self.data(number), channels, background)

    def data(self, number: int) -> bytes:
        """The image's file. Raises ImageRefused."""
        raise NotImplementedError

    def state(self) -> str:
        """A digest that changes where the list of images or the files that they are in do."""
        about = [str(self.path.absolute()), [list(self.names), self.labels, self.classes], self._files()]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def _files(self) -> list[list[int]]:
        return [_stamp(self.path)]


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


class Folder(Source):
    """The files below a folder, sorted by path. Links are followed, and every file is taken once, by its first name."""

    files = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        names, self._sizes = [], []
        seen: dict[tuple[int, int], str] = {}
        for name, left in sorted(_walk(path)):
            if left is not None:
                self.skipped.append(Skipped(name, *left))
                continue
            if name == label_files.FILE:
                continue
            try:
                found = (path / name).stat()
            except OSError as error:
                self.skipped.append(Skipped(name, "unreadable", error.strerror or str(error)))
                continue
            first = seen.setdefault((found.st_dev, found.st_ino), name)
            if first != name:
                self.skipped.append(Skipped(name, "the same file", f"as {first}"))
            elif not stat.S_ISREG(found.st_mode):
                self.skipped.append(Skipped(name, "not a file", "a pipe, socket or device"))
            else:
                names.append(name)
                self._sizes.append([found.st_size, found.st_mtime_ns])
        self.names = names
        described = path / label_files.FILE
        if described.is_file() and (known := label_files.parse(described.read_bytes(), path)):
            self.labels = label_files.matched(names, known)
            self.classes = label_files.class_names(described.read_bytes())

    def data(self, number: int) -> bytes:
        return read_file(self.path / self.names[number])

    def _files(self) -> list[list[int]]:
        return self._sizes


def _walk(root: Path) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Files below `root`, with the kind and the reason of what is left out. Each real folder is entered once, before
    any link to it, so that loops of links end.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = collections.deque([(root, "")]), collections.deque[tuple[Path, str]]()
    while folders or links:
        folder, prefix = (folders or links).popleft()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield prefix.rstrip("/") or ".", ("unreadable folder", error.strerror or str(error))
            continue
        for entry in entries:
            if entry.name.startswith("."):  # other programs' notes, as ._x.png of macOS
                yield prefix + entry.name, ("hidden", "its name begins with a dot")
            elif _is_folder(entry):
                (links if entry.is_symlink() else folders).append((folder / entry.name, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name, None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class ZipFile(Source):
    """The files of a ZIP, sorted by name, with the labels of its dataset.json."""

    files = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._zip = Zip(path)
        entries = sorted(self._zip.entries, key=lambda entry: entry.name)
        described = [e for e in entries if e.name == label_files.FILE and not e.refused]
        self.skipped = [Skipped(e.name, "refused", e.refused) for e in entries if e.refused]
        self._entries = [e for e in entries if not e.refused and e.name != label_files.FILE]
        self.names = [e.name for e in self._entries]
        if described:
            try:
                text = self._zip.read(described[0])
            except ImageRefused as error:
                raise DataError(f"{path}: {label_files.FILE}: {error}") from None
            if known := label_files.parse(text, path):
                self.labels = label_files.matched(self.names, known)
                self.classes = label_files.class_names(text)

    def data(self, number: int) -> bytes:
        return self._zip.read(self._entries[number])
