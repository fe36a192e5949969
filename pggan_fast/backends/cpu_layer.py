"""Convolutions and whole layers of the backend "cpu".

3x3 convolutions go through cache tile by tile with their epilogue (tiled.py); what that does not pay for is torch's
own. Epilogues apart write over the convolution's output, so that a layer allocates one map where plain PyTorch keeps
four.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pggan_fast.backends import aten, cpu, tiled
from pggan_fast.backends.precision import split_scale
from pggan_fast.backends.registry import implement


@implement("cpu", "conv", supports=cpu.unsupported)
def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    c = weight.shape[1] if adjoint else weight.shape[0]
    if weight.shape[2] == 3 and tiled.conv_pays(x, c, resample):
        return tiled.conv(x, weight, scale, resample, adjoint)
    return aten.conv.conv(x, weight, scale, resample, adjoint)


@implement("cpu", "conv_weight_grad", supports=cpu.unsupported)
def conv_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    if k == 3 and tiled.pays(x, dy.shape[1], resample):
        return tiled.weight_grad(x, dy, scale, resample, dtype)
    return aten.conv.conv_weight_grad(x, dy, scale, resample, k, dtype)


@implement("cpu", "scaled_conv2d_forward", supports=cpu.unsupported)
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
    if weight.shape[2] == 3 and resample != "pool" and tiled.conv_pays(x, weight.shape[0], resample):
        y, r = tiled.layer(x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode)
        return y, r, None
    on_weight, on_epilogue = split_scale(weight_scale, x.dtype)
    if resample == "pool":
        u = conv(x, weight, on_weight, "none", False)
        return cpu.ops.bias_act_forward(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode, True)
    u = conv(x, weight, on_weight, resample, False)
    return *cpu.ops.bias_act_inplace(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode), None
