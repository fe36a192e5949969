"""What a conversion has done so far: the unfinished ZIP beside its destination, and a journal of what is in it."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pggan_fast import system
from pggan_fast.data.errors import DataError
from pggan_fast.data.sources import Skipped
from pggan_fast.data.zip_writer import Written, ZipWriter
from pggan_fast.files import no_link


@dataclass
class Done:
    """next: the number of the source's first image that was not looked at; taken: the numbers of those written."""

    next: int = 0
    taken: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    size: list[int] | None = None


def name_of(number: int) -> str:
    """As StyleGAN's tool names its files."""
    text = f"{number:08d}"
    return f"{text[:5]}/img{text}.png"


def _is_record(record: Any) -> bool:
    """Whether it is of the kind that `Journal.add` writes."""

    def counts(values: Any, *lengths: int) -> bool:
        numbers = isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 53 for n in values)
        return numbers and (not lengths or len(values) in lengths)

    if not isinstance(record, dict) or record.keys() != {"next", "end", "taken", "skipped", "size", "files"}:
        return False
    rows, files = record["skipped"], record["files"]
    return (
        counts([record["next"], record["end"]])
        and counts(record["taken"])
        and (record["size"] is None or counts(record["size"], 2, 3))
        and isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == 3 and all(isinstance(t, str) for t in row) for row in rows)
        and isinstance(files, list)
        and all(counts(file, 2) for file in files)
        and len(files) == len(record["taken"])
    )


class Journal:
    """`with Journal(dest, state) as journal:` locks the unfinished file and finds what a run before has left in it.

    Only one that wrote from the same source with the same options, as `state` says, is continued, and only as far as
    every byte is as the journal says. Raises DataError where another process is writing it, OSError.
    """

    def __init__(self, dest: Path, state: str) -> None:
        self.dest, self._state = dest, state
        self.part = dest.with_name(f".{dest.name}.part")
        self.path = dest.with_name(f".{dest.name}.journal")
        self.done = Done()

    def __enter__(self) -> Journal:
        self._log = open(self.path, "a+b", opener=no_link)
        try:
            system.lock(self._log.fileno())
            if not os.fstat(self._log.fileno()).st_nlink:  # the other one has just finished
                raise BlockingIOError
        except BlockingIOError:
            self._log.close()
            raise DataError(f"{self.dest}: another process is writing it") from None
        try:
            self._file = open(self.part, "a+b", opener=no_link)
            self._recover()
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in (self._file, self._log):
            with contextlib.suppress(OSError):  # a full disk has been told of
                file.close()

    def _recover(self) -> None:
        self._log.seek(0)
        written: list[Written] = []
        good, end = 0, 0
        for number, line in enumerate(self._log):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
                if record is None or (number == 0 and record != self._head()):
                    break
                entries = [] if number == 0 else self._checked(record, len(written), end)
            except (ValueError, RecursionError):
                break
            if number > 0:
                self._count(record)
                written += entries
                end = record["end"]
            good += len(line)
        self._log.truncate(good)
        self._file.truncate(end)
        self._file.seek(end)
        self._log.seek(good)
        self.zip = ZipWriter(self._file, written)
        if good == 0:
            self._append(self._head())

    def _head(self) -> dict[str, Any]:
        return {"version": 1, "state": self._state}

    def _checked(self, record: dict[str, Any], count: int, end: int) -> list[Written]:
        """A record's files, read back. Raises ValueError where the bytes are others, or it is no record."""
        if not _is_record(record):
            raise ValueError("another kind of record")
        entries = []
        length = os.fstat(self._file.fileno()).st_size
        for i, (size, crc) in enumerate(record["files"]):
            entry = Written(name_of(count + i), end, size, crc)
            if entry.data_offset + size > length:
                raise ValueError("fewer bytes")
            self._file.seek(entry.data_offset)
            data = self._file.read(size)
            if len(data) < size or zlib.crc32(data) != crc:
                raise ValueError("other bytes")
            entries.append(entry)
            end = entry.data_offset + size
        if end != record["end"]:
            raise ValueError("another end")
        return entries

    def _count(self, record: dict[str, Any]) -> None:
        self.done.next = record["next"]
        self.done.taken += record["taken"]
        self.done.skipped += [Skipped(*row) for row in record["skipped"]]
        self.done.size = record["size"]

    def add(
        self, upto: int, taken: list[int], pngs: list[bytes], skipped: list[Skipped], size: list[int] | None
    ) -> None:
        """Write the images of what was looked at, up to number `upto`, then that they are written. Raises OSError."""
        count = len(self.zip.written)
        files = [self.zip.add(name_of(count + i), png) for i, png in enumerate(pngs)]
        self._file.flush()
        record = {"next": upto, "end": self.zip.end, "taken": taken, "skipped": skipped, "size": size}
        record["files"] = [[file.size, file.crc] for file in files]
        self._append(record)
        self._count(record)

    def _append(self, record: dict[str, Any]) -> None:
        self._log.write(json.dumps(record).encode() + b"\n")
        self._log.flush()

    def finish(self, description: bytes, name: str) -> None:
        """Add the last file, `name`, and put the whole ZIP in its place. Raises OSError."""
        self.zip.add(name, description)
        self.zip.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(self.part, 0o666 & ~mask)
        os.replace(self.part, self.dest)
        self.path.unlink()

    def discard(self) -> None:
        """Leave nothing of the unfinished file."""
        self.part.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
