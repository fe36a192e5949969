"""Sliced Wasserstein distance between the patches of two sets of images, level by level of a Laplacian pyramid.

The settings are the official ones (Karras et al. 2018, section 5): levels from the full resolution down to 16, 128
patches of 7x7 pixels per image and level, every set normalised by its own mean and standard deviation per channel, 512
random directions, the mean absolute difference of sorted projections. Images are bytes, 0..255, as float32. Reported
numbers are a thousand times the distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.metrics import random
from pggan_fast.metrics.exactly import products, smooth

PATCH, PER_IMAGE, SMALLEST = 7, 128, 16
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
DIRECTIONS = 512
ROWS = 1 << 16  # descriptors on the device at a time
PROJECTIONS_BYTES = 1 << 30  # of the projections of both sets that are held at a time; sorting takes an eighth more


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """The sizes of the pyramid's levels, the full one first; ValueError below 16 pixels."""
    if min(height, width) < SMALLEST:
        raise ValueError(f"images: got {height}x{width}, the sliced Wasserstein distance needs at least 16x16")
    sizes = [(height, width)]
    while min(sizes[-1]) >= 2 * SMALLEST:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def bytes_per_image(height: int, width: int) -> int:
    """What `extract` gives of one image: 75,264 bytes a level."""
    return len(level_sizes(height, width)) * PER_IMAGE * 3 * PATCH * PATCH * 4


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """[N, C, H, W] -> what each level adds to the next one, twice as small; the last, from 16 pixels, is low-pass.

    Any floating dtype, which the levels keep. Smoothing is the 5x5 binomial filter with mirrored borders, as in
    OpenCV's pyrDown and pyrUp. Their sum, each scaled up, is the image. ValueError below 16x16.
    """
    sizes = level_sizes(*images.shape[2:])
    levels = [images]
    for _ in sizes[1:]:
        levels.append(_smooth(levels[-1])[:, :, ::2, ::2])
    details = [fine - scale_up(coarse, fine.shape[2:]) for fine, coarse in itertools.pairwise(levels)]
    return [*details, levels[-1]]


