"""Convolutions and whole layers of the backend "cpu".

Convolutions go through cache tile by tile with their epilogue (tiled.py). Where that does not pay, "aten+cpu" is
torch's convolution, over whose output the epilogue writes, so that a layer allocates one map where plain PyTorch keeps
four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pggan_fast.backends import aten, cpu, tiled
from pggan_fast.backends.aten.layer import Result, in_two_passes_plan
from pggan_fast.backends.registry import implement


def _unsupported(x: Tensor, k: int, resample: str) -> str | None:
    if (reason := cpu.unsupported(x)) is not None:
        return reason
    if k == 1 and resample in ("up", "down"):
        return f"its 1x1 convolutions do not resample, got {resample!r}"
    return None if x.numel() else "there is nothing to convolve"


def _unsupported_conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> str | None:
    return _unsupported(x, weight.shape[2], resample)


def _conv_rule(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> str | None:
    return tiled.conv_rule(x, weight.shape[1 if adjoint else 0], weight.shape[2], resample)


implement("cpu", "conv", supports=_unsupported_conv, rule=_conv_rule, plan=tiled.conv_plan)(tiled.conv)


def _unsupported_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, *others: Any) -> str | None:
    return _unsupported(x, k, resample)


def _weight_grad_rule(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, *others: Any) -> str | None:
    return tiled.rule(x, dy.shape[1], k, resample)


implement(
    "cpu",
    "conv_weight_grad",
    supports=_unsupported_weight_grad,
    rule=_weight_grad_rule,
    plan=tiled.weight_grad_plan,
)(tiled.weight_grad)
implement("aten+cpu", "conv", supports=cpu.unsupported)(aten.conv.conv)
implement("aten+cpu", "conv_weight_grad", supports=cpu.unsupported)(aten.conv.conv_weight_grad)


def _unsupported_layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str, *others: Any
) -> str | None:
    return _unsupported(x, weight.shape[2], resample)


def _layer_rule(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str, *others: Any
) -> str | None:
    return tiled.conv_rule(x, weight.shape[0], weight.shape[2], "none" if resample == "pool" else resample)


def _layer_plan(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> Callable[..., Result]:  # fmt: skip
    args = x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode
    if resample == "pool":
        return in_two_passes_plan(tiled.conv_plan, _over, *args)
    run = tiled.layer_plan(*args)
    return lambda x, weight, bias, *_: (*run(x, weight, bias), None)


@implement("cpu", "scaled_conv2d_forward", supports=_unsupported_layer, rule=_layer_rule, plan=_layer_plan)
def scaled_conv2d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> Result:  # fmt: skip
    args = x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode
    return _layer_plan(*args)(*args)


def _over(*args: Any) -> Callable[..., Result]:
    """The epilogue that writes over the convolution's output where it does not pool it."""
    *_, pool = args
    return cpu.ops.bias_act_forward_plan(*args, inplace=not pool)


def _plan_by_torch(*args: Any) -> Callable[..., Result]:
    return in_two_passes_plan(aten.conv.conv_plan, _over, *args)


@implement("aten+cpu", "scaled_conv2d_forward", supports=cpu.unsupported, plan=_plan_by_torch)
def scaled_conv2d_forward_by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> Result:  # fmt: skip
    args = x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode
    return _plan_by_torch(*args)(*args)
