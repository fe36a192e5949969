"""Training images on the device: as many as there are memory for stay there, others are read ahead by threads."""

from __future__ import annotations

import collections
import os
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pggan_fast import ops, system
from pggan_fast.data.dataset import Dataset
from pggan_fast.data.sampler import Sampler
from pggan_fast.models.levels import fades
from pggan_fast.ops import _checks

_CHUNK = 8  # images of one task
_AHEAD_BYTES = 1 << 28  # of images that wait
_BLOCK_BYTES = 1 << 26  # of images that are shrunk at once
_SHARE = 0.5  # of the free memory, that a whole set may take


class _Read(NamedTuple):
    """Images of the files' size, [n, C, H, W], with their numbers and coins."""

    images: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.int64]
    coins: npt.NDArray[np.bool_]


class Loader:
    """An endless iterator of (images, labels) on the device.

    images: float32 [batch, C, h, w] in [-1, 1] at the current resolution (`byte / 127.5 - 1`); mirrored by the coin of
    their place in the order; with alpha < 1 faded as G's images are (`ops.fade_reals`). Lower resolutions are means of
    the files' bytes, rounded once (`pyramid.shrink`). labels: one-hot or vectors, float32 [batch, label_dim]; None
    where the set has none.

    The order is `Sampler`'s: it depends on seed, rank and world_size alone, and `state_dict` says where in it the
    images that were taken end, so that what is loaded goes on bit by bit, whatever workers or batches.

    Args:
        batch: images of this process; all processes take the same.
        resolution, alpha: as in the networks; `set` changes them. None: that of the set.
        mirror: turn left to right where the coin says so, half of the images.
        cache: keep the whole set on the device as bytes: "auto" where it takes at most half of its free memory.
        workers: threads that read ahead where nothing is cached; 0: the caller reads.
    Raises:
        ValueError, TypeError: an argument is off. DataError: no image can be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch: int,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
        device: torch.device | str = "cpu",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        mirror: bool = False,
        cache: Literal["auto", "always", "never"] = "auto",
        workers: int = 2,
    ) -> None:
        _checks.one_of("cache", cache, ("auto", "always", "never"))
        _checks.counts(0, workers=workers)
        self.dataset, self.device, self.mirror = dataset, torch.device(device), mirror
        self.sampler = Sampler(len(dataset), seed=seed, rank=rank, world_size=world_size)
        self.waited_s = 0.0
        self._labels = _label_table(dataset, self.device)
        self._reader = _Reader(dataset, self.sampler, workers)
        self.batch, self.resolution, self.alpha = batch, dataset.resolution, alpha
        self.set(resolution=resolution, alpha=alpha, batch=batch)
        self.cached = cache == "always" or (cache == "auto" and _fits(dataset, self.device))
        self._whole: Tensor | None = None
        self._level: tuple[int, Tensor] | None = None
        self._usable: Tensor | None = None

    @property
    def skipped(self) -> dict[int, str]:
        """Images that could not be read so far, by number, with what is wrong; the next in the set stand for them."""
        return self.dataset.skipped

    def set(
        self, *, resolution: int | None = None, alpha: float | Tensor | None = None, batch: int | None = None
    ) -> None:
        """Change what the next batch is; None leaves it. No image is lost or taken twice. Raises ValueError."""
        if resolution is not None:
            if resolution not in self.dataset.resolutions:
                raise ValueError(f"resolution: expected one of {self.dataset.resolutions}, got {resolution!r}")
            self.resolution = int(resolution)
        if alpha is not None:
            fades(alpha)  # the check
            self.alpha = alpha
        if batch is not None:
            _checks.counts(1, batch=batch)
            self.batch = batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor | None]:
        started = time.perf_counter()
        try:
            with torch.no_grad():
                images, numbers, coins = self._from_cache() if self.cached else self._from_files()
                return self._finished(images, coins), None if self._labels is None else self._labels[numbers]
        finally:
            self.waited_s += time.perf_counter() - started

    def _from_cache(self) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images of the current resolution, numbers and coins, on the device."""
        images = self._at_level()
        assert self._usable is not None
        drawn, coins = self.sampler.at(0, self.batch)
        self.sampler.advance(self.batch)
        numbers = torch.from_numpy(drawn).to(self.device, non_blocking=True)
        return (
            images.index_select(0, numbers),
            self._usable[numbers],
            torch.from_numpy(coins).to(self.device, non_blocking=True),
        )

    def _from_files(self) -> tuple[Tensor, Tensor, Tensor]:
        read = self._reader.take(self.batch)
        self.sampler.advance(self.batch)
        parts = [torch.from_numpy(part) for part in read]
        if self.device.type == "cuda":
            parts = [part.pin_memory() for part in parts]
        images, numbers, coins = (part.to(self.device, non_blocking=True) for part in parts)
        return self.dataset.level(images, self.resolution), numbers, coins

    def _finished(self, images: Tensor, coins: Tensor) -> Tensor:
        if self.mirror:
            images = torch.where(coins[:, None, None, None], images.flip(3), images)
        x = images.to(torch.float32).div_(127.5).sub_(1.0)
        if self.resolution > 4 and fades(self.alpha):
            alpha = self.alpha.to(self.device) if isinstance(self.alpha, Tensor) else self.alpha
            x = ops.fade_reals(x, alpha)
        return x

    def _at_level(self) -> Tensor:
        """The whole set at the current resolution, made once."""
        if self._whole is None:
            self._whole, usable = _whole(self.dataset, self.device, self._reader.workers)
            self._usable = usable.to(self.device)
        if self.resolution == self.dataset.native:
            self._level = None
            return self._whole
        if self._level is None or self._level[0] != self.resolution:
            self._level = None  # its memory goes before the next one's is taken
            rows = max(1, _BLOCK_BYTES // (4 * self._whole[0].numel()))
            parts = [self.dataset.level(part, self.resolution) for part in self._whole.split(rows)]
            self._level = self.resolution, torch.cat(parts)
        return self._level[1]

    def labels_of(self, numbers: Tensor) -> Tensor:
        """float32 [n, label_dim] of images of the set, by number. Raises ValueError where it has no labels."""
        if self._labels is None:
            raise ValueError(
                f"numbers: expected those of a set with labels, got {self.dataset.name}, which was opened without any"
            )
        return self._labels[numbers]

    def state_dict(self) -> dict[str, Any]:
        """Where the order is, as plain integers: the images that were given out, not those that are read ahead."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader of the same set was, with any world size. Raises ValueError."""
        self.sampler.load_state_dict(state)
        self._reader.forget()

    def close(self) -> None:
        """End the threads; the next batch starts them again."""
        self._reader.forget()
        self._reader.stop()


def _label_table(dataset: Dataset, device: torch.device) -> Tensor | None:
    """float32 [N, K]; classes become one-hot."""
    if dataset.labels is None:
        return None
    table = torch.from_numpy(dataset.labels).to(device)
    return table if table.ndim == 2 else torch.nn.functional.one_hot(table, dataset.label_dim).to(torch.float32)


def _fits(dataset: Dataset, device: torch.device) -> bool:
    """Whether the set with its next lower level takes at most half of the memory that is known to be free."""
    if device.type == "cuda":
        free: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        free = system.available_memory()
    if free is None:
        return False
    return len(dataset) * int(np.prod(dataset.shape)) * 5 / 4 <= _SHARE * free


def _whole(dataset: Dataset, device: torch.device, workers: int) -> tuple[Tensor, Tensor]:
    """Every image of the set, uint8 [N, C, H, W] on the device, and whose each is: the next for what cannot be read."""
    whole = torch.empty((len(dataset), *dataset.shape), dtype=torch.uint8, device=device)
    usable = torch.empty(len(dataset), dtype=torch.int64)

    def read(first: int) -> None:
        found = [dataset.usable(i) for i in range(first, min(first + 64, len(dataset)))]
        whole[first : first + len(found)] = torch.from_numpy(np.stack([pixels for _, pixels in found]))
        usable[first : first + len(found)] = torch.tensor([number for number, _ in found])

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for _ in pool.map(read, range(0, len(dataset), 64)):
            pass
    return whole, usable


class _Reader:
    """A sampler's images from their files, in its order, some ahead of who takes them."""

    def __init__(self, dataset: Dataset, sampler: Sampler, workers: int) -> None:
        self.workers = workers
        self._dataset, self._sampler = dataset, sampler
        self._pool: tuple[int, ThreadPoolExecutor] | None = None  # with the process that has its threads
        self._ahead: collections.deque[Future[_Read]] = collections.deque()
        self._ready: list[_Read] = []
        self._begun = 0  # images from the sampler's position on that are read or begun

    def take(self, n: int) -> _Read:
        """The next n images, from the sampler's position on; the caller moves it on."""
        if self.workers == 0:
            return self._read(*self._sampler.at(0, n))
        if self._pool is not None and self._pool[0] != os.getpid():  # forked: the threads stayed behind
            self._pool = None
            self.forget()
        while (missing := n - sum(len(read.numbers) for read in self._ready)) > 0:
            self._begin(max(missing, 2 * n))
            self._ready.append(self._ahead.popleft().result())
        self._begin(2 * n)
        images, numbers, coins = map(np.concatenate, zip(*self._ready, strict=True))
        self._ready = [_Read(images[n:], numbers[n:], coins[n:])] if len(numbers) > n else []
        self._begun -= n
        return _Read(images[:n], numbers[:n], coins[:n])

    def _begin(self, wanted: int) -> None:
        """Have `wanted` images in the making, or what fits into the memory for it."""
        image = int(np.prod(self._dataset.shape))
        most = max(_CHUNK, min(max(wanted, 2 * _CHUNK * self.workers), _AHEAD_BYTES // image))
        while len(self._ahead) * _CHUNK < most:
            numbers, coins = self._sampler.at(self._begun, _CHUNK)
            self._ahead.append(self._threads().submit(self._read, numbers, coins))
            self._begun += _CHUNK

    def _read(self, numbers: npt.NDArray[np.int64], coins: npt.NDArray[np.bool_]) -> _Read:
        found = [self._dataset.usable(int(number)) for number in numbers]
        usable = np.array([number for number, _ in found], np.int64)
        return _Read(np.stack([pixels for _, pixels in found]), usable, coins)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            pool = ThreadPoolExecutor(self.workers, "pggan_fast.data")
            self._pool = os.getpid(), pool
            weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
        return self._pool[1]

    def forget(self) -> None:
        """Drop what was read ahead."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._ready, self._begun = [], 0

    def stop(self) -> None:
        if self._pool is not None:
            self._pool[1].shutdown(wait=False, cancel_futures=True)
            self._pool = None
