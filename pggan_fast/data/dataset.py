"""Images to train on: any source, or arrays, as uint8 of one size."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pggan_fast.data import labels as label_files
from pggan_fast.data import npy
from pggan_fast.data.embedded import faces
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.data.guess import open_source
from pggan_fast.data.labels import MOST_CLASSES, Kind, Label
from pggan_fast.data.pyramid import base_of, shrink
from pggan_fast.data.sources import Source
from pggan_fast.errors import counted, few, line
from pggan_fast.filetypes import GRID

_LOOKED_AT = 64  # images whose sizes are compared when a set is opened


class Dataset:
    """Images [C, H, W] uint8 of one size, by number; safe in threads, in forked processes and when pickled.

    name: of the set. shape: (C, H, W) of what its files have. base_shape: (height, width) of level 4, see
    `pyramid.base_of`. resolution: the nominal one that is trained at most. labels: int64 [N] classes, float32 [N, K]
    vectors or None; label_dim: K, or how many classes, or 0. skipped: what could not be read so far, by number.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped: dict[int, str] = {}
        self._warned: dict[str, object] = {}

    def _describe(self, shape: tuple[int, int, int], labels: npt.NDArray[Any] | None) -> None:
        self.shape, self.labels = shape, labels
        self.label_dim = 0 if labels is None else labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
        self._levels(None, None)

    def _levels(self, base_shape: tuple[int, int] | None, resolution: int | None) -> None:
        self.base_shape, self.native = base_of(*self.shape[1:], base_shape)
        self.resolutions = [
            4 << k for k in range(self.native.bit_length() - 2) if resolution is None or 4 << k <= resolution
        ]
        if resolution is not None and resolution not in self.resolutions:
            most, (height, width) = self.native, self.base_shape
            called = "" if height == width == 4 else f"the level called 4 is {width}x{height} here, and "
            raise ValueError(
                f"resolution: expected a power of two from 4 to {most} as {self.name} has images of "
                f"{self.shape[2]}x{self.shape[1]}, got {resolution}; {called}"
                "`pggan-fast data convert --resolution` makes images of another size"
            )
        self.resolution = self.resolutions[-1]

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        """uint8 [C, H, W], as its file has it. Raises ImageRefused where it cannot be read or has another size."""
        raise NotImplementedError

    def usable(self, number: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """This image, or the next in the set that can be read, and its number. Warns of the first that cannot.

        Raises DataError where none can.
        """
        for step in range(len(self)):
            here = (number + step) % len(self)
            if here in self.skipped:
                continue
            try:
                return here, self.image(here)
            except ImageRefused as error:
                self.skipped[here] = str(error)
                if self._warned.setdefault("by", token := object()) is token:  # one of several threads
                    text = (
                        f"{self.title(here)} is skipped, and so are others like it: {error.kind}: {error}; "
                        "`pggan-fast data verify` lists them"
                    )
                    warnings.warn(text, stacklevel=2)
        raise DataError(f"{self.name}: none of its {counted(len(self), 'image')} can be read")

    def title(self, number: int) -> str:
        """What messages call an image."""
        return f"{self.name}: image {number}"

    def level(self, images: Tensor, resolution: int) -> Tensor:
        """Images of the files' size, uint8 [N, C, H, W], at a resolution of the set; on their device."""
        if resolution not in self.resolutions:
            raise ValueError(f"resolution: expected one of {self.resolutions}, got {resolution!r}")
        return shrink(images, self.native // resolution)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """(uint8 [C, h, w] at `resolution`, its label or an empty tensor), for a DataLoader of your own."""
        if not -len(self) <= number < len(self):
            raise IndexError(f"number: expected {-len(self)} to {len(self) - 1}, got {number}")
        here, pixels = self.usable(number % len(self))
        image = self.level(torch.from_numpy(pixels)[None], self.resolution)[0]
        return image, torch.empty(0) if self.labels is None else torch.as_tensor(self.labels[here])


class ArrayDataset(Dataset):
    """Images in memory: uint8 [N, C, H, W]."""

    def __init__(self, name: str, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any] | None = None) -> None:
        self.images = images
        super().__init__(name)
        self._describe((images.shape[1], images.shape[2], images.shape[3]), labels)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        image: npt.NDArray[np.uint8] = self.images[number]
        return image


class SourceDataset(Dataset):
    """The images of a source, read when they are wanted. left_out: what was seen to be none when it was listed."""

    def __init__(self, source: Source, labels: Kind, channels: int | None) -> None:
        super().__init__(str(source.path))
        self._source = source
        for row in source.skipped:
            if row.kind in ("refused", "unreadable folder"):  # nobody knows how many images that would be
                raise DataError(f"{source.path}: {line(row.name)}: {row.why}")
        gone = [row for row in source.skipped if row.kind == "unreadable"]
        if gone:
            text = f"{source.path}: {few(row.name for row in gone)}: left out: {gone[0].why}"
            warnings.warn(text, stacklevel=3)  # of open_dataset, as of other images that cannot be read
        self._numbers = _images(source)
        self.left_out = source.skipped
        if not self._numbers:
            others = [*source.names, *(row.name for row in source.skipped)]
            what = f"no images in it, but {few(others)}" if others else "no images in it"
            raise DataError(f"{self.name}: {what}")
        self._channels: int | None = channels
        self._size: tuple[int, int] | None = None
        found = self._look()
        self._channels, self._size = channels or found[0], found[1:]
        self._describe((self._channels, *found[1:]), self._labels(labels))

    def _labels(self, kind: Kind) -> npt.NDArray[Any] | None:
        found, _ = label_files.of_source(self._source, kind)
        if found is None:
            return None
        mine: list[Label | None] = [found[i] for i in self._numbers]
        if None in mine and any(label is not None for label in mine):
            raise DataError(f"{self.title(mine.index(None))}: it has no label, and others have")
        return label_files.table(mine)

    def _look(self) -> tuple[int, int, int]:
        """Channels and size of some images: a folder of photographs would be skipped but for a few."""
        first, pixels = self.usable(0)
        shape = pixels.shape[0], pixels.shape[1], pixels.shape[2]
        for i in range(_LOOKED_AT):
            number = i * len(self) // _LOOKED_AT
            try:
                c, h, w = self.image(number).shape
            except ImageRefused:
                continue
            if (h, w) != shape[1:]:
                names = [PurePosixPath(self._source.names[self._numbers[i]]).name for i in (number, first)]
                remedy = (
                    f"{GRID} looks like a sheet of `pggan-fast generate`, to be taken out of the folder"
                    if GRID in names
                    else "`pggan-fast data convert --resolution` makes them alike"
                )
                told = f"{self.title(number)}: {w}x{h} pixels, where {self.title(first)} has {shape[2]}x{shape[1]}"
                raise DataError(f"{told}; {remedy}")
            shape = max(c, shape[0]), h, w
        return shape

    def __len__(self) -> int:
        return len(self._numbers)

    def title(self, number: int) -> str:
        return f"{self.name}: {line(self._source.names[self._numbers[number]])}"

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        pixels = self._source.pixels(self._numbers[number], self._channels, (255, 255, 255))
        # a copy, as Pillow's bytes cannot be written to, of which torch warns
        pixels = np.array(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), order="C")
        if self._size is not None and pixels.shape[1:] != self._size:
            (h, w), (height, width) = pixels.shape[1:], self._size
            raise ImageRefused("another size", f"{w}x{h} pixels, where the first has {width}x{height}")
        return pixels


