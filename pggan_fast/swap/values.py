"""What the recorder knows about a tensor."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pggan_fast import reference
from pggan_fast.swap.steps import Ref, Stddev, Step, View


@dataclass(frozen=True)
class Data:
    """The region's input after these steps."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Derived:
    """Computed from `base` alone, in a way not understood (yet)."""

    base: Data
    source: Tensor  # what base was
    moved: bool  # elements only moved and repeated
    scalars: tuple[float, ...] = ()  # numbers that went into it

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Stat:
    """factor * (x^2, its mean over channels or the root of that), x being `base`; see `inverse` and both eps."""

    base: Data
    source: Tensor
    stage: str = "square"  # "mean", "root"
    factor: float = 1.0
    eps_in: float = 0.0
    eps_out: float = 0.0
    inverse: bool = False

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Expr:
    """scale * parameter, viewed or expanded in some way."""

    ref: Ref
    scale: float = 1.0


@dataclass(frozen=True)
class Const:
    """A number."""

    value: float


@dataclass(frozen=True)
class Fixed:
    """A tensor made within forward from no other one: shapes, ranges of indices."""


@dataclass(frozen=True)
class Unknown:
    reason: str


Value = Data | Derived | Stat | Expr | Const | Fixed | Unknown

STDDEV_GROUPS = (4, None, 16, 8, 2, 3, 5, 6, 12, 32, 64)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to rounding; both finite."""
    if a.shape != b.shape or not a.numel():
        return a.shape == b.shape
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-5
    error, size = float((a - b).abs().max()), float(b.abs().max())  # NaN compares as False
    return error <= tolerance * max(size, 1e-30) < math.inf


def moved_view(out: Tensor, source: Tensor) -> View | None:
    """The view of each sample that `out` is of `source`."""
    whole = out.ndim in (1, 2, 4) and out.shape[0] == source.shape[0] and out.numel() == source.numel()
    return View(tuple(out.shape[1:])) if whole and torch.equal(out, source.reshape(out.shape)) else None


def stddev_candidates(out: Tensor, source: Tensor, scalars: tuple[float, ...]) -> list[Stddev]:
    """Which minibatch statistics the last map of `out` may be, the likeliest first."""
    n = source.shape[0]
    if source.ndim != 4 or not torch.equal(out[:, :-1], source):
        return []
    values = out[:, -1, :1, :1].expand(n, *out.shape[2:])
    if not torch.equal(out[:, -1], values):
        return []
    small = [s for s in dict.fromkeys(scalars) if 0.0 < s < 1e-2]
    known: dict[tuple[int, str], dict[tuple[bool, float], bool]] = {}
    found = []
    for eps, group, grouping in itertools.product((*small, 0.0), STDDEV_GROUPS, ("strided", "adjacent")):
        size = n if group is None else min(group, n)
        if size < 2 or n % size:
            continue
        key = size, "strided" if size == n else grouping
        if key not in known:
            known[key] = _deviate(values[:, 0, 0], source, *key, (*small, 0.0))
        found += [Stddev(group, grouping, u, eps) for u in (False, True) if known[key].get((u, eps), False)]
    return found


def _deviate(
    values: Tensor, x: Tensor, group: int, grouping: str, choices: tuple[float, ...]
) -> dict[tuple[bool, float], bool]:
    """Whether `values` [N] are statistics of x with these groups, unbiased or not, and each eps: a group of samples has
    one number. Empty where they have several."""
    members = reference.split_groups(values, group, grouping)
    if not torch.equal(members, members[:1].expand_as(members)):
        return {}
    y = reference.split_groups(x, group, grouping)
    squares = (y - y.mean(0)).square().sum(0)
    pairs = itertools.product((False, True), choices)
    return {(u, e): close((squares / (group - u) + e).sqrt().mean((1, 2, 3)), members[0]) for u, e in pairs}
