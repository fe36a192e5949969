"""Image files of many kinds, small archives of them, and what they hold by other means than the package's."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pggan_fast.data.errors import DataError

Pixels = npt.NDArray[np.uint8]


def pixels(number: int, height: int = 16, width: int = 16, channels: int = 3) -> Pixels:
    """Random pixels that the number decides."""
    drawn = np.random.default_rng(number).integers(0, 256, (height, width, channels), np.uint8)
    return drawn if channels > 1 else drawn[..., 0]


def file_of(image: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def attempt(read: Callable[..., Any], *args: Any) -> Any:
    """What it gives, or the DataError that it raises: damaged files may be whole enough."""
    try:
        return read(*args)
    except DataError as error:
        return error


def folder_of(path: Path, count: int, height: int = 16, width: int = 16) -> Path:
    """Images 00.png, 01.png, ... of `pixels`."""
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (path / f"{i:02d}.png").write_bytes(file_of(pixels(i, height, width)))
    return path


def crc32c(data: bytes) -> int:
    """Bit by bit, from the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def tfrecord(data: bytes) -> bytes:
    """A record in its frame."""

    def checked(part: bytes) -> bytes:
        crc = crc32c(part)
        return part + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    return checked(struct.pack("<Q", len(data))) + checked(data)


def example(image: Pixels) -> bytes:
    """tf.train.Example as the official code writes it: features "shape" and "data", [C, H, W]."""
    image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    shape = b"".join(_varint(n) for n in image.shape)
    features = {b"shape": _field(3, _field(1, shape)), b"data": _field(1, _field(1, image.tobytes()))}
    return _field(1, b"".join(_field(1, _field(1, key) + _field(2, value)) for key, value in features.items()))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