def _images(source: Source) -> Sequence[int]:
    """The numbers of what may be an image: files whose names end as those of no image format do are left out."""
    if not source.files:
        return range(len(source.names))
    Image.init()
    known = {"", *Image.registered_extensions()}
    return [i for i, name in enumerate(source.names) if PurePosixPath(name).suffix.lower() in known]


def open_dataset(
    path: str | Path,
    *,
    resolution: int | None = None,
    base_shape: tuple[int, int] | None = None,
    labels: Kind = "auto",
    channels: Literal[1, 3] | None = None,
) -> Dataset:
    """The images of a ZIP, folder, .npz, tar shards ("x-{000..009}.tar" or a glob), or any source of `data convert`.

    Args:
        path: "faces" is the embedded set.
        resolution: the largest nominal resolution that is trained; None: that of the files.
        base_shape: (height, width) of level 4; None: (4, 4) for squares of a power of two, see `pyramid.base_of`.
        labels: "auto" (those that the source has), "folders" (each first folder a class) or "none".
        channels: 3 or 1 (grey); None: as the source is by its kind, in ZIPs as the first image.
    Raises:
        DataError, OSError: the file is broken, no image can be read, sizes differ; the message names the file.
        ValueError: an argument is off.
    """
    opened: Dataset
    if str(path) == "faces" and not Path(path).exists():
        opened = ArrayDataset("faces", faces().numpy())
    elif Path(path).suffix == ".npz":
        opened = ArrayDataset(str(path), *_npz(Path(path)))
    else:
        opened = SourceDataset(open_source(Path(path)), labels, channels)
    if labels == "none":
        opened.labels, opened.label_dim = None, 0
    opened._levels(base_shape, resolution)
    return opened


def _npz(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any] | None]:
    """[N, C, H, W] from the array "images" [N, H, W(, C)], and from "labels" where there is one."""
    with open(path, "rb"):  # what is wrong with the file system is said by OSError
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            images, labels = npy.member(archive, "images"), npy.member(archive, "labels")
    except Exception as error:  # zipfile raises nearly anything over bytes that somebody made up
        raise DataError(f"{path}: not an .npz with an array `images`: {line(error)}") from None
    if images is None:
        raise DataError(f"{path}: not an .npz with an array `images`")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise DataError(f"{path}: images: expected uint8 [N, H, W, C], got {images.dtype} {images.shape}")
    images = images[..., None] if images.ndim == 3 else images
    if images.shape[3] not in (1, 3):
        raise DataError(f"{path}: images: expected 1 or 3 channels, got {images.shape[3]}")
    if labels is not None and (
        labels.ndim not in (1, 2) or len(labels) != len(images) or labels.dtype.kind not in "fiu"
    ):
        raise DataError(f"{path}: labels: expected a class or a vector for each image, got {labels.shape}")
    if labels is not None:
        if not np.isfinite(labels).all() or (labels.ndim == 1 and not 0 <= labels.min() <= labels.max() < MOST_CLASSES):
            raise DataError(f"{path}: labels: expected finite vectors, or classes from 0 to {MOST_CLASSES - 1}")
        labels = labels.astype(np.float32 if labels.ndim == 2 else np.int64)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels
