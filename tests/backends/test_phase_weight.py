"""The native phase sums S(w) and their transpose, against the constant-matrix form of the backend "aten"."""

from __future__ import annotations

import itertools

import pytest
import torch

from pggan_fast.backends import cpu
from pggan_fast.backends.aten.conv import BY_MATRIX
from pggan_fast.backends.cpu_layer import NATIVE_PHASES

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")

FORMATS = (torch.contiguous_format, torch.channels_last)
VARIANTS = list(itertools.product((False, True), (False, True), FORMATS, (torch.float32, torch.float64)))
CHANNELS = [(1, 1), (3, 1), (5, 17), (64, 3), (40, 33)]
variants = pytest.mark.parametrize(("flip", "transpose", "memory_format", "dtype"), VARIANTS)


@variants
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_both_directions_agree_with_the_matrix(flip, transpose, memory_format, dtype, channels) -> None:
    c, cin = channels
    w = torch.randn(3, 3, cin, c, dtype=dtype).permute(3, 2, 0, 1)  # not contiguous
    ours, theirs = (p.summed(w, 0.7, flip, transpose, memory_format) for p in (NATIVE_PHASES, BY_MATRIX))
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(memory_format=memory_format)
    ds = torch.randn(theirs.shape, dtype=dtype).contiguous(memory_format=memory_format)
    torch.testing.assert_close(*(p.gathered(ds, 0.7, flip, transpose) for p in (NATIVE_PHASES, BY_MATRIX)))
    # <S(w), d> = <w, S^T(d)>
    back = NATIVE_PHASES.gathered(ds, 0.7, flip, transpose)
    torch.testing.assert_close((ours * ds).sum(), (w * back).sum(), rtol=1e-4, atol=1e-4)


def test_seeded_faults_are_seen() -> None:
    w = torch.randn(4, 4, 3, 3)
    right = BY_MATRIX.summed(w, 1.0, False, False, torch.contiguous_format)
    for flip, transpose, scale in ((True, False, 1.0), (False, True, 1.0), (False, False, 1.01)):
        wrong = NATIVE_PHASES.summed(w, scale, flip, transpose, torch.contiguous_format)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(wrong, right)
