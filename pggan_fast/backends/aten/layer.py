"""Whole layers of the backend "aten": convolution, then epilogue."""

from __future__ import annotations

from torch import Tensor

from pggan_fast.backends.aten.conv import conv
from pggan_fast.backends.aten.epilogue import bias_act_forward
from pggan_fast.backends.precision import split_scale
from pggan_fast.backends.registry import implement


@implement("aten", "scaled_conv2d_forward")
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
    pool = resample == "pool"
    u = conv(x, weight, on_weight, "none" if pool else resample, False)
    return bias_act_forward(u, bias, on_epilogue, bias_scale, slope, norm, eps, eps_mode, pool)
