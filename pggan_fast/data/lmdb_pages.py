"""The keys and values of an LMDB, read from its pages: its own library trusts what is in them, and a file that somebody
made up ends the process.

A file is pages of one size. The first two are metas, of which the one with the later transaction counts; its tree has
branches of (key, page), leaves of (key, value), and runs of overflow pages for values that fill more than half a page.
The format is that of LMDB 0.9 on a 64-bit little-endian machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pggan_fast.data.archives import Store
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.images import MAX_BYTES
from pggan_fast.errors import line

_HEAD = struct.Struct("<8x2xHHH")  # of a page: flags, where the places of its nodes end, where the nodes begin
_META = struct.Struct("<IIQQ")  # magic, version, address, size of the map; then two trees, the last page, transaction
_TREE = struct.Struct("<IHHQQQQQ")  # page size (of the first one), flags, depth, counts of pages and entries, root
_NODE = struct.Struct("<HHHH")  # two halves of a number, flags, length of the key
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_ELSEWHERE = 1  # flag of a node whose value is in overflow pages
_NONE = (1 << 64) - 1
_DEEPEST = 32


class Value(NamedTuple):
    """A key, and where its value is."""

    key: bytes
    offset: int
    size: int


class Pages(Store):
    """values: in the order of the keys. Raises DataError where the file is no whole LMDB, OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = path.stat().st_size
        self.values: list[Value] = []
        try:
            root = self._root()
            self._seen: set[int] = set()
            if root != _NONE:
                self.values += self._below(root)
        except (struct.error, ImageRefused) as error:
            raise DataError(f"{path}: not a whole LMDB: {line(error)}") from None
        finally:
            self._seen = set()

    def read(self, value: Value) -> bytes:
        """Raises ImageRefused."""
        if value.size > MAX_BYTES:
            raise ImageRefused("giant", f"{value.size} bytes, at most {MAX_BYTES} are read")
        return self._pread(value.size, value.offset)

    def _root(self) -> int:
        """The page of the tree's root; the size of pages is that of the first meta."""
        if self.size < 2 * 512:
            raise self._refused("it is too short")
        self._page_size = 512
        metas = [self._meta(0)]
        psize = metas[0][0]
        if not 512 <= psize <= 1 << 16 or psize & (psize - 1):
            raise self._refused(f"pages of {psize} bytes")
        self._page_size = psize
        metas.append(self._meta(psize))
        _, flags, root, last, _ = max(metas, key=lambda meta: meta[-1])
        if (wanted := (last + 1) * psize) > self.size:
            raise self._refused(f"cut short, {self.size} bytes of {wanted}")
        if flags:
            raise self._refused("a tree of another kind than keys with a value each")
        return root

    def _meta(self, at: int) -> tuple[int, int, int, int, int]:
        """Page size, flags, root, last page, transaction."""
        data = self._pread(16 + _META.size + 2 * _TREE.size + 16, at)
        magic, version, _, _ = _META.unpack_from(data, 16)
        if (magic, version) != (_MAGIC, _VERSION):
            raise self._refused(f"a file of another kind or of version {version}")
        free = _TREE.unpack_from(data, 16 + _META.size)
        main = _TREE.unpack_from(data, 16 + _META.size + _TREE.size)
        last, transaction = struct.unpack_from("<QQ", data, 16 + _META.size + 2 * _TREE.size)
        return free[0], main[1], main[-1], last, transaction

    def _below(self, root: int) -> Iterator[Value]:
        stack = [(root, 1)]
        while stack:
            number, depth = stack.pop()
            if number in self._seen or depth > _DEEPEST:
                raise self._refused("pages that lead to one another")
            self._seen.add(number)
            data = self._page(number)
            flags, end, _ = _HEAD.unpack_from(data)
            if not 16 <= end <= len(data) or flags & 0xF not in (_BRANCH, _LEAF):
                raise self._refused(f"page {number} is damaged")
            places = struct.unpack_from(f"<{(end - 16) // 2}H", data, 16)
            if flags & _LEAF:
                for at in places:
                    yield self._value(number, data, at)
            else:
                nodes = (_NODE.unpack_from(data, at) for at in places)
                below = [low | high << 16 | more << 32 for low, high, more, _ in nodes]
                stack += [(page, depth + 1) for page in reversed(below)]

    def _value(self, number: int, data: bytes, at: int) -> Value:
        low, high, flags, length = _NODE.unpack_from(data, at)
        size, begin = low | high << 16, at + _NODE.size + length
        if flags & ~_ELSEWHERE or begin > len(data):
            raise self._refused(f"page {number} is damaged")
        key = data[at + _NODE.size : begin]
        if not flags:
            if begin + size > len(data):
                raise self._refused(f"page {number} is damaged")
            return Value(key, number * self._page_size + begin, size)
        (page,) = struct.unpack_from("<Q", data, begin)
        return Value(key, page * self._page_size + 16, size)

    def _page(self, number: int) -> bytes:
        return self._pread(self._page_size, number * self._page_size)

    def _refused(self, why: str) -> ImageRefused:
        return ImageRefused("broken", why)
