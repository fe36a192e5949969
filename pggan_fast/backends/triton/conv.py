"""Convolutions and whole layers of the backend "triton": weights packed, then one product with its epilogue."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pggan_fast.backends import aten, layout, precision
from pggan_fast.backends.aten.layer import in_two_passes
from pggan_fast.backends.registry import implement, unmeasured
from pggan_fast.backends.triton import tuning
from pggan_fast.backends.triton.availability import shared_memory, unsupported_product
from pggan_fast.backends.triton.epilogue import bias_act_forward, unsupported_epilogue
from pggan_fast.kernels import bias_act, configs
from pggan_fast.kernels.conv_weight_grad import conv_weight_grad as launch_weight_grad
from pggan_fast.kernels.launch import cdiv
from pggan_fast.kernels.pack_weight import pack_weight, unpack_weight_grad
from pggan_fast.kernels.scaled_conv2d import scaled_conv2d
from pggan_fast.kernels.taps import taps_of


class Epilogue(NamedTuple):
    """What follows a convolution; the default is nothing."""

    bias: Tensor | None = None
    bias_scale: float = 1.0
    slope: float | None = None
    norm: str = "none"
    eps: float = 0.0
    eps_mode: str = "inside"


NOTHING = Epilogue()


def _problem(x: Tensor, c: int, k: int, resample: str, norm: bool) -> configs.ConvProblem:
    pool = resample == "pool"
    taps, phases, stride = taps_of("none" if pool else resample, k)
    n, cin, h, w = x.shape
    cores = x.dtype != torch.float32 or _precision(x, k) != "ieee"
    return configs.bucketed(configs.ConvProblem(
        n * (h // stride) * (w // stride), phases**2, cin, taps**2 * cin, c, x.element_size(), norm, cores,
        shared_memory(x.device), pool,
    ))  # fmt: skip


def plans_of(op: str, args: tuple[Any, ...]) -> tuple[configs.ConvProblem, tuple[configs.ConvPlan, ...]]:
    """The problem of a call of an internal op, and the plans that it may run by."""
    if op == "conv_weight_grad":
        x, dy, _, resample, k, _ = args
        problem = _problem(x, dy.shape[1], k, resample, False)
        return problem, configs.gradient_plans(problem)
    x, weight, *others = args
    resample, adjoint, norm = (others[1], others[2], "none") if op == "conv" else (others[3], False, others[5])
    problem = _problem(x, weight.shape[1 if adjoint else 0], weight.shape[2], resample, norm != "none")
    return problem, configs.conv_plans(problem)


def _precision(x: Tensor, k: int) -> str:
    """Of float32 products: a 1x1 convolution of 1x1 images is a matrix product, under cuBLAS's setting."""
    dense = k == 1 and x.shape[2] == x.shape[3] == 1
    return precision.matmul_fp32() if dense else precision.conv_fp32()


def _packed(
    weight: Tensor, like: Tensor, scale: float, resample: str, adjoint: bool, config: configs.ConvConfig
) -> Tensor:
    """[phases, rows, columns] in the dtype of `like`, padded to whole tiles."""
    taps, phases, _ = taps_of(resample, weight.shape[2])
    x, y = weight.shape[:2] if adjoint else (weight.shape[1], weight.shape[0])
    rows = cdiv(taps**2 * x, config.bk) * config.bk
    packed = like.new_empty(phases**2, rows, cdiv(y, config.bn) * config.bn)
    pack_weight(weight.contiguous(), packed, scale, resample, adjoint)
    return packed


