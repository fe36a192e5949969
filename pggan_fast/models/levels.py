"""Resolutions, feature maps and their names, shared by both networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pggan_fast.ops import _checks


@dataclass(frozen=True)
class Levels:
    """The levels 4, 8, ..., resolution. Level k has images of base_shape * 2^k and is named by its nominal resolution.

    For a non-square base_shape the nominal resolution still counts 4, 8, 16, ...: it names levels, not pixels.
    """

    resolution: int
    base_shape: tuple[int, ...]  # height, width
    fmap_base: int
    fmap_decay: float
    fmap_max: int
    fmaps: tuple[int, ...] | None = None  # in place of the formula: stage 0 (D's dense units), then level by level

    def __post_init__(self) -> None:
        r = self.resolution
        if not isinstance(r, int) or r < 4 or r & (r - 1):
            raise ValueError(f"resolution: expected a power of two >= 4, got {r!r}")
        if len(self.base_shape) != 2 or min(self.base_shape) < 1:
            raise ValueError(f"base_shape: expected two sizes >= 1, got {self.base_shape!r}")
        _checks.finite(fmap_base=self.fmap_base, fmap_decay=self.fmap_decay)
        if self.fmaps is not None and len(self.fmaps) != self.count + 1:
            raise ValueError(
                f"fmaps: expected {self.count + 1} numbers, D's dense units and then one for each level, "
                f"got {len(self.fmaps)}"
            )
        for level in self.resolutions:
            if self.channels(level) < 1:
                raise ValueError(
                    f"fmap_base, fmap_decay, fmap_max: expected a feature map or more at every level, got "
                    f"{self.channels(level)} at {name(level)}"
                )

    @property
    def arguments(self) -> dict[str, Any]:
        """A network's arguments for these levels, as JSON has them."""
        sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {k: v for k, v in sizes.items() if v is not None}

    @property
    def count(self) -> int:
        return self.resolution.bit_length() - 2

    @property
    def resolutions(self) -> list[int]:
        return [4 << k for k in range(self.count)]

    def channels(self, resolution: int) -> int:
        """nf(log2(resolution) - 1) of the official code: min(fmap_base / 2^(stage * fmap_decay), fmap_max)."""
        return self.stage_channels(resolution.bit_length() - 2)

    def stage_channels(self, stage: int) -> int:
        if self.fmaps is not None:
            return self.fmaps[stage]
        return min(int(self.fmap_base / 2.0 ** (stage * self.fmap_decay)), self.fmap_max)

    def checked(self, resolution: int) -> int:
        if resolution not in self.resolutions:
            raise ValueError(f"resolution: expected one of {self.resolutions}, got {resolution!r}")
        return int(resolution)  # of NumPy, or 8.0: it names blocks

    def of_image(self, height: int, width: int) -> int:
        """The nominal resolution of an image of this size."""
        for k, resolution in enumerate(self.resolutions):
            if (self.base_shape[0] << k, self.base_shape[1] << k) == (height, width):
                return resolution
        sizes = ", ".join(f"{self.base_shape[0] << k}x{self.base_shape[1] << k}" for k in range(self.count))
        raise ValueError(f"image: expected a size of {sizes}, got {height}x{width}")


def fades(alpha: float | Tensor) -> bool:
    """Whether the older level shows at this weight of the newest one; a tensor's value is not looked at."""
    if isinstance(alpha, Tensor):
        return True
    if not isinstance(alpha, (int, float)) or alpha != alpha:
        raise ValueError(f"alpha: expected a number or a 0-d tensor, got {alpha!r}")
    return alpha < 1.0


def name(resolution: int) -> str:
    return f"{resolution}x{resolution}"


def block_of(blocks: torch.nn.ModuleDict, resolution: int) -> torch.nn.ModuleDict:
    return cast(torch.nn.ModuleDict, blocks[name(resolution)])
