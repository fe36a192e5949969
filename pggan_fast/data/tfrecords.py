"""TFRecord files and tf.train.Example without TensorFlow: the framing, its CRC-32C, and the wire format of protobuf."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pggan_fast import system
from pggan_fast.data.errors import DataError, ImageRefused

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")
_MOST = 1 << 28  # bytes of a record
_COLUMN = 256  # bytes of one column of the vectorised CRC
U32 = npt.NDArray[np.uint32]


class Record(NamedTuple):
    """Where a record's data are in its file."""

    offset: int
    length: int


class Example(NamedTuple):
    """What the official PGGAN code writes for an image."""

    shape: tuple[int, ...]
    data: bytes


def index(path: Path) -> Iterator[Record]:
    """The records of a file, the lengths checked. Raises DataError where one is damaged, OSError."""
    size, at = path.stat().st_size, 0
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise DataError(f"{path}: cut short at byte {at}, within a record's length")
            length, crc = _HEAD.unpack(head)
            if masked(crc32c(head[:8])) != crc:
                raise DataError(
                    f"{path}: the record at byte {at} has a wrong checksum of its length: no TFRecord file?"
                )
            if at + _HEAD.size + length + _FOOT.size > size:
                raise DataError(f"{path}: cut short at byte {at}, within a record of {length} bytes")
            yield Record(at + _HEAD.size, length)
            at += _HEAD.size + length + _FOOT.size


def read(file: int, record: Record) -> bytes:
    """The data of a record of an open file. Raises ImageRefused where they are not what was written."""
    if record.length > _MOST:
        raise ImageRefused("giant", f"a record of {record.length} bytes, at most {_MOST} are read")
    raw = system.read_at(file, record.length + _FOOT.size, record.offset)
    data, foot = raw[: record.length], raw[record.length :]
    if len(foot) < _FOOT.size or masked(crc32c(data)) != _FOOT.unpack(foot)[0]:
        raise ImageRefused("broken", "a record with a wrong checksum")
    return data


def masked(crc: int) -> int:
    """A checksum as the framing stores it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes: columns of 256 bytes side by side, then joined pair by pair."""
    table, _ = _tables()
    whole = len(data) - len(data) % _COLUMN
    crc = 0xFFFFFFFF
    if whole:
        columns = np.frombuffer(data, np.uint8, whole).reshape(-1, _COLUMN).T.copy()
        states = np.zeros(columns.shape[1], np.uint32)
        states[0] = crc
        for row in columns:  # every column's next byte
            states = table[(states ^ row) & 0xFF] ^ states >> np.uint32(8)
        crc = _joined(states)
    for byte in data[whole:]:
        crc = int(table[(crc ^ byte) & 0xFF]) ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _joined(states: U32) -> int:
    """The state behind all columns: behind the left of a pair stand as many bytes as the right one has."""
    length = _COLUMN
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])  # zeros before all bytes change nothing
        states = _apply(_shift(length), states[::2]) ^ states[1::2]
        length *= 2
    return int(states[0])


@functools.cache
def _tables() -> tuple[U32, U32]:
    """The state after one more byte, by that byte; and what a zero byte makes of each byte of a state."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> np.uint32(1) ^ np.uint32(_POLYNOMIAL), table >> np.uint32(1))
    bytes_of_state = np.arange(256, dtype=np.uint32)
    zero = np.stack([table, *(bytes_of_state << np.uint32(8 * (k - 1)) for k in (1, 2, 3))])
    return table, zero


@functools.cache
def _shift(length: int) -> U32:
    """[4, 256]: what `length` zero bytes make of each byte of a state; they are linear over GF(2)."""
    if length == 1:
        return _tables()[1]
    half = _shift(length // 2)
    return np.stack([_apply(half, half[k]) for k in range(4)])


def _apply(shift: U32, states: U32) -> U32:
    """States behind the zero bytes that `shift` stands for."""
    parts = [shift[k][(states >> np.uint32(8 * k)) & np.uint32(0xFF)] for k in range(4)]
    joined: npt.NDArray[np.uint32] = parts[0] ^ parts[1] ^ parts[2] ^ parts[3]
    return joined


def example(data: bytes) -> Example:
    """The features "shape" and "data" of a serialised tf.train.Example. Raises ImageRefused where it is none."""
    try:
        found: dict[bytes, bytes] = {}
        for features in _fields(data, 1):
            for entry in _fields(features, 1):
                keys, values = list(_fields(entry, 1)), list(_fields(entry, 2))
                found[keys[-1] if keys else b""] = values[-1] if values else b""
        shape = tuple(n for ints in _fields(found[b"shape"], 3) for n in _integers(ints))
        (pixels,) = (value for values in _fields(found[b"data"], 1) for value in _fields(values, 1))
    except (KeyError, IndexError, ValueError) as error:
        raise ImageRefused("broken", f"no tf.train.Example with shape and data ({type(error).__name__})") from None
    return Example(shape, pixels)


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The length-delimited fields of this number."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("a field beyond its message")
            if tag >> 3 == wanted:
                yield message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {kind}")


def _integers(message: bytes) -> list[int]:
    """The values of an Int64List, packed or not."""
    values, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag >> 3 != 1 or tag & 7 not in (0, 2):
            raise ValueError("no Int64List")
        if tag & 7 == 0:
            value, at = _varint(message, at)
            values.append(value)
            continue
        length, at = _varint(message, at)
        end = at + length
        while at < end:
            value, at = _varint(message, at)
            values.append(value)
    return values


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
