"""Image files of many kinds, small archives of them, and what they hold by other means than the package's."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
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


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar_gz(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def cifar_batch(first: int, protocol: int, key: str = "labels") -> bytes:
    rows = np.stack([pixels(first + i, 32, 32).transpose(2, 0, 1).ravel() for i in range(2)])
    return pickle.dumps({"data": rows, key: [first % 10, (first + 1) % 10], "filenames": ["a", "b"]}, protocol)


def records(folder: Path, channels: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    for level, size in ((3, 8), (4, 16)):
        made = [tfrecord(example(pixels(i, size, size, channels))) for i in range(3)]
        (folder / f"set-r{level:02d}.tfrecords").write_bytes(b"".join(made))
    return folder
