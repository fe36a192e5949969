"""to_rgb_fade_in: the generator's output while a resolution fades in, in one pass over both feature maps.

    image = (1 - alpha) * up2(conv1x1(x_low)) + alpha * conv1x1(x_high)

Backward splits dy by `fade_in_backward` and goes on with the convolution family: the RGB gradients are small.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._autograd import needs_reference, wanted
from pggan_fast.ops._register import register
from pggan_fast.ops.conv import input_grad, weight_grad
from pggan_fast.ops.fade_in import fade_in_backward


def to_rgb_fade_in(
    x_low: Tensor,
    x_high: Tensor,
    w_low: Tensor,
    b_low: Tensor | None,
    w_high: Tensor,
    b_high: Tensor | None,
    alpha: float | Tensor,
    *,
    weight_scale_low: float,
    weight_scale_high: float,
    bias_scale_low: float = 1.0,
    bias_scale_high: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """Both resolutions' features to images by linear 1x1 convolutions, blended: `fade_in(to_rgb(low), to_rgb(high))`.

    Args:
        x_low: [N, C_low, H / 2, W / 2]; x_high: [N, C_high, H, W], same dtype.
        w_low: [K, C_low, 1, 1]; w_high: [K, C_high, 1, 1], K image channels; b_low, b_high: [K] or None.
        alpha: a float or a 0-d tensor on the device, clamped to [0, 1]; not differentiable.
    Returns:
        [N, K, H, W] in the features' dtype (autocast's under autocast); sums are float32 at least.
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, figure 2; the official generator blends in RGB, after toRGB.
    """
    x_low, x_high = _autocast.lowered(x_low), _autocast.lowered(x_high)
    w_low, b_low, w_high, b_high = (_autocast.parameter(p, x_high) for p in (w_low, b_low, w_high, b_high))
    _check_tensors(x_low, x_high, w_low, b_low, w_high, b_high)
    scales = (weight_scale_low, weight_scale_high, bias_scale_low, bias_scale_high)
    _checks.finite(
        weight_scale_low=scales[0], weight_scale_high=scales[1], bias_scale_low=scales[2], bias_scale_high=scales[3]
    )
    a = _checks.alpha(alpha, x_high)
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        return reference.to_rgb_fade_in(
            x_low, x_high, w_low, b_low, w_high, b_high, a, weight_scale_low=weight_scale_low,
            weight_scale_high=weight_scale_high, bias_scale_low=bias_scale_low, bias_scale_high=bias_scale_high,
        )  # fmt: skip
    image: Tensor = _forward(x_low, x_high, w_low, b_low, w_high, b_high, a, *scales, chosen)
    return image


def _check_tensors(
    x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor | None, w_high: Tensor, b_high: Tensor | None
) -> None:
    _checks.tensor("x_high", x_high, (4,))
    _checks.tensor("x_low", x_low, (4,), x_high)
    _checks.same_dtype("x_low", x_low, "x_high", x_high)
    n, _, h, w = x_high.shape
    if x_low.shape[0] != n or (2 * x_low.shape[2], 2 * x_low.shape[3]) != (h, w):
        raise ValueError(f"x_low: expected batch {n} and half of x_high's {h}x{w}, got shape {tuple(x_low.shape)}")
    _checks.conv_weight("w_low", w_low, x_low, "x_low", (1,))
    _checks.conv_weight("w_high", w_high, x_high, "x_high", (1,))
    if w_low.shape[0] != w_high.shape[0]:
        raise ValueError(f"w_low: expected {w_high.shape[0]} output channels as w_high has, got {w_low.shape[0]}")
    _checks.bias("b_low", b_low, w_low.shape[0], x_low, "x_low")
    _checks.bias("b_high", b_high, w_high.shape[0], x_high, "x_high")


def _fake(x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor | None, w_high: Tensor, *rest: Any) -> Tensor:
    n, _, h, w = x_high.shape
    return layout.empty((n, w_high.shape[0], h, w), x_high, layout.is_channels_last(x_low))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x_low, x_high, w_low, b_low, w_high, b_high, alpha, *ctx.scales, ctx.backend = inputs
    ctx.bias_dtypes = [None if b is None else b.dtype for b in (b_low, b_high)]
    ctx.save_for_backward(x_low, x_high, w_low, w_high, alpha)


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x_low, x_high, w_low, w_high, alpha = ctx.saved_tensors
    split = fade_in_backward(dy, alpha, True, ctx.backend)
    dx: list[Tensor | None] = []
    dparameters: list[Tensor | None] = []
    needs = wanted(ctx, *range(6), data=2)
    for i, (x, w) in enumerate(((x_low, w_low), (x_high, w_high))):
        weight_scale, bias_scale = ctx.scales[i], ctx.scales[2 + i]
        dx.append(input_grad(split[i], w, weight_scale, "none", ctx.backend) if needs[i] else None)
        dparameters.append(weight_grad(x, split[i], weight_scale, "none", w, ctx.backend) if needs[2 + 2 * i] else None)
        wide = split[i].to(layout.accumulator(dy.dtype))
        db = (wide.sum(dim=(0, 2, 3)) * bias_scale).to(ctx.bias_dtypes[i]) if needs[3 + 2 * i] else None
        dparameters.append(db)
    return *dx, *dparameters, *(None,) * 6


_forward = register(
    "to_rgb_fade_in_forward(Tensor x_low, Tensor x_high, Tensor w_low, Tensor? b_low, Tensor w_high, Tensor? b_high, "
    "Tensor alpha, float weight_scale_low, float weight_scale_high, float bias_scale_low, float bias_scale_high, "
    "str backend) -> Tensor",
    _fake,
    _setup,
    _backward,
)
