"""One class per kind of metric: what is kept of each image, wherever it is computed, and what that amounts to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pggan_fast.metrics import features, msssim, scores, swd
from pggan_fast.metrics.extractor import Extractor
from pggan_fast.metrics.names import Name

Side = Literal["reals", "fakes"]
SIDES: tuple[Side, ...] = ("reals", "fakes")
SETS: Mapping[Side, str] = {"reals": "data set", "fakes": "generated set"}


@dataclass(frozen=True)
class Settings:
    """seed: of everything that is drawn. floor: compare reals with other reals too. extractor: for FID, KID and IS.
    scratch: a folder; what is kept of images lies in a file there (without a name) instead of in memory."""

    seed: int = 0
    device: torch.device | str = "cpu"
    floor: bool = True
    extractor: Extractor | None = None
    scratch: Path | None = None


class Measure:
    """A metric with what it has been given. `wanted` says how many images of each side, `floor` how many each half has.

    The floor compares two sets of reals without a common image: what a perfect generator could reach with as many.
    What is computed of more images (or of more on one side) than the floor cannot be compared with it, since most
    distances shrink as images are added: then it is computed once more of as many as the floor has, `matched`.
    """

    needs_reals = True
    compares = True  # fakes with reals, so that there is a floor
    shrinks = True  # as images are added

    def __init__(self, name: Name, size: tuple[int, int], available: Mapping[Side, int], settings: Settings) -> None:
        self.name, self.settings, self.size = name, settings, size
        self.seconds = 0.0
        self.notes: list[str] = []
        self._kept: dict[Side, list[Tensor]] = {}
        self.compared: dict[Side, int] = {side: min(name.count, there) for side, there in available.items()}
        for side, what in SETS.items():
            if 0 < available[side] < name.count and not (side == "reals" and name.full):
                told = f"of {available[side]:,} images of the {what}, not {name.count:,}"
                self.notes.append(f"{told}: it has no more, and none is used twice")
        if name.full:
            self.compared["reals"] = available["reals"]
        most = min(name.count, available["fakes"] or name.count)
        self.floor = min(available["reals"] // 2, most) if self.compares and settings.floor else 0
        self.wanted = {**self.compared, "reals": max(self.compared["reals"], 2 * self.floor)}

    @property
    def possible(self) -> bool:
        """Whether there is anything to compute."""
        return self.compared["fakes"] > 0 or self.floor > 1

    @property
    def used(self) -> int:
        """Of how many images the number is: of the smaller side's, which are at most as many as its name says."""
        reals, fakes = self.compared["reals"], self.compared["fakes"]
        if not self.compares or (fakes and self.name.full):
            return fakes or reals
        return min(reals, fakes) if fakes else self.floor

    @property
    def matched(self) -> bool:
        """Whether the value is of more images than the floor."""
        return self.floor > 1 and self.compared["fakes"] > 0 and max(self.compared.values()) > self.floor

    def of_the_floor(self) -> list[str]:
        """Notes on how many images the floor is of."""
        if self.matched:
            told = f"reals with reals is of 2 x {self.floor:,} images, the value of more"
            told += ", which makes it smaller" if self.shrinks else ""
            return [f"{told}; what to compare is matched, the value of as many"]
        if self.floor > 1 and self.used < self.name.count and not self.compared["fakes"]:
            return [f"reals with reals is of 2 x {self.floor:,} images, not 2 x {self.name.count:,}"]
        return []

    def bytes_kept(self) -> int:
        """Memory, or room in `scratch`, that it takes where it is known to matter."""
        return 0

    def extract(self, images: Tensor, first: int, side: Side) -> list[Tensor]:
        """Of uint8 [N, 3, H, W] on the device, the first of which is number `first` of its side; rows per image."""
        raise NotImplementedError

    def add(self, side: Side, first: int, rows: Sequence[Tensor]) -> None:
        if side not in self._kept:
            self._kept[side] = [self._store((self._rows(self.wanted[side]), *r.shape[1:]), r.dtype) for r in rows]
        start = self._rows(first)
        for kept, new in zip(self._kept[side], rows, strict=True):
            kept[start : start + len(new)] = new

    def results(self) -> dict[str, float]:
        """By name; what was not given is not there."""
        raise NotImplementedError

    def _rows(self, images: int) -> int:
        return images

    def _store(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.settings.scratch is None:
            return torch.empty(shape, dtype=dtype)
        count = int(torch.Size(shape).numel())
        with tempfile.NamedTemporaryFile(dir=self.settings.scratch, prefix=".pggan-fast-metrics.") as file:
            file.truncate(max(1, count * dtype.itemsize))
            return torch.from_file(file.name, shared=True, size=count, dtype=dtype).reshape(shape)  # outlives the name

    def _compared(self, distance: Callable[[Side, slice, Side, slice], dict[str, float]]) -> dict[str, float]:
        """Fakes with reals, and as many as the floor has as `..._matched...`; reals with reals as `..._floor...`."""
        found: dict[str, float] = {}
        halves = slice(0, self.floor), slice(self.floor, 2 * self.floor)
        if "fakes" in self._kept:
            found |= distance("reals", slice(self.compared["reals"]), "fakes", slice(self.compared["fakes"]))
            if self.matched:
                found |= _under("matched", distance("reals", halves[0], "fakes", halves[0]))
        if self.floor > 1:
            found |= _under("floor", distance("reals", halves[0], "reals", halves[1]))
        return {f"{self.name.text}_{key}" if key else self.name.text: value for key, value in found.items()}


def _under(name: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_{key}" if key else name: value for key, value in values.items()}


class SlicedWasserstein(Measure):
    def __init__(self, name: Name, size: tuple[int, int], available: Mapping[Side, int], settings: Settings) -> None:
        super().__init__(name, size, available, settings)
        self.sizes = swd.level_sizes(*size)
        if self.compared["fakes"]:  # sorted projections are compared one by one
            self.compared = dict.fromkeys(self.compared, min(self.compared.values()))
            self.wanted["fakes"] = self.compared["fakes"]

    def bytes_kept(self) -> int:
        return swd.bytes_per_image(*self.size) * sum(self.wanted.values())

    def extract(self, images: Tensor, first: int, side: Side) -> list[Tensor]:
        return swd.extract(images, first, seed=self.settings.seed, stream=SIDES.index(side))

    def results(self) -> dict[str, float]:
        return self._compared(self._levels)

    def _levels(self, one: Side, some: slice, other: Side, others: slice) -> dict[str, float]:
        found = {}
        for number, (height, width) in enumerate(self.sizes):
            a, b = self._kept[one][number][some].flatten(0, 1), self._kept[other][number][others].flatten(0, 1)
            distance = swd.sliced_wasserstein(a, b, seed=self.settings.seed, level=number, device=self.settings.device)
            found[str(height) if height == width else f"{height}x{width}"] = 1e3 * distance
        return {**found, "avg": sum(found.values()) / len(found)}


class Similarity(Measure):
    """Pairs of neighbours: images 0 and 1, 2 and 3, ...; of reals too, for comparison."""

    needs_reals = compares = False

    def __init__(self, name: Name, size: tuple[int, int], available: Mapping[Side, int], settings: Settings) -> None:
        super().__init__(name, size, available, settings)
        self.wanted = self.compared = {side: count - count % 2 for side, count in self.wanted.items()}
        self.notes.append("it has no floor: the reals' own similarity is what to compare with")
        if min(size) <= 160:
            self.notes.append("below 161 pixels: windows as large as the coarse scales allow (the official rule)")

    def extract(self, images: Tensor, first: int, side: Side) -> list[Tensor]:
        return [msssim.ms_ssim(images[0::2], images[1::2])]

    @property
    def possible(self) -> bool:
        return any(self.wanted.values())

    def _rows(self, images: int) -> int:
        return images // 2

    def results(self) -> dict[str, float]:
        names = {"fakes": self.name.text, "reals": f"{self.name.text}_reals"}
        return {names[side]: float(kept[0].mean()) for side, kept in self._kept.items()}


class FeatureDistance(Measure):
    def __init__(self, name: Name, size: tuple[int, int], available: Mapping[Side, int], settings: Settings) -> None:
        super().__init__(name, size, available, settings)
        self._network = features.RandomFeatures(settings.device)
        self.notes.append(f"random features, version {features.VERSION}: comparable with itself only, not FID")

    def extract(self, images: Tensor, first: int, side: Side) -> list[Tensor]:
        return [self._network(images)]

    def results(self) -> dict[str, float]:
        return self._compared(self._distance)

    def _distance(self, one: Side, some: slice, other: Side, others: slice) -> dict[str, float]:
        return {"": features.frechet_distance(self._kept[one][0][some], self._kept[other][0][others])}


class _OfExtractor(Measure):
    def __init__(self, name: Name, size: tuple[int, int], available: Mapping[Side, int], settings: Settings) -> None:
        super().__init__(name, size, available, settings)
        if settings.extractor is None:
            raise ValueError(f"{name.text}: needs an extractor, a local file of the feature network")
        if not scores.available():
            raise ValueError(f"{name.text}: {scores.MISSING}")
        self.extractor = settings.extractor

    def extract(self, images: Tensor, first: int, side: Side) -> list[Tensor]:
        return [self.extractor.features(images)]


class FrechetInception(_OfExtractor):
    def results(self) -> dict[str, float]:
        return self._compared(self._distance)

    def _distance(self, one: Side, some: slice, other: Side, others: slice) -> dict[str, float]:
        return {"": scores.fid(self._kept[one][0][some], self._kept[other][0][others])}


class KernelInception(_OfExtractor):
    shrinks = False  # an unbiased estimate, whatever it is of

    def results(self) -> dict[str, float]:
        return self._compared(self._distance)

    def _distance(self, one: Side, some: slice, other: Side, others: slice) -> dict[str, float]:
        rows = self._kept[one][0][some], self._kept[other][0][others]
        return dict(zip(("", "std"), scores.kid(*rows, seed=self.settings.seed), strict=True))


class InceptionScore(_OfExtractor):
    needs_reals = compares = False

    def __init__(self, name: Name, size: tuple[int, int], available: Mapping[Side, int], settings: Settings) -> None:
        super().__init__(name, size, {**available, "reals": 0}, settings)
        if name.count < 2 * scores.IS_SPLITS:
            raise ValueError(f"{name.text}: expected at least {2 * scores.IS_SPLITS} images, for 10 splits")

    def extract(self, images: Tensor, first: int, side: Side) -> list[Tensor]:
        return [self.extractor.logits(images)]

    def results(self) -> dict[str, float]:
        if "fakes" not in self._kept:
            return {}
        mean, deviation = scores.inception_score(self._kept["fakes"][0], seed=self.settings.seed)
        return {f"{self.name.text}_mean": mean, f"{self.name.text}_std": deviation}


MEASURES: Mapping[str, type[Measure]] = {
    "swd": SlicedWasserstein,
    "msssim": Similarity,
    "fd": FeatureDistance,
    "fid": FrechetInception,
    "kid": KernelInception,
    "is": InceptionScore,
}
