"""The convolution family as one shape of loop: output pixels of a phase x taps, for every way of resampling.

    y[n, OS * i + a, OS * j + b] = sum over taps (s, t) of
        x[n, IS * i + s + lead(a), IS * j + t + lead(b)] @ W[a, b, s, t]

Nearest x2 then a convolution is four phases (a, b) of 2x2 taps; a convolution then a 2x2 mean is 4x4 taps at stride 2
(9 -> 4 multiplications either way). The packed weights [phases, taps * channels of x, channels of y] hold the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Taps(NamedTuple):
    """Of one resampling and kernel size k."""

    taps: int  # per direction
    phases: int  # of the output, per direction: OS
    stride: int  # of the input: IS


def taps_of(resample: str, k: int) -> Taps:
    """`resample`: "none", "up" or "down"; k: 1 or 3."""
    if resample == "up":
        return Taps((k + 1) // 2, 2, 1)
    if resample == "down":
        return Taps(k + 1, 1, 2)
    return Taps(k, 1, 1)


@triton.jit
def lead(phase, K: tl.constexpr, OS: tl.constexpr):
    """Where the first tap of a phase lies, from the pixel that the phase starts at."""
    if K == 1:
        return phase * 0
    return phase * (OS - 1) - 1


@triton.jit
def contributes(kk: tl.constexpr, tap, phase, K: tl.constexpr, RESAMPLE: tl.constexpr):
    """Whether element kk (of K, one direction) of the kernel is a term of packed tap `tap` of `phase`."""
    if RESAMPLE == "up":
        return (phase + kk + 1) // 2 - phase * (K // 2) == tap + (1 - K // 2) * phase
    if RESAMPLE == "down":
        return (tap == kk) | (tap == kk + 1)
    return tap == kk


@triton.jit
def tap_of(kk, other, phase, K: tl.constexpr, RESAMPLE: tl.constexpr):
    """The inverse: the packed tap of `phase` that element kk of the kernel is in; `other` of the two of "down"."""
    if RESAMPLE == "up":
        return ((phase + kk + 1) // 2 - phase) * (K // 2)
    if RESAMPLE == "down":
        return kk + other
    return kk


@triton.jit
def pixel_of(m, GH, GW, POOL: tl.constexpr):
    """(n, i, j) of pixel m among [N, GH, GW]; with POOL in the order of 2x2 blocks, the four pixels of one in a row."""
    if POOL:
        q = m // 4
        j = q % (GW // 2)
        rest = q // (GW // 2)
        i = rest % (GH // 2)
        s = m % 4
        return rest // (GH // 2), 2 * i + s // 2, 2 * j + s % 2
    j = m % GW
    rest = m // GW
    return rest // GH, rest % GH, j
