"""The weight gradient of the backend "cuda": convolutions of at most 64 channels, in one pass over both images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import cuda
from pggan_fast.backends.cuda_layer import MAX_CHANNELS, RESAMPLES, ieee
from pggan_fast.backends.layout import dense
from pggan_fast.backends.native import DTYPES
from pggan_fast.backends.registry import implement, unmeasured


def _unsupported(x: Tensor, dy: Tensor, *others: Any) -> str | None:
    reason = cuda.unsupported(x)
    channels = max(x.shape[1], dy.shape[1])
    if reason is None and channels > MAX_CHANNELS:
        return f"it convolves at most {MAX_CHANNELS} channels, got {channels}; use backend='triton' or 'aten'"
    return reason


@implement("cuda", "conv_weight_grad", supports=_unsupported, rule=unmeasured)
def conv_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    n, cin, h, w = x.shape
    c = dy.shape[1]
    dw = x.new_empty(c, cin, k, k, dtype=dtype)
    args = (
        dense(x, True), dense(dy, True), dw, DTYPES[x.dtype], DTYPES[dtype], n, h, w, cin, c, k, RESAMPLES[resample],
        ieee(x, k), scale,
    )  # fmt: skip
    workspace = x.new_empty(cuda.launch("conv_weight_grad_workspace", *args, None), dtype=torch.float32)
    cuda.launch("conv_weight_grad", *args, workspace)
    return dw
