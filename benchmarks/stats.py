"""Order statistics of timings, and the ratio of two providers that were timed in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    median: float
    p20: float
    p80: float


def spread(samples: Sequence[float]) -> Spread:
    """Median, 20th and 80th percentile (linear interpolation) of at least one sample."""
    if not samples:
        raise ValueError("samples: got none, expected at least one")
    p20, median, p80 = np.percentile(samples, (20, 50, 80))
    return Spread(float(median), float(p20), float(p80))


def speedup(baseline: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times faster `ours` is than `baseline` (above 1: faster), from samples taken in turns.

    All three are of the ratios within each round, so that a slow phase of the machine, which holds both of a round,
    neither moves nor widens them. The median is not the ratio of the two medians, which may lie outside of p20..p80.
    """
    if len(baseline) != len(ours):
        raise ValueError(f"samples: got {len(baseline)} of the baseline and {len(ours)}, expected pairs")
    return spread([b / o for b, o in zip(baseline, ours, strict=True)])


def noise(baseline: Sequence[float], again: Sequence[float]) -> float:
    """How far a ratio of two runs of the very same may be from 1: 0.03 is 3 %. Samples as for `speedup`."""
    return max(abs(ratio - 1.0) for ratio in speedup(baseline, again))
