"""Minibatch stddev of the backend "triton"."""

from __future__ import annotations

import torch
from torch import Tensor

from pggan_fast.backends.layout import dense, empty, is_channels_last
from pggan_fast.backends.registry import implement
from pggan_fast.backends.triton.availability import unsupported
from pggan_fast.kernels import minibatch_stddev


@implement("triton", "minibatch_stddev_forward", supports=unsupported)
def minibatch_stddev_forward(x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    channels_last = is_channels_last(x)
    n, c, h, w = x.shape
    out = empty((n, c + 1, h, w), x, channels_last)
    sums = x.new_empty(n // group, minibatch_stddev.pieces_of(c * h * w, group), dtype=torch.float32)
    minibatch_stddev.minibatch_stddev_forward(
        dense(x, channels_last), out, sums, group, grouping == "strided", group - unbiased, eps, channels_last
    )
    return out


@implement("triton", "minibatch_stddev_backward", supports=unsupported)
def minibatch_stddev_backward(dy: Tensor, x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    channels_last = is_channels_last(dy)
    dx = empty(x.shape, x, channels_last)
    q = x.new_empty(x.shape[0] // group, dtype=torch.float32)
    minibatch_stddev.minibatch_stddev_backward(
        dense(dy, channels_last), dense(x, channels_last), dx, q, group, grouping == "strided", group - unbiased, eps,
        channels_last,
    )  # fmt: skip
    return dx
