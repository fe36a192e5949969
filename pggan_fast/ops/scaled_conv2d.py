"""scaled_conv2d: a whole PGGAN layer as one autograd node that saves its input, its output and one number per pixel.

y = pixel_norm(leaky_relu(weight_scale * conv2d(x, weight) + bias_scale * bias)), with resampling
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.backends.frozen import unfrozen
from pggan_fast.backends.precision import split_scale_backward
from pggan_fast.backends.registry import LAYER_BACKWARD, Gradients
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._again import Again, AgainOp, known
from pggan_fast.ops._autograd import needs_reference, wanted
from pggan_fast.ops._register import register
from pggan_fast.ops.bias_act import activation_apart, bias_act_backward, forward_fake
from pggan_fast.ops.conv import gradients, known_gradients


def scaled_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    weight_scale: float,
    bias_scale: float = 1.0,
    resample: str = "none",
    negative_slope: float | None = None,
    pixel_norm: str = "none",
    eps: float = 1e-8,
    eps_mode: str = "inside",
    backend: str | None = None,
) -> Tensor:
    """Equalised-learning-rate convolution with bias, leaky ReLU, pixel norm and resampling, fused.

    Args:
        x: [N, Cin, H, W], any strides (channels_last is the fast layout and is kept).
        weight: [C, Cin, k, k], k in {1, 3}; x's dtype, or float32 beside half-precision x (rounded once, after
            scaling and phase sums).
        bias: [C], dtype as for weight.
        weight_scale, bias_scale: Python floats that multiply weight and bias at run time.
        resample: "up" repeats x 2x2 before the convolution; "down" averages 2x2 before the bias (official
            discriminator); "pool" averages 2x2 after the activation (most PyTorch ports). "down" is not "pool".
        negative_slope, pixel_norm, eps, eps_mode, backend: see `bias_act`.
    Returns:
        [N, C, H', W'] in x's dtype (autocast's under autocast), H' = 2H for "up", H / 2 for "down" and "pool".
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, sections 4.1 and 4.2; with fewer products: csrc/cpu/forms.h for the
        CPU, exact 4x4 stride-2 forms elsewhere.
    """
    args = x, weight, bias, weight_scale, bias_scale, resample, negative_slope, pixel_norm, eps, eps_mode
    if (out := _again(args, backend)) is not None:
        y: Tensor = out[0]
        return y
    x = _autocast.lowered(x)
    weight, bias = _autocast.parameter(weight, x), _autocast.parameter(bias, x)
    _check(x, weight, bias, weight_scale, bias_scale, resample, negative_slope, pixel_norm, eps, eps_mode)
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        return reference.scaled_conv2d(
            x, weight, bias, weight_scale=weight_scale, bias_scale=bias_scale, resample=resample,
            negative_slope=negative_slope, pixel_norm=pixel_norm, eps=eps, eps_mode=eps_mode,
        )  # fmt: skip
    y = apply(x, weight, bias, weight_scale, bias_scale, resample, negative_slope, pixel_norm, eps, eps_mode, chosen)
    if one_node(resample, negative_slope, pixel_norm):
        _again.learn_choice(args, args, chosen)
    return y


@_checks.once(tensors=3)
def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: float,
    bias_scale: float,
    resample: str,
    negative_slope: float | None,
    pixel_norm: str,
    eps: float,
    eps_mode: str,
) -> None:
    _checks.tensor("x", x, (4,))
    _checks.pixels("x", x)
    _checks.conv_weight("weight", weight, x)
    _checks.bias("bias", bias, weight.shape[0], x)
    _checks.finite(weight_scale=weight_scale, bias_scale=bias_scale)
    _checks.one_of("resample", resample, ("none", "up", "down", "pool"))
    _checks.epilogue(negative_slope, pixel_norm, eps, eps_mode)
    if resample in ("down", "pool"):
        _checks.even("x", x, f'resample="{resample}"')


_again = AgainOp("scaled_conv2d", "scaled_conv2d_forward", tensors=3)


def one_node(resample: str, slope: float | None, norm: str) -> bool:
    """Whether a layer is one call of the registered op."""
    return norm == "none" or (resample != "pool" and not activation_apart(slope, norm))


def apply(
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
    backend: str,
) -> Tensor:
    """The registered op on checked arguments, less r and mask."""
    weight = unfrozen(weight)
    if one_node(resample, slope, norm):
        y: Tensor = scaled_conv2d_forward(
            x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode, backend
        )[0]
        return y
    # Two compositions, whose backward needs what one output has lost: a pool after a norm, and relu after a norm.
    pool_after, act_after = resample == "pool", activation_apart(slope, norm)
    inner, conv_slope = "none" if pool_after else resample, None if act_after else slope
    y = scaled_conv2d_forward(
        x, weight, bias, weight_scale, bias_scale, inner, conv_slope, norm, eps, eps_mode, backend
    )[0]
    y = F.leaky_relu(y, slope or 0.0) if act_after else y
    return layout.conform(reference.down2(y), y) if pool_after else y


def _fake(
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
    pool = resample == "pool"
    shape = layout.output_shape(x, weight, "none" if pool else resample, False)
    u = layout.empty(shape, x, layout.is_channels_last(x))
    return forward_fake(u, bias, 1.0, bias_scale, slope, norm, eps, eps_mode, pool)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, weight, bias, *config = inputs
    ctx.config = None if bias is None else bias.dtype, *config
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, *output)


def _backward(ctx: Any, dy: Tensor | None, dr: Tensor | None, dmask: None) -> tuple[Any, ...]:
    if dy is None and dr is None:  # the primal chain of a gradient penalty: nothing flows back
        return (None,) * 11
    x, weight, *saved = ctx.saved_tensors
    bias_dtype, *config, backend = ctx.config
    dy = torch.zeros_like(saved[0]) if dy is None else dy
    # y, r and mask are what x and weight made of them
    args = dy, x, weight, *config, *wanted(ctx, 0, 1, 2)
    plain = type(saved[0]) is Tensor and not torch.compiler.is_compiling()
    simple = plain and dr is None and not torch.is_grad_enabled()
    run = _backward_again.find(args, backend) if simple else None
    dx, dw, db = _gradients(args, dr, saved, backend, simple) if run is None else run(dy, x, weight, *saved)
    return dx, dw, db if db is None or db.dtype == bias_dtype else db.to(bias_dtype), *(None,) * 8


_backward_again = Again("scaled_conv2d_backward", tensors=3)


def _gradients(args: tuple[Any, ...], dr: Tensor | None, saved: list[Any], backend: str, simple: bool) -> Gradients:
    """(dx, dw, db), those needed. `simple`: without dr, and nobody differentiates them again."""
    dy, x, weight, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode, *needs = args
    need_x, need_weight, need_bias = needs
    on_weight, on_epilogue = split_scale_backward(weight_scale, x.dtype)
    pool = resample == "pool"
    epilogue = dy, dr, *saved, on_epilogue, bias_scale, slope, norm, eps, eps_mode, pool, need_bias
    du, db = bias_act_backward(*epilogue, backend)
    conv = x, du, weight, on_weight, "none" if pool else resample, backend, need_x, need_weight
    dx, dw = gradients(*conv)
    if simple:
        _backward_again.learn(args, backend, _joined(epilogue, conv, backend))
    return dx, dw, db


def _joined(epilogue: tuple[Any, ...], conv: tuple[Any, ...], backend: str) -> Callable[..., Gradients] | None:
    """What runs for these, for other tensors of the same kinds; None where it has to be chosen every time."""
    chosen, found = known("bias_act_backward", epilogue, backend), known_gradients(*conv)
    if chosen is None or found is None:
        return None
    if (ways := (chosen.way, found.way)) in LAYER_BACKWARD:
        *_, need_x, need_weight = conv
        at_once = LAYER_BACKWARD[ways](epilogue, found.on_x, found.on_weight, need_x, need_weight)
        if at_once is not None:
            return at_once
    run_epilogue, scalars, run_conv = chosen.run, epilogue[5:], found.plan()

    def run(dy: Tensor, x: Tensor, weight: Tensor, y: Tensor, r: Tensor | None, mask: Tensor | None) -> Gradients:
        du, db = run_epilogue(dy, None, y, r, mask, *scalars)
        return *run_conv(x, du, weight), db

    return run


scaled_conv2d_forward = register(
    "scaled_conv2d_forward(Tensor x, Tensor weight, Tensor? bias, float weight_scale, float bias_scale, str resample, "
    "float? slope, str norm, float eps, str eps_mode, str backend) -> (Tensor y, Tensor? r, Tensor? mask)",
    _fake,
    _setup,
    _backward,
)
