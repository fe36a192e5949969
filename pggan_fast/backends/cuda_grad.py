"""The weight gradient of the backend "cuda": convolutions of at most 64 channels, in one pass over both images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import aten, cuda, precision
from pggan_fast.backends.layout import dense
from pggan_fast.backends.native import DTYPES
from pggan_fast.backends.registry import Limit, implement

RESAMPLE = {"none": 0, "up": 1, "down": 2}  # csrc/kernels.h
_MAX_CHANNELS = 64


def _unsupported(x: Tensor, dy: Tensor, *others: Any) -> str | None:
    reason = cuda.unsupported(x)
    channels = max(x.shape[1], dy.shape[1])
    if reason is None and channels > _MAX_CHANNELS:
        return Limit(f"it handles convolutions of at most {_MAX_CHANNELS} channels, got {channels}")
    return reason


def _exact(x: Tensor, k: int) -> bool:
    """Whether float32 products are: a 1x1 convolution of 1x1 images is a matrix product, under cuBLAS's setting."""
    matrix = k == 1 and x.shape[2] == x.shape[3] == 1
    return (precision.matmul_fp32() if matrix else precision.conv_fp32()) == "ieee"


# Not yet measured on a device: where the user names no backend, torch's own convolution runs.
@implement("cuda", "conv_weight_grad", supports=_unsupported, automatic=aten.conv.conv_weight_grad)
def conv_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    n, cin, h, w = x.shape
    c = dy.shape[1]
    dw = x.new_empty(c, cin, k, k, dtype=dtype)
    args = (
        dense(x, True), dense(dy, True), dw, DTYPES[x.dtype], DTYPES[dtype], n, h, w, cin, c, k, RESAMPLE[resample],
        _exact(x, k), scale,
    )  # fmt: skip
    workspace = x.new_empty(cuda.launch("conv_weight_grad_workspace", *args, None), dtype=torch.float32)
    cuda.launch("conv_weight_grad", *args, workspace)
    return dw
