"""Whole layers of the backend "aten": convolution, then epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pggan_fast.backends.aten.conv import conv
from pggan_fast.backends.aten.epilogue import bias_act_forward
from pggan_fast.backends.precision import split_scale
from pggan_fast.backends.registry import implement

Result = tuple[Tensor, "Tensor | None", "Tensor | None"]


def in_two_passes(
    convolve: Callable[..., Tensor], epilogue: Callable[..., Result], x: Tensor, weight: Tensor, bias: Tensor | None,
    weight_scale: float, bias_scale: float, resample: str, *options: Any,
) -> Result:  # fmt: skip
    """A convolution as internal op "conv", then an epilogue as "bias_act_forward", whose options are the last."""
    on_weight, on_epilogue = split_scale(weight_scale, x.dtype)
    pool = resample == "pool"
    u = convolve(x, weight, on_weight, "none" if pool else resample, False)
    return epilogue(u, bias, on_epilogue, bias_scale, *options, pool)


def in_two_passes_plan(
    conv_plan: Callable[..., Callable[..., Tensor]], epilogue_plan: Callable[..., Callable[..., Result]], x: Tensor,
    weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str, *options: Any,
) -> Callable[..., Result]:  # fmt: skip
    """What `in_two_passes` does for such arguments, by the plans of its parts."""
    on_weight, on_epilogue = split_scale(weight_scale, x.dtype)
    pool = resample == "pool"
    convolve = conv_plan(x, weight, on_weight, "none" if pool else resample, False)
    epilogue: Callable[..., Result] | None = None  # planned for the convolution's first output

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> Result:
        nonlocal epilogue
        u = convolve(x, weight)
        if epilogue is None:
            epilogue = epilogue_plan(u, bias, on_epilogue, bias_scale, *options, pool)
        return epilogue(u, bias)

    return run


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
) -> Result:
    options = slope, norm, eps, eps_mode
    return in_two_passes(conv, bias_act_forward, x, weight, bias, weight_scale, bias_scale, resample, *options)
