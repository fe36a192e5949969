"""Sources that keep images otherwise than as files: MNIST's idx, CIFAR's archive, LMDB, the official TFRecords."""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pggan_fast import system
from pggan_fast.data import labels as label_files
from pggan_fast.data import npy, tfrecords
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.images import Pixels
from pggan_fast.data.lmdb_pages import Pages
from pggan_fast.data.sources import Source, _stamp
from pggan_fast.errors import line

_MOST = 1 << 31  # bytes of an array that is unpacked into memory
_PART = 1 << 24
_MOST_BATCH = 1 << 28  # of a batch of CIFAR's; the largest of CIFAR-100 has 155 million
_IDX = {1: "idx1", 3: "idx3"}


class Arrays(Source):
    """Images that are in memory, loaded again by every process that reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._images: npt.NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}

    def load(self) -> npt.NDArray[np.uint8]:
        """uint8 [N, H, W] or [N, H, W, 3]. Raises DataError, OSError."""
        raise NotImplementedError

    def pixels(self, number: int, channels: int | None, background: tuple[int, int, int]) -> Pixels:
        if self._images is None:
            self._images = self.load()
        return as_channels(self._images[number], channels)


def as_channels(pixels: Pixels, channels: int | None) -> Pixels:
    """Grey as three channels, or colours as grey with the weights of ITU-R 601-2; None: as they are."""
    if channels is None:
        return pixels
    if channels == 3:
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim == 2:
        return pixels
    return np.rint(pixels.astype(np.float64) @ (0.299, 0.587, 0.114)).astype(np.uint8)


class Idx(Arrays):
    """MNIST's images, padded from 28x28 to 32x32, with the labels of the file beside them."""

    channels = 1

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._images = self.load()
        self.names = [f"{i:05d}" for i in range(len(self._images))]
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if beside != path and beside.is_file():
            found = _idx(beside, 1)
            if len(found) != len(self.names):
                raise DataError(f"{beside}: {len(found)} labels for {len(self.names)} images")
            self.labels = [int(label) for label in found]

    def load(self) -> npt.NDArray[np.uint8]:
        return padded(_idx(self.path, 3))