def convolve(
    x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool, then: Epilogue = NOTHING
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(y, r, mask) of a whole layer, by the plan for its problem."""
    k, c = weight.shape[2], weight.shape[1] if adjoint else weight.shape[0]
    family = "none" if resample == "pool" else resample
    problem = _problem(x, c, k, resample, then.norm != "none")
    op = "conv" if then is NOTHING else "scaled_conv2d_forward"
    plan = tuning.plan_for(op, problem, x.device, configs.conv_plans(problem))
    packed = _packed(weight, x, scale, family, adjoint, plan.config)
    n, _, h, w = x.shape
    _, phases, stride = taps_of(family, k)
    shape = n, c, h * phases // stride, w * phases // stride
    if plan.fused or (plan.splits == 1 and then is NOTHING):
        return _fused(x, packed, shape, k, resample, then, plan)
    return *_in_two_passes(x, packed, shape, k, resample, then, plan), None


def _in_two_passes(
    x: Tensor, packed: Tensor, shape: tuple[int, int, int, int], k: int, resample: str, then: Epilogue,
    plan: configs.ConvPlan,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(y, r): the sums, in parts [splits, N, H, W, C] where there are several, then the epilogue over them."""
    n, c, h, w = shape
    channels_last = layout.is_channels_last(x) or plan.splits > 1
    y = layout.empty(shape, x, channels_last)
    if plan.splits > 1:
        sums = x.new_empty((plan.splits, n, h, w, c), dtype=torch.float32)
        _run(x, packed, sums.permute(0, 1, 4, 2, 3), None, None, k, resample, NOTHING, plan)
    else:
        sums = y
        _run(x, packed, sums, None, None, k, resample, NOTHING, plan)
    r = _reciprocal(x, n, h, w, then.norm)
    bias_act.bias_act_forward(
        sums, layout.contiguous(then.bias), y, r, None, channels_last=channels_last, pool=False, scale=1.0,
        bias_scale=then.bias_scale, slope=then.slope, norm=then.norm, eps=then.eps,
        eps_inside=then.eps_mode == "inside",
    )  # fmt: skip
    return layout.conform(y, x), r


def _reciprocal(x: Tensor, n: int, h: int, w: int, norm: str) -> Tensor | None:
    return None if norm == "none" else layout.empty((n, 1, h, w), x, False, torch.float32)


def _fused(
    x: Tensor, packed: Tensor, shape: tuple[int, int, int, int], k: int, resample: str, then: Epilogue,
    plan: configs.ConvPlan,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    n, c, h, w = shape
    pool, channels_last = resample == "pool", layout.is_channels_last(x)
    y = layout.empty((n, c, h // 2, w // 2) if pool else shape, x, channels_last)
    r = _reciprocal(x, n, h, w, then.norm)
    mask = None
    if pool and then.slope is not None:
        mask = layout.empty((n, (c + 7) // 8, h, w), x, channels_last, torch.uint8)
    _run(x, packed, y, r, mask, k, resample, then, plan)
    return y, r, mask


def _run(
    x: Tensor, packed: Tensor, y: Tensor, r: Tensor | None, mask: Tensor | None, k: int, resample: str, then: Epilogue,
    plan: configs.ConvPlan,
) -> None:  # fmt: skip
    scaled_conv2d(
        x, packed, layout.contiguous(then.bias), y, r, mask, k, resample, then.bias_scale, then.slope, then.norm,
        then.eps, then.eps_mode, _precision(x, k), plan.config, plan.splits,
    )  # fmt: skip


@implement("triton", "conv", supports=unsupported_product, rule=unmeasured)
def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    return convolve(x, weight, scale, resample, adjoint)[0]


@implement("triton", "conv_weight_grad", supports=unsupported_product, rule=unmeasured)
def conv_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    c, cin = dy.shape[1], x.shape[1]
    dw = x.new_empty(c, cin, k, k, dtype=dtype)
    problem = _problem(x, c, k, resample, False)
    plans = configs.gradient_plans(problem)
    plan = tuning.plan_for("conv_weight_grad", problem, x.device, plans)
    parts = x.new_empty(plan.splits, problem.phases, problem.columns, c, dtype=torch.float32)
    launch_weight_grad(x, dy, parts, k, resample, _precision(x, k), plan.config)
    unpack_weight_grad(parts, dw, scale, resample)
    return dw


def _unsupported_layer(x: Tensor, weight: Tensor, *others: Any) -> str | None:
    *_, resample, _, norm, _, _ = others
    return unsupported_product(x) or unsupported_epilogue(x, norm, resample == "pool", weight.shape[0])


@implement("triton", "scaled_conv2d_forward", supports=_unsupported_layer, rule=unmeasured)
def scaled_conv2d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    then = Epilogue(bias, bias_scale, slope, norm, eps, eps_mode)
    return convolve(x, weight, weight_scale, resample, False, then)


def _unsupported_epilogue(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, *others: Any,
) -> str | None:  # fmt: skip
    return unsupported_epilogue(x, norm, resample == "pool", weight.shape[0])


@implement("aten+triton", "scaled_conv2d_forward", supports=_unsupported_epilogue)
def scaled_conv2d_forward_by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    options = slope, norm, eps, eps_mode
    epilogue = bias_act_forward
    return in_two_passes(aten.conv.conv, epilogue, x, weight, bias, weight_scale, bias_scale, resample, *options)
