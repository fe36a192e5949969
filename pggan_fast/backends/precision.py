"""Precision: where a layer's scale is applied per dtype, and what torch's settings allow.

torch has old switches (`allow_tf32`, `set_float32_matmul_precision`) and new ones (`fp32_precision` of everything, of a
device's library, of an operation there), and raises where an old one is asked after a new one was set. The new one of
an operation always answers, with what torch itself multiplies by, whichever switches were set: so only it is asked.
They allow less precision and demand none: kernels of ours may stay with float32.
"""

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

    In half precision that would round du once more before the sums of dW, which are to be exact to float32; but for
    cuDNN's, which round them to half precision, as in plain PyTorch.
    """
    return (1.0, weight_scale) if dtype in (torch.float32, torch.float64) else (weight_scale, 1.0)


# What torch.backends.mkldnn.conv.fp32_precision asks, without the 1 us that the way there takes: every choice asks it
_setting: Any = torch._C._get_fp32_precision_getter


def exact_matmul() -> bool:
    """Whether float32 convolutions on the CPU have to be as exact as float32 is, which is torch's default.

    Not where oneDNN's convolutions may use TF32 or bfloat16, or, nothing being said of them, its matrix products, which
    `torch.set_float32_matmul_precision` sets. What is set for a CUDA device has no say.
    """
    of_conv, of_matmul = cpu_settings()
    return (of_matmul if of_conv == "none" else of_conv) not in ("tf32", "bf16")


def cpu_settings() -> tuple[str, str]:
    """What oneDNN's convolutions and products may multiply float32 by."""
    return _setting("mkldnn", "conv"), _setting("mkldnn", "matmul")


def conv_fp32() -> str:
    """How float32 convolutions multiply on a CUDA device, as cuDNN is set: "tf32" (torch's default) or "ieee"."""
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return "tf32" if conv.fp32_precision == "tf32" else "ieee"


def matmul_fp32() -> str:
    """The same for matrix products, as cuBLAS is set: "ieee" is torch's default."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
