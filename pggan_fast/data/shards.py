"""Tar shards as WebDataset has them: the files of a sample share their name up to its first dot."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from pggan_fast.data.archives import Member, Tars
from pggan_fast.data.errors import DataError
from pggan_fast.data.labels import Label
from pggan_fast.data.sources import Source, _stamp
from pggan_fast.errors import line

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 1 << 16  # shards


class Shards(Source):
    """The images of uncompressed tars that are files here, with the classes of their .cls files.

    Their places are listed once, and images are read from there as from a ZIP: any process may read any of them, so
    none runs dry, whatever the number of shards. `path` is a tar, a glob, or has ranges as "x-{000..009}.tar".
    """

    files = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._paths = expanded(path)
        self._tars = Tars(self._paths)
        Image.init()
        known = Image.registered_extensions()
        self._members: list[Member] = []
        found: list[Label | None] = []
        for _, group in itertools.groupby(self._tars.members, key=lambda m: (m.shard, _key(m.name))):
            members = list(group)
            images = [m for m in members if PurePosixPath(m.name).suffix.lower() in known]
            if images:
                self._members.append(images[0])
                found.append(next((self._class(m) for m in members if m.name.endswith(".cls")), None))
        self.names = [f"{self._paths[m.shard].name}:{m.name}" for m in self._members]
        self.labels = found if any(label is not None for label in found) else None

    def _class(self, member: Member) -> int:
        text = self._tars.read(member)
        if not re.fullmatch(rb"\s*\d{1,5}\s*", text):
            raise DataError(f"{self._paths[member.shard]}: {line(member.name)}: expected a class, got {line(text, 40)}")
        return int(text)

    def data(self, number: int) -> bytes:
        return self._tars.read(self._members[number])

    def _files(self) -> list[list[int]]:
        return [_stamp(path) for path in self._paths]


def _key(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}"


def expanded(path: Path) -> list[Path]:
    """The files that a name with ranges or a glob stands for. Raises DataError where there is none."""
    if path.is_file():
        return [path]
    found = list(_ranges(str(path)))
    if len(found) == 1:
        found = sorted(glob.glob(found[0]))
    missing = next((name for name in found if not Path(name).is_file()), None)
    if missing or not found:
        raise DataError(f"{missing or path}: no such file")
    return [Path(name) for name in found]


def _ranges(text: str) -> Iterator[str]:
    found = _RANGE.search(text)
    if found is None:
        yield text
        return
    first, last = found.groups()
    if not int(first) <= int(last) < int(first) + _MOST:
        raise DataError(f"{text}: expected a range of at most {_MOST} shards, got {found[0]}")
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{text[: found.start()]}{number:0{len(first)}d}{text[found.end() :]}")
