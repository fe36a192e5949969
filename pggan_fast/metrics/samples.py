"""Where images come from: a generator's, by latents of their number, or a data set's, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pggan_fast.data.dataset import Dataset
from pggan_fast.data.errors import DataError, ImageRefused
from pggan_fast.inference import Sampler, latents
from pggan_fast.metrics import random
from pggan_fast.models import Generator


class Source(Protocol):
    """Images by number."""

    name: str
    resolution: tuple[int, int]
    channels: int  # 1 where its images are grey

    @property
    def available(self) -> int:
        """How many there are."""

    def images(self, numbers: range) -> Tensor:
        """uint8 [N, 3, H, W]; grey images have three equal channels."""


class Stored(Protocol):
    """`len`, and uint8 images [C, H, W] of one size, C being 1 or 3, by number: a tensor, or `Level`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class Level:
    """A data set's images at one of its resolutions, None: that of its files.

    An image that cannot be read raises DataError: in training another takes its place, here that would be a repetition.
    """

    def __init__(self, dataset: Dataset, resolution: int | None = None) -> None:
        self._dataset, self._resolution = dataset, dataset.native if resolution is None else resolution

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Tensor:
        try:
            pixels = torch.from_numpy(self._dataset.image(index))
        except ImageRefused as error:
            raise DataError(f"{self._dataset.title(index)}: {error}; metrics leave no image out") from None
        return self._dataset.level(pixels[None], self._resolution)[0]


class Generated:
    """Images of G: number i is of row i of `inference.latents(n, seed=seed)`, whoever computes it.

    Kernels may round otherwise for another batch size. labels: [M, label_dim] to draw from, each image's by its number;
    None, where G is conditional: one-hot, all equally likely. Memory: G's weights once more and all latents.
    """

    def __init__(
        self, G: Generator, count: int, *, seed: int = 0, labels: Tensor | None = None,
        device: torch.device | str | None = None, name: str = "G",
    ) -> None:  # fmt: skip
        self._sampler, self.available, self.name = Sampler(G, device=device, graphs=False), count, name
        self._latents = latents(count, G.latent_dim, seed=seed)
        self._labels = _labels(G.label_dim, count, seed, labels)
        if G.channels not in (1, 3):
            raise ValueError(f"G: expected 1 or 3 channels, got {G.channels}: metrics are of grey or colour images")
        self.channels = G.channels
        height, width = G.levels.base_shape
        self.resolution = (height * self._sampler.resolution // 4, width * self._sampler.resolution // 4)

    def images(self, numbers: range) -> Tensor:
        rows = slice(numbers.start, numbers.stop)
        pixels = self._sampler.uint8(self._latents[rows], None if self._labels is None else self._labels[rows])
        return in_colour(pixels.permute(0, 3, 1, 2))


class Reals:
    """Images of a data set in an order drawn from the seed, so that the first ones are any ones.

    mirror: each image is flipped from left to right, or not, by a coin of its place.
    """

    def __init__(self, stored: Stored, *, seed: int = 0, mirror: bool = False, name: str = "data") -> None:
        if not len(stored):
            raise ValueError(f"{name}: expected images, got none")
        self._stored, self._seed, self._mirror, self.name = stored, seed, mirror, name
        self._order = np.random.RandomState(seed).permutation(len(stored))
        shape = tuple(map(int, stored[0].shape))
        if len(shape) != 3:
            raise ValueError(f"{name}: image 0: expected [3 or 1, H, W], got {list(shape)}")
        self.channels, self.resolution = shape[0], (shape[1], shape[2])

    @property
    def available(self) -> int:
        return len(self._order)

    def images(self, numbers: range) -> Tensor:
        """ValueError names a stored image that is of another size, or neither grey nor in colour."""
        found = [self._image(number) for number in numbers]
        return torch.stack(found) if found else torch.empty(0, 3, *self.resolution, dtype=torch.uint8)

    def _image(self, number: int) -> Tensor:
        place = int(self._order[number])
        image = self._stored[place]
        if image.dtype != torch.uint8 or image.shape[1:] != self.resolution or image.shape[0] not in (1, 3):
            got, wanted = f"{image.dtype} {list(image.shape)}", "[3 or 1, {}, {}]".format(*self.resolution)
            raise ValueError(f"{self.name}: image {place}: expected torch.uint8 {wanted}, got {got}")
        if self._mirror and random.at(self._seed, random.MIRROR, 0, number).integers(2):
            image = image.flip(2)
        return in_colour(image)


def in_colour(images: Tensor) -> Tensor:
    """[..., 1, H, W] three times, [..., 3, H, W] as it is."""
    return images.expand(*images.shape[:-3], 3, *images.shape[-2:]) if images.shape[-3] == 1 else images


def label_rows(dataset: Dataset | None) -> Tensor | None:
    """The labels of a data set as G takes them, [N, label_dim] float32: classes are one-hot."""
    if dataset is None or dataset.labels is None:
        return None
    labels = torch.as_tensor(dataset.labels)
    rows = labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, dataset.label_dim)
    return rows.to(torch.float32)


def chunks(count: int, batch: int) -> Sequence[range]:
    """0..count in batches, the last of which may be shorter."""
    return [range(start, min(start + batch, count)) for start in range(0, count, batch)]


def _labels(label_dim: int, count: int, seed: int, given: Tensor | None) -> Tensor | None:
    if not label_dim:
        return None
    rows = torch.eye(label_dim) if given is None else given
    if rows.ndim != 2 or rows.shape[1] != label_dim or not len(rows):
        raise ValueError(f"labels: expected [M, {label_dim}], as G takes them, got {list(rows.shape)}")
    drawn = random.at(seed, random.LABELS).integers(0, len(rows), count)
    return rows[torch.from_numpy(drawn)].to(torch.float32)
