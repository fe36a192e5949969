"""A ZIP of uncompressed files, byte for byte the same whenever it is written, and continued where it was left."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_DATE = 0x21  # 1980-01-01, the first that a ZIP can say
_UNIX, _PLAIN, _BIG = 3 << 8, 20, 45  # system; versions needed: without and with 64-bit sizes
_MODE = 0o100644 << 16
LIMIT, MOST_FILES = 0xFFFFFFFF, 0xFFFF  # beyond these the 64-bit records say it


class Written(NamedTuple):
    """A file that stands in the archive."""

    name: str
    offset: int
    size: int
    crc: int

    @property
    def data_offset(self) -> int:
        return self.offset + _LOCAL.size + len(self.name.encode())


class ZipWriter:
    """Appends files to `file`, which stands where the next one goes; `written` are those that are in it already."""

    def __init__(self, file: BinaryIO, written: list[Written] | None = None) -> None:
        self._file = file
        self.written = written if written is not None else []
        self.end = file.tell()

    def add(self, name: str, data: bytes) -> Written:
        """Append a file of less than 4 GiB. Raises OSError."""
        entry = Written(name, self.end, len(data), zlib.crc32(data))
        encoded = name.encode()
        head = _LOCAL.pack(b"PK\3\4", _PLAIN, 0, 0, 0, _DATE, entry.crc, entry.size, entry.size, len(encoded), 0)
        self._file.write(head + encoded)
        self._file.write(data)
        self.end += len(head) + len(encoded) + len(data)
        self.written.append(entry)
        return entry

    def finish(self) -> None:
        """Write the directory, which makes it a ZIP. Raises OSError."""
        start = self.end
        for entry in self.written:
            record = _central(entry)
            self._file.write(record)
            self.end += len(record)
        count, length = len(self.written), self.end - start
        if count >= MOST_FILES or start >= LIMIT or length >= LIMIT:
            self._file.write(_END64.pack(b"PK\6\6", 44, _UNIX | _BIG, _BIG, 0, 0, count, count, length, start))
            self._file.write(_LOCATOR.pack(b"PK\6\7", 0, self.end, 1))
        few = min(count, MOST_FILES)
        self._file.write(_END.pack(b"PK\5\6", 0, 0, few, few, min(length, LIMIT), min(start, LIMIT), 0))


def _central(entry: Written) -> bytes:
    name, big = entry.name.encode(), entry.offset >= LIMIT
    extra = struct.pack("<2HQ", 1, 8, entry.offset) if big else b""
    version = _BIG if big else _PLAIN
    sizes = (entry.crc, entry.size, entry.size, len(name), len(extra))
    head = (b"PK\1\2", _UNIX | version, version, 0, 0, 0, _DATE)
    return _CENTRAL.pack(*head, *sizes, 0, 0, 0, _MODE, min(entry.offset, LIMIT)) + name + extra