def scale_up(images: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, h, w] -> [N, C, *size], twice as large: zeros between the pixels, smoothed."""
    spread = images.new_zeros(*images.shape[:2], *size)
    spread[:, :, ::2, ::2] = images
    return _smooth(spread).mul_(4.0)


def _smooth(images: Tensor) -> Tensor:
    """The binomial filter; of bytes, and of what it gave of them, exact in float32."""
    return smooth(F.pad(images, (2, 2, 2, 2), mode="reflect"), BINOMIAL)


def extract(images: Tensor, first: int, *, seed: int = 0, stream: int = 0) -> list[Tensor]:
    """uint8 [N, 3, H, W] -> for each level the patches [N, 128, 3 * 7 * 7] of N images, float32, on their device.

    Image n is number first + n of the set `stream`: where its patches lie depends on that and the seed alone. Positions
    are uniform among those whose patch lies inside of the level.
    """
    pyramid = laplacian_pyramid(images.to(torch.float32))
    draws = [random.at(seed, random.PATCHES, stream, first + n) for n in range(len(images))]
    found = []
    for level in pyramid:
        high = np.array(level.shape[2:]) - PATCH + 1
        corners = np.stack([draw.integers(0, high, (PER_IMAGE, 2)) for draw in draws]) if draws else np.empty((0, 1, 2))
        found.append(patches_at(level, torch.from_numpy(corners).to(level.device, torch.long)))
    return found


def patches_at(level: Tensor, corners: Tensor) -> Tensor:
    """[N, C, H, W] and integers [N, P, 2] (row and column of a corner) -> [N, P, C * 7 * 7], channel first."""
    n, c, _, w = level.shape
    window = torch.arange(PATCH, device=level.device)
    inside = (window[:, None] * w + window).flatten()
    places = (corners[..., 0] * w + corners[..., 1])[..., None] + inside  # [N, P, 49]
    planes = level.reshape(n, c, -1)
    taken = planes.gather(2, places.reshape(n, 1, -1).expand(n, c, -1))
    return taken.reshape(n, c, -1, PATCH * PATCH).transpose(1, 2).reshape(n, -1, c * PATCH * PATCH)


def sliced_wasserstein(
    a: Tensor, b: Tensor, *, channels: int = 3, directions: int = DIRECTIONS, seed: int = 0,
    device: torch.device | str | None = None, level: int = 0,
) -> float:  # fmt: skip
    """The mean over random directions of the 1-D Wasserstein distance between two sets of descriptors.

    a, b: float32 [M, channels * K], as many of one as of the other. Each set is normalised to mean 0 and standard
    deviation 1 per channel; a channel without any variation stays 0. The directions depend on `seed` and `level`.
    device: where projections are computed, None: that of a. Memory besides a and b: `PROJECTIONS_BYTES` and an eighth,
    `ROWS` descriptors, and at least one direction's projections. ValueError where shapes do not fit.
    """
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] % channels or not len(a):
        raise ValueError(f"descriptors: expected two sets [M, {channels} * K], got {list(a.shape)} and {list(b.shape)}")
    device = a.device if device is None else torch.device(device)
    drawn = random.at(seed, random.DIRECTIONS, level).standard_normal((directions, a.shape[1]))
    unit = torch.from_numpy(drawn / np.sqrt(np.square(drawn).sum(axis=1, keepdims=True)))
    projections = [_Projections(each, unit, channels, device) for each in (a, b)]
    together = max(1, PROJECTIONS_BYTES // (2 * 4 * len(a)))
    total = 0.0
    for start in range(0, directions, together):
        first, second = (p.sorted(start, min(start + together, directions)) for p in projections)
        total += sum(float((x - y).abs_().mean(dtype=torch.float64)) for x, y in zip(first, second, strict=True))
    return total / directions


class _Projections:
    """Of one set: normalising is folded into the directions, so that descriptors are only read."""

    def __init__(self, rows: Tensor, unit: Tensor, channels: int, device: torch.device) -> None:
        self._rows, self._device = rows, device
        mean, deviation = self._moments(channels)
        scale = torch.where(deviation > 0, 1.0 / deviation, 0.0).repeat_interleave(rows.shape[1] // channels)
        weights = unit.to(device) * scale
        self._offsets = weights @ mean.repeat_interleave(rows.shape[1] // channels)
        self._weights = weights.to(products(device))

    def _moments(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, in float64, the deviation about the mean and not about 0."""
        count = len(self._rows) * (self._rows.shape[1] // channels)
        mean = torch.zeros(channels, dtype=torch.float64, device=self._device)
        for _, rows in self._blocks(channels):
            mean += rows.sum(dim=(0, 2), dtype=torch.float64)
        mean /= count
        squares = torch.zeros_like(mean)
        for _, rows in self._blocks(channels):
            squares += (rows - mean[:, None].float()).square_().sum(dim=(0, 2), dtype=torch.float64)
        return mean, (squares / count).sqrt()

    def _blocks(self, channels: int = 1) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self._rows), ROWS):
            rows = self._rows[start : start + ROWS].to(self._device)
            yield start, rows.reshape(len(rows), channels, -1)

    def sorted(self, start: int, stop: int) -> Tensor:
        """[stop - start, M] float32: the set along these directions, each in order."""
        made = torch.empty(stop - start, len(self._rows), device=self._device)
        weights, offsets = self._weights[start:stop], self._offsets[start:stop, None].to(self._weights.dtype)
        for first, rows in self._blocks():
            made[:, first : first + len(rows)] = weights @ rows[:, 0].T.to(weights.dtype) - offsets
        if made.device.type == "cpu":
            _sort(made.numpy())
            return made
        eighth = max(1, len(made) // 64)  # torch.sort makes 64-bit indices too: 3 times these rows
        for rows in made.split(eighth):
            rows.copy_(rows.sort(dim=1).values)
        return made


def _sort(rows: np.ndarray) -> None:
    """Each row, in place: numpy's sort has vector instructions, which torch's has not, and lets other threads run."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda some: some.sort(axis=1), np.array_split(rows, threads)))
