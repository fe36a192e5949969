"""Convolutions and whole layers of the backend "cuda", of at most 64 channels in and out: weights packed, then one
kernel that multiplies tiles of the image with them and finishes the layer in registers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import aten, cuda, layout, precision
from pggan_fast.backends.aten.layer import in_two_passes_plan
from pggan_fast.backends.native import DTYPES, NORMS
from pggan_fast.backends.registry import LAYER_BACKWARD, Gradients, implement, unmeasured

MAX_CHANNELS = 64
RESAMPLES = {"none": 0, "up": 1, "down": 2}
NOTHING: tuple[Any, ...] = (None, 1.0, None, "none", 0.0, "inside")
"""Of what follows a convolution: bias, bias_scale, slope, norm, eps, eps_mode."""


def ieee(x: Tensor, k: int) -> bool:
    """Whether float32 products are exact: a 1x1 convolution of 1x1 images is a matrix product, as cuBLAS is set."""
    dense = k == 1 and x.shape[2] == x.shape[3] == 1
    return (precision.matmul_fp32() if dense else precision.conv_fp32()) == "ieee"


def unsupported_channels(x: Tensor, c: int) -> str | None:
    """Why no kernel can convolve x [N, Cin, H, W] to c channels, whatever the device's shared memory."""
    if (reason := cuda.unsupported(x)) is not None:
        return reason
    if max(c, x.shape[1]) > MAX_CHANNELS:
        return (
            f"it convolves at most {MAX_CHANNELS} channels, got {x.shape[1]} to {c}; "
            "use backend='triton' or 'aten' for this layer"
        )
    return None


def unsupported_product(x: Tensor, c: int, k: int, resample: str) -> str | None:
    """Why the kernels cannot convolve x [N, Cin, H, W] to c channels."""
    if (reason := unsupported_channels(x, c)) is not None:
        return reason
    if x.numel() and not cuda.launch(
        "scaled_conv2d_rows", *_arguments(x, x, None, x, None, None, c, k, resample, NOTHING)
    ):
        return (
            f"its weights and a tile of x take more shared memory than the device has, for {x.shape[1]} to {c} channels"
        )
    return None


def _arguments(
    x: Tensor, packed: Tensor, bias: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, c: int, k: int,
    resample: str, then: tuple[Any, ...],
) -> tuple[Any, ...]:  # fmt: skip
    """Of scaled_conv2d in csrc/bind/arguments.h."""
    n, cin, h, w = x.shape
    _, bias_scale, slope, norm, eps, eps_mode = then
    pool = resample == "pool"
    return (
        x, packed, bias, y, r, mask, DTYPES[x.dtype], 0 if bias is None else DTYPES[bias.dtype], n, h, w, cin, c, k,
        RESAMPLES["none" if pool else resample], pool, ieee(x, k), bias_scale, 1.0 if slope is None else slope,
        NORMS[norm], eps, eps_mode == "inside",
    )  # fmt: skip


