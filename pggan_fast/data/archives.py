"""ZIP and tar files as stores that many threads and forked processes read at once: every read names its place."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pggan_fast import system
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.images import MAX_BYTES
from pggan_fast.errors import line

_LOCAL = struct.Struct("<4s22xHH")  # of a ZIP entry's header: signature, lengths of its name and extra field


class Store:
    """Named pieces of bytes. Handles are the process's own, so stores may be pickled; reads move no shared position."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def _pread(self, length: int, offset: int) -> bytes:
        if self._file is None:
            self._file = system.open_for_reading(self.path)
        try:
            data = system.read_at(self._file, length, offset)
        except (OSError, OverflowError) as error:  # the disk's, or of an offset that is no place in any file
            raise ImageRefused("unreadable", line(error)) from None
        if len(data) < length:
            raise ImageRefused("broken", f"{self.path.name} ends within it")
        return data


class Entry(NamedTuple):
    """A file of a ZIP; `refused` says why it is not read."""

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    refused: str | None


class Zip(Store):
    """The files of a ZIP in the order of the archive. Raises DataError where it is none, OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        # What zipfile raises over bytes that somebody made up
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError, IndexError) as error:
            raise DataError(f"{path}: not a whole ZIP file: {line(error)}") from None
        seen: set[str] = set()
        self.entries: list[Entry] = []
        for info in infos:
            self.entries.append(
                Entry(
                    info.filename,
                    info.header_offset,
                    info.compress_size,
                    info.file_size,
                    info.CRC,
                    info.compress_type,
                    _refusal(info, seen),
                )
            )
            seen.add(info.filename)

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file, its CRC checked. Raises ImageRefused."""
        if entry.refused:
            raise ImageRefused("refused", entry.refused)
        if max(entry.size, entry.packed) > MAX_BYTES:
            raise ImageRefused("giant", f"{entry.size} bytes, at most {MAX_BYTES} are read")
        signature, name, extra = _LOCAL.unpack(self._pread(_LOCAL.size, entry.offset))
        if signature != b"PK\3\4":
            raise ImageRefused("broken", "the ZIP's directory points to where no file begins")
        data = self._pread(entry.packed, entry.offset + _LOCAL.size + name + extra)
        if entry.method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
            except zlib.error as error:
                raise ImageRefused("broken", line(error)) from None
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise ImageRefused("broken", "its bytes are not those that were put into the ZIP (CRC)")
        return data


def _refusal(info: zipfile.ZipInfo, seen: set[str]) -> str | None:
    if unsafe(info.filename):
        return "a path that leads out of the archive"
    if info.filename in seen:
        return "a name that an earlier file of the archive has"
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {info.compress_type}, expected stored or deflated"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a symbolic link"
    return None


def unsafe(name: str) -> bool:
    """Whether a path within an archive would lead out of the folder that it is unpacked in."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or bool(path.parts and path.parts[0].endswith(":"))


class Member(NamedTuple):
    """A file of one of several tars."""

    name: str
    shard: int
    offset: int
    size: int


class Tars(Store):
    """The files of uncompressed tars, one after the other. Raises DataError where one is none, OSError."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths[0])
        self._shards = [Store(path) for path in paths]
        self.members: list[Member] = []
        for number, path in enumerate(paths):
            try:
                with tarfile.open(path, "r:") as archive:
                    found = [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]
            except tarfile.TarError as error:
                raise DataError(f"{path}: not a whole, uncompressed tar: {line(error)}") from None
            end = path.stat().st_size
            for name, offset, size in found:
                if unsafe(name):
                    raise DataError(f"{path}: {line(name)!r} is a path that leads out of the archive")
                if offset + size > end:
                    raise DataError(f"{path}: cut short, within {line(name)!r}")
                self.members.append(Member(name, number, offset, size))

    def read(self, member: Member) -> bytes:
        """The bytes of a file. Raises ImageRefused."""
        if member.size > MAX_BYTES:
            raise ImageRefused("giant", f"{member.size} bytes, at most {MAX_BYTES} are read")
        return self._shards[member.shard]._pread(member.size, member.offset)