def padded(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """28x28 digits in the middle of 32x32; others as they are."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2))) if images.shape[1:] == (28, 28) else images


def _idx(path: Path, dims: int) -> npt.NDArray[np.uint8]:
    data = unpacked(path)
    head = 4 + 4 * dims
    if len(data) < head or data[:4] != bytes((0, 0, 8, dims)):
        raise DataError(f"{path}: not an {_IDX[dims]}-ubyte file")
    shape = struct.unpack(f">{dims}I", data[4:head])
    if int(np.prod(shape, dtype=object)) != len(data) - head:
        raise DataError(f"{path}: {len(data) - head} bytes for the shape {'x'.join(map(str, shape))}: not whole")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def unpacked(path: Path) -> bytearray:
    """A file's bytes, gunzipped where they are a gzip's. Raises DataError, OSError."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    data = bytearray()
    try:
        with gzip.open(path) if packed else open(path, "rb") as stream:
            while len(data) <= _MOST and (part := stream.read(_PART)):  # one read of all would ask for all its memory
                data += part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {line(error)}") from None
    if len(data) > _MOST:
        raise DataError(f"{path}: more than {_MOST} bytes when it is unpacked")
    return data


class Cifar(Arrays):
    """The training images of CIFAR-10's or CIFAR-100's Python archive; its pickles are read as data, never executed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._images = self.load()
        self.names = [f"{i:05d}" for i in range(len(self._images))]

    def load(self) -> npt.NDArray[np.uint8]:
        images, labels = [], []
        for name, batch in self._batches():
            pixels = batch.get("data")
            classes = batch.get("labels", batch.get("fine_labels"))
            if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
                raise DataError(f"{self.path}: {name}: expected uint8 images of 3 x 32 x 32")
            if (
                not isinstance(classes, list)
                or len(classes) != len(pixels)
                or any(type(c) is not int or not 0 <= c < label_files.MOST_CLASSES for c in classes)
            ):
                raise DataError(f"{self.path}: {name}: expected a class for each image")
            images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += classes
        self.labels = labels
        return np.concatenate(images)

    def _batches(self) -> list[tuple[str, dict[str, Any]]]:
        from pggan_fast.convert.errors import ConversionError
        from pggan_fast.convert.unpickle import NUMPY, Array, Interpreter

        found = []
        try:
            with tarfile.open(self.path) as archive:
                members = [m for m in archive if re.fullmatch(r"(.*/)?(data_batch_\d|train)", m.name) and m.isreg()]
                for member in sorted(members, key=lambda m: m.name):
                    stream = archive.extractfile(member)
                    if stream is None or member.size > _MOST_BATCH:
                        raise DataError(f"{self.path}: {line(member.name)}: {member.size} bytes, at most {_MOST_BATCH}")
                    value = Interpreter(io.BytesIO(stream.read()), NUMPY, lambda cls: False).load()
                    if not isinstance(value, dict):
                        raise DataError(f"{self.path}: {line(member.name)}: expected a dictionary")
                    keyed = {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in value.items()}
                    found.append(
                        (line(member.name), {k: v.value if isinstance(v, Array) else v for k, v in keyed.items()})
                    )
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ConversionError) as error:
            raise DataError(f"{self.path}: not a whole CIFAR archive: {line(error)}") from None
        if not found:
            raise DataError(f"{self.path}: no data_batch_1 or train in it: not a CIFAR archive of Python's version")
        return found


class Lmdb(Source):
    """An LMDB whose values are image files, as LSUN's are, in the order of the keys."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = path / "data.mdb" if path.is_dir() else path
        self._pages = Pages(self._file)
        self.names = [value.key.decode("latin-1") for value in self._pages.values]

    def data(self, number: int) -> bytes:
        return self._pages.read(self._pages.values[number])

    def _files(self) -> list[list[int]]:
        return [_stamp(self._file)]


class TfRecords(Source):
    """The official PGGAN code's TFRecords: the largest resolution of NAME-r02.tfrecords, NAME-r03.tfrecords, ..."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            files = sorted(path.glob("*.tfrecords"), key=lambda p: (p.name[:-13], p.name))
            if len({file.name[:-13] for file in files}) != 1:
                raise DataError(f"{path}: expected the .tfrecords of one data set, got {len(files)} files of several")
            path = files[-1]
        super().__init__(path)
        self._records = list(tfrecords.index(path))
        self._file: int | None = None
        self.names = [f"{path.name}:{i}" for i in range(len(self._records))]
        beside = path.with_name(re.sub(r"-r\d+\.tfrecords$", "", path.name) + "-rxx.labels")
        if beside.is_file():
            self.labels = label_files.from_vectors(_vectors(beside, len(self.names)))
        if self._records:
            try:
                self.channels = self._example(0).shape[0]
            except ImageRefused:
                self.channels = 3

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _example(self, number: int) -> tfrecords.Example:
        if self._file is None:
            self._file = system.open_for_reading(self.path)
        found = tfrecords.example(tfrecords.read(self._file, self._records[number]))
        shape = found.shape
        if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1 or int(np.prod(shape)) != len(found.data):
            raise ImageRefused("broken", f"{len(found.data)} bytes for the shape {line(shape)}")
        return found

    def pixels(self, number: int, channels: int | None, background: tuple[int, int, int]) -> Pixels:
        found = self._example(number)
        pixels = np.frombuffer(found.data, np.uint8).reshape(found.shape)
        return as_channels(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0), channels)


def _vectors(path: Path, count: int) -> npt.NDArray[Any]:
    try:
        with open(path, "rb") as file:
            vectors = npy.read(file, path.stat().st_size)
    except ValueError as error:
        raise DataError(f"{path}: not an array of labels: {line(error)}") from None
    if vectors.ndim != 2 or len(vectors) < count or vectors.dtype.kind not in "fiub" or not np.isfinite(vectors).all():
        raise DataError(f"{path}: expected a vector for each of {count} images")
    return vectors[:count]  # the official code writes labels of images that it left out at the end, too
