"""What is trained after how many images: level of detail, resolution, alpha, minibatch, learning rate.

Source: Karras et al. 2017, section 2 and appendix A.1: train a level, then fade the next one in, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pggan_fast.ops import _checks

__all__ = ["Schedule", "Stage", "resets"]

TICK_KIMG: Mapping[int, float] = {4: 160, 8: 140, 16: 120, 32: 100, 64: 80, 128: 60, 256: 40, 512: 20, 1024: 10}


class Stage(NamedTuple):
    """The training at one moment."""

    lod: float  # levels of detail that are missing: 0 is the full resolution, a fraction while one fades in
    resolution: int  # nominal, that the networks run at
    alpha: float  # weight of the newest level; 1 once it has faded in
    minibatch: int  # of all processes
    lr: float
    tick_kimg: float


@dataclass(frozen=True)
class Schedule:
    """A progressive schedule by thousands of images seen (kimg).

    resolution, initial: nominal resolutions of the last and the first level. training_kimg, transition_kimg: of each
    level, once it has faded in and while it fades in; the first does not fade, the last goes on to total_kimg.
    minibatch, lr, tick_kimg: by resolution, with what holds for all others in minibatch_base, lr_base, tick_kimg_base.
    minibatch_gpu: the most images of one process at a resolution. lr_rampup_kimg: after each change of level the
    learning rate rises linearly from 0 (0: at once). Raises ValueError.
    """

    resolution: int
    total_kimg: float
    training_kimg: float = 600
    transition_kimg: float = 600
    initial: int = 4
    minibatch_base: int = 16
    minibatch: Mapping[int, int] = field(default_factory=dict)
    minibatch_gpu: Mapping[int, int] = field(default_factory=dict)
    lr_base: float = 0.001
    lr: Mapping[int, float] = field(default_factory=dict)
    lr_rampup_kimg: float = 0
    tick_kimg_base: float = 1
    tick_kimg: Mapping[int, float] = field(default_factory=lambda: TICK_KIMG)

    def __post_init__(self) -> None:
        for name in ("resolution", "initial"):
            r = getattr(self, name)
            if type(r) is not int or r < 4 or r & (r - 1):
                raise ValueError(f"{name}: expected a power of two >= 4, got {r!r}")
        if self.initial > self.resolution:
            raise ValueError(f"initial: expected at most the resolution {self.resolution}, got {self.initial}")
        for name in ("total_kimg", "training_kimg", "transition_kimg", "lr_rampup_kimg"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        if self.training_kimg + self.transition_kimg <= 0 and self.initial < self.resolution:
            raise ValueError("training_kimg, transition_kimg: expected a sum above 0, got 0")
        _checks.counts(1, minibatch_base=self.minibatch_base)
        for name in ("minibatch", "minibatch_gpu"):
            for r, n in getattr(self, name).items():
                _checks.counts(1, **{f"{name}[{r}]": n})
        for text, values in (("lr", [self.lr_base, *self.lr.values()]),
                             ("tick_kimg", [self.tick_kimg_base, *self.tick_kimg.values()])):  # fmt: skip
            if not all(0 < value < math.inf for value in values):
                raise ValueError(f"{text}: expected numbers > 0, got {values}")

    def at(self, images: int, world: int = 1) -> Stage:
        """The stage after this many images, with this many processes, among which each minibatch is shared evenly."""
        kimg = images / 1000
        lod, since = self._lod(kimg)
        resolution = self.resolution >> math.floor(lod)
        faded = lod - math.floor(lod)
        minibatch = self.minibatch.get(resolution, self.minibatch_base)
        minibatch = min(minibatch - minibatch % world, self.minibatch_gpu.get(resolution, minibatch) * world)
        if minibatch < 1:
            raise ValueError(f"minibatch: expected at least {world}, one for each process, got {minibatch}")
        lr = self.lr.get(resolution, self.lr_base)
        if self.lr_rampup_kimg > 0:
            lr *= min(since / self.lr_rampup_kimg, 1.0)
        tick = self.tick_kimg.get(resolution, self.tick_kimg_base)
        return Stage(lod, resolution, 1.0 - faded, minibatch, lr, tick)

    def _lod(self, kimg: float) -> tuple[float, float]:
        """Level of detail, and kimg since the last level began or ended its fade."""
        levels = self.resolution.bit_length() - self.initial.bit_length()  # that will fade in
        if levels == 0:
            return 0.0, kimg
        duration = self.training_kimg + self.transition_kimg
        phase = math.floor(kimg / duration)
        inside = kimg - phase * duration
        if phase >= levels:
            return 0.0, kimg - levels * duration
        if inside <= self.training_kimg:
            return float(levels - phase), inside
        fade = (inside - self.training_kimg) / self.transition_kimg
        return max(levels - phase - fade, 0.0), inside - self.training_kimg

    @property
    def levels(self) -> list[int]:
        """The resolutions that are trained."""
        return [r for k in range(self.resolution.bit_length()) if (r := self.initial << k) <= self.resolution]

    def as_json(self) -> dict[str, Any]:
        """The arguments, as JSON has them."""
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(self).items()}

    @classmethod
    def from_json(cls, arguments: Mapping[str, Any]) -> Schedule:
        """Of `as_json`, after JSON has made texts of the resolutions."""
        whole: dict[str, Any] = {
            k: {int(r): n for r, n in v.items()} if isinstance(v, Mapping) else v for k, v in arguments.items()
        }
        return cls(**whole)


def resets(before: float | None, now: float) -> bool:
    """Whether the optimisers forget their state: a level begins to fade in, or has faded in (twice a resolution)."""
    if before is None:
        return True
    return math.floor(before) != math.floor(now) or math.ceil(before) != math.ceil(now)
