"""The correctness gate: nothing is timed before it has agreed with the float64 reference.

A provider may be off by twice what plain PyTorch is in the same dtype, plus a little:
err(provider) <= 2 * err(eager) + tiny, for every output and for the gradient of every parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

GRADIENT = "grad "  # names of gradients begin with it

# Outputs are continuous in their inputs: two correct programs differ by roundings only.
TINY = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# D's loss holds the gradient penalty, which is not: see below. At 8x8, batch 16, plain PyTorch's was off by 1.4e-7 in
# NCHW and 9.2e-6 in channels_last.
LOSS = "loss"
TINY_LOSS = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# Gradients are not. An activation within a rounding of zero takes one slope in one program and the other in the next,
# and among millions a few always are. So two correct programs differ at random, and eager's own distance is one draw of
# it: in D's step at 64x64, batch 8, plain PyTorch was off by 1.5e-4 in NCHW and 2.6e-3 in channels_last, by one flipped
# sign that moved one channel of a bias by 5e-2. A wrong channel among 512 is off by 4e-2 over all of them.
TINY_GRADIENT = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 8e-2}
# Bytes: a value within a rounding of a tie goes up in one program and down in the other, by one level of 255. In
# float32 that is one pixel in ten thousand, 1e-4 in root mean square; a truncation moves half of all pixels, 5e-3.
PIXELS = "pixels"
TINY_PIXELS = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# A gradient that cancels to almost nothing is judged on the scale of the largest, times this.
FLOOR = 1e-3


class Verdict(NamedTuple):
    """The tensor that comes nearest to its limit, or passes it furthest."""

    name: str
    error: float  # relative, see `errors`
    limit: float

    @property
    def red(self) -> bool:
        return not self.error <= self.limit  # NaN is red

    def __str__(self) -> str:
        return f"{self.name} has a relative error of {self.error:.1e}, {self.limit:.1e} allowed"


def errors(result: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative error per tensor: of outputs max|a - ref| / max|ref|, of gradients and bytes rms(a - ref) / rms(ref).

    A gradient that only one of them has is zero in the other. Raises ValueError where other names or shapes differ.
    """
    outputs, expected = ([name for name in named if not name.startswith(GRADIENT)] for named in (result, reference))
    if sorted(outputs) != sorted(expected):
        raise ValueError(f"got tensors {sorted(outputs)}, expected {sorted(expected)}")
    absent = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in result.items() if name not in reference}
    reference = {**reference, **absent}
    sizes = {name: _size(name, ref.double()) for name, ref in reference.items()}
    floor = FLOOR * max((s for name, s in sizes.items() if name.startswith(GRADIENT)), default=0.0)
    found = {}
    for name, ref in reference.items():
        got = result[name] if name in result else torch.zeros_like(ref)
        if got.shape != ref.shape:
            raise ValueError(f"{name}: got shape {tuple(got.shape)}, expected {tuple(ref.shape)}")
        scale = max(sizes[name], floor) if name.startswith(GRADIENT) else sizes[name]
        found[name] = _size(name, got.double() - ref.double()) / max(scale, 1e-300)
    return found


def judge(ours: Mapping[str, float], torchs: Mapping[str, float], dtype: torch.dtype) -> Verdict:
    """The worst tensor of `ours` under the rule, `torchs` being eager's errors in the same dtype.

    A tensor that eager itself gets wholly wrong (in bfloat16 the last bias of D, whose gradients cancel) cannot speak
    for the others: it stays within the rule, but is not the worst unless it breaks it. Raises ValueError where there
    is no other tensor: then nothing would have been checked.
    """
    verdicts = []
    for name, error in ours.items():
        tiny = TINY_GRADIENT if name.startswith(GRADIENT) else {LOSS: TINY_LOSS, PIXELS: TINY_PIXELS}.get(name, TINY)
        verdicts.append(Verdict(name, error, 2 * torchs[name] + tiny[dtype]))
    telling = [v for v in verdicts if v.limit < 1 or v.red]
    if not telling:
        raise ValueError(f"plain PyTorch in {dtype} is itself wholly wrong: there is nothing to compare with")
    return max(telling, key=lambda v: float("inf") if v.error != v.error else v.error / v.limit)


def _size(name: str, x: Tensor) -> float:
    """The largest magnitude of an output (one wrong pixel counts), the root mean square of a gradient and of bytes."""
    return float(x.square().mean().sqrt() if name.startswith(GRADIENT) or name == PIXELS else x.abs().max())
