"""Whether a case fits in memory, from the sizes of its activations."""

from __future__ import annotations

import math

from pggan_fast.benchmarks.cases import Case
from pggan_fast.benchmarks.subjects import SUBJECTS, Widths

CHANNELS_BASE, CHANNELS_MAX = 8192, 512
PARAMETERS = 23.1e6  # of G, and of D, at 1024x1024; lower resolutions have a little less


def estimated_bytes(case: Case) -> int:
    """An upper estimate of the memory of the float64 reference, the largest run of a case.

    Per level of R x R with C channels, two convolutions with about four tensors each (convolution, bias and activation,
    norm, resampling). A forward holds those of its top level; a G step those of all levels of G and D; a D step
    those of D three times, the penalty's gradient of them, and the backward of both.
    """
    if case.kind not in ("network", "peer"):
        shapes = SUBJECTS[case.subject].shapes(case.resolution, case.batch, Widths())
        most = 2 * case.batch * case.resolution**2 * Widths().channels(case.resolution)
        tensors = 12 if case.mode == "forward" else 30
        return 8 * tensors * max(most, *(math.prod(shape) for shape in shapes))
    levels = [2**i for i in range(2, case.resolution.bit_length())]
    activations = [8 * case.batch * 8 * r * r * min(2 * CHANNELS_BASE // r, CHANNELS_MAX) for r in levels]
    if not (case.training or case.mode in ("backward", "double")):
        return int(2 * 8 * PARAMETERS + 2 * max(activations))
    copies = 2 if case.mode == "backward" or case.name == "G.step" else 6
    return int(2 * 5 * 8 * PARAMETERS + copies * sum(activations))


def reason_not_to_run(case: Case, available: int | None) -> str | None:
    """Why `case` would not fit in `available` bytes; None where it does or nobody knows."""
    needed = estimated_bytes(case)
    if available is None or needed <= 0.8 * available:
        return None
    return f"needs about {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free"
