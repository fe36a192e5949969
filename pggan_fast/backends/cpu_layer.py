"""Whole layers of the backend "cpu": torch's convolutions on phase-decomposed weights, then the native epilogue.

The epilogue writes over the convolution's output, so a layer allocates one map where plain PyTorch keeps four.
"""

from __future__ import annotations

from torch import Tensor

from pggan_fast.backends import cpu
from pggan_fast.backends.aten.conv import conv, conv_weight_grad
from pggan_fast.backends.precision import split_scale
from pggan_fast.backends.registry import implement

implement("cpu", "conv", supports=cpu._unsupported)(conv)
implement("cpu", "conv_weight_grad", supports=cpu._unsupported)(conv_weight_grad)


@implement("cpu", "scaled_conv2d_forward", supports=cpu._unsupported)
def scaled_conv2d_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: float,
    bias_scale: float,
    resample: str,
    slope: float | None,
    norm: str,
    eps: float,
    eps_mode: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    on_weight, on_epilogue = split_scale(weight_scale, x.dtype)
    if resample == "pool":
        u = conv(x, weight, on_weight, "none", False)
        return cpu.bias_act_forward(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode, True)
    u = conv(x, weight, on_weight, resample, False)
    return *cpu.bias_act_inplace(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode), None