def packed(weight: Tensor, like: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """The weights as kernels multiply with them, for images like `like`."""
    weight = weight.contiguous()
    c, cin, k, _ = weight.shape
    codes = DTYPES[weight.dtype], DTYPES[like.dtype]
    rest = c, cin, k, RESAMPLES[resample], adjoint, ieee(like, k), scale
    out = like.new_empty(cuda.launch("pack_weight_elements", weight, None, *codes, *rest))
    cuda.launch("pack_weight", weight, out, *codes, *rest)
    return out


def convolve(
    x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool, then: tuple[Any, ...] = NOTHING
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(y, r, mask) of a whole layer."""
    bias, _, slope, norm, _, _ = then
    pool = resample == "pool"
    family = "none" if pool else resample
    n, c, h, w = layout.output_shape(x, weight, family, adjoint)
    k = weight.shape[2]
    y = layout.empty((n, c, h // 2, w // 2) if pool else (n, c, h, w), x, True)
    r = None if norm == "none" else layout.empty((n, 1, h, w), x, False, torch.float32)
    mask = layout.empty((n, (c + 7) // 8, h, w), x, True, torch.uint8) if pool and slope is not None else None
    weights = packed(weight, x, scale, family, adjoint)
    dense = layout.dense(x, True)
    bias = layout.contiguous(bias)
    cuda.launch("scaled_conv2d", *_arguments(dense, weights, bias, y, r, mask, c, k, resample, then))
    return layout.conform(y, x), r, None if mask is None else layout.conform(mask, x)


def _unsupported_conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> str | None:
    return unsupported_product(x, weight.shape[1] if adjoint else weight.shape[0], weight.shape[2], resample)


@implement("cuda", "conv", supports=_unsupported_conv, rule=unmeasured)
def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    return convolve(x, weight, scale, resample, adjoint)[0]


def _unsupported_layer(x: Tensor, weight: Tensor, *others: Any) -> str | None:
    *_, resample, _, norm, _, _ = others
    if resample == "pool" and norm != "none":
        return "it has no 2x2 mean after a pixel norm"
    return unsupported_product(x, weight.shape[0], weight.shape[2], resample)


@implement("cuda", "scaled_conv2d_forward", supports=_unsupported_layer, rule=unmeasured)
def scaled_conv2d_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    return convolve(x, weight, weight_scale, resample, False, (bias, bias_scale, slope, norm, eps, eps_mode))


def _plan_by_torch(*args: Any) -> Callable[..., Any]:
    return in_two_passes_plan(aten.conv.conv_plan, cuda.ops.bias_act_forward_plan, *args)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, bias_scale: float, resample: str,
               *others: Any) -> int:  # fmt: skip
    """How many elements the epilogue reads."""
    return math.prod(layout.output_shape(x, weight, "none" if resample == "pool" else resample, False))


@implement(
    "aten+cuda", "scaled_conv2d_forward", supports=cuda.unsupported, plan=_plan_by_torch,
    rule=cuda.cheap_to_launch("aten+triton", "scaled_conv2d_forward", _convolved),
)  # fmt: skip
def scaled_conv2d_forward_by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    args = x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode
    result: tuple[Tensor, Tensor | None, Tensor | None] = _plan_by_torch(*args)(*args)
    return result


def _down_backward_plan(
    epilogue: tuple[Any, ...], input_grad: tuple[Any, ...], weight_grad: tuple[Any, ...], need_x: bool,
    need_weight: bool,
) -> Callable[..., Gradients] | None:  # fmt: skip
    """What makes (dx, dw, db) of (dy, x, weight, y, r, mask) for a layer of few pixels with resample="down", by torch's
    convolution: the epilogue's kernel writes du for each pixel of x, and it goes on as if without resampling.

    Of the arguments of "bias_act_backward", "conv" and "conv_weight_grad"; None for other layers.
    """
    dy, dr, y, _, _, *options, _, need_bias = epilogue
    x, du, scale, resample, k, _ = weight_grad
    weight, norm = input_grad[1], options[3]
    if resample != "down" or k != 3 or norm != "none" or dr is not None or not need_x or aten.conv.sums_pay(x, "down"):
        return None
    large = layout.empty((*du.shape[:2], *x.shape[2:]), du, layout.is_channels_last(du))
    pooled = dy, None, y, None, None, *options, True, need_bias
    finish = cuda.ops.bias_act_backward_plan(*pooled)
    both = aten.conv.gradients_plan(x, large, weight, scale, "none") if need_weight else None
    if need_weight and both is None:
        return None
    input_alone = aten.conv.conv_plan(large, weight, scale, "none", True)

    def run(dy: Tensor, x: Tensor, weight: Tensor, y: Tensor, r: Tensor | None, mask: Tensor | None) -> Gradients:
        du, db = finish(dy, None, y, None, None)
        dx, dw = (input_alone(du, weight), None) if both is None else both(x, du, weight)
        return dx, dw, db

    return run


LAYER_BACKWARD["cuda", "aten"] = _down_backward_plan
