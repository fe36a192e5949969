"""Precision: where a layer's scale is applied per dtype, and what torch's settings allow."""

from __future__ import annotations

from typing import Any

import torch


def split_scale(weight_scale: float, dtype: torch.dtype) -> tuple[float, float]:
    """(scale on the weights, scale on the epilogue) of the forward pass; their product is weight_scale.

    The scale rides on the epilogue, in float32: v = scale * u, and no scaled copy of the weights is made. In float16
    the unscaled products could leave the range: there the weights are scaled, in the pass that rounds them anyway.
    """
    return (weight_scale, 1.0) if dtype == torch.float16 else (1.0, weight_scale)


def split_scale_backward(weight_scale: float, dtype: torch.dtype) -> tuple[float, float]:
    """The same for the backward pass: du may leave with the scale already in it, right for dx and dW alike.

    In half precision that would round du once more before the sums of dW, which are to be exact to float32.
    """
    return (1.0, weight_scale) if dtype in (torch.float32, torch.float64) else (weight_scale, 1.0)


def exact_matmul() -> bool:
    """Whether torch multiplies float32 matrices in full float32, as far as its settings can be read."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer where its old and new switches were mixed
        return False


def conv_fp32() -> str:
    """How float32 convolutions multiply on a CUDA device, as cuDNN is set: "tf32" (torch's default) or "ieee"."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return "tf32" if conv.fp32_precision == "tf32" else "ieee"


def matmul_fp32() -> str:
    """The same for matrix products, as cuBLAS is set: "ieee" is torch's default."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
