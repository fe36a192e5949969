"""Convolutions and whole layers of the backend "cpu".

Of wide layers 3x3 convolutions are Winograd's and resampling ones go by differences; of narrow ones resampling ones are
torch's own on phase-summed weights from a native kernel; the rest is torch's own. A layer's epilogue writes over the
convolution's output, so that it allocates one map where plain PyTorch keeps four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import aten, cpu, differences, winograd
from pggan_fast.backends.launch import launch
from pggan_fast.backends.precision import split_scale
from pggan_fast.backends.registry import implement


def _phase_summed(
    weight: Tensor, scale: float, flip: bool, transpose: bool, memory_format: torch.memory_format
) -> Tensor:
    c, cin = weight.shape[:2]
    shape = (*((cin, c) if transpose else (c, cin)), 4, 4)
    s = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=memory_format)
    _launch_phase(cpu.native.phase_weight, weight.contiguous(), s, scale, flip, transpose)
    return s


def _phase_gathered(ds: Tensor, scale: float, flip: bool, transpose: bool) -> Tensor:
    c, cin = (ds.shape[1], ds.shape[0]) if transpose else ds.shape[:2]
    dw = ds.new_empty(c, cin, 3, 3)
    _launch_phase(cpu.native.phase_weight_gradient, dw, ds, scale, flip, transpose)
    return dw


def _launch_phase(kernel: Any, weight: Tensor, s: Tensor, scale: float, flip: bool, transpose: bool) -> None:
    strides = (s.transpose(0, 1) if transpose else s).stride()
    launch(kernel, weight, s, cpu.DTYPES[s.dtype], *weight.shape[:2], *strides, flip, scale)


_BY_DIFFERENCES = {"up": differences.up, "down": differences.down}
NATIVE_PHASES = aten.conv.PhaseWeights(_phase_summed, _phase_gathered)


@implement("cpu", "conv", supports=cpu.unsupported)
def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    c = weight.shape[1] if adjoint else weight.shape[0]
    if weight.shape[2] == 3:
        if resample == "none" and winograd.pays(x, c, winograd.LEAST_CHANNELS):
            return winograd.conv(x, weight, scale, adjoint)
        if resample != "none" and differences.pays(x, c):
            return _BY_DIFFERENCES[resample](x, weight, scale, adjoint)
    return aten.conv.conv(x, weight, scale, resample, adjoint, NATIVE_PHASES)


@implement("cpu", "conv_weight_grad", supports=cpu.unsupported)
def conv_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    if k == 3:
        if resample == "none" and winograd.pays(x, dy.shape[1], winograd.LEAST_GRADIENT_CHANNELS):
            return winograd.weight_grad(x, dy, scale)
        if resample != "none" and differences.pays(x, dy.shape[1]):
            return differences.weight_grad(x, dy, scale, resample)
    return aten.conv.conv_weight_grad(x, dy, scale, resample, k, dtype, NATIVE_PHASES)


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
    on_weight, on_epilogue = split_scale(weight_scale, x.dtype)
    if resample == "pool":
        u = conv(x, weight, on_weight, "none", False)
        return cpu.ops.bias_act_forward(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode, True)
    u = conv(x, weight, on_weight, resample, False)
    return *cpu.ops.bias_act_inplace(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode), None
