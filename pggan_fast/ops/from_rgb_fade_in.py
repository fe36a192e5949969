"""from_rgb_fade_in: the discriminator's features while a resolution fades in.

    y = (1 - alpha) * leaky_relu(conv1x1(down2(image)) + bias) + alpha * high

The blend hides the activation's sign, so the forward saves one bit per element. Backward is the family again:
`fade_in_backward`, the masked epilogue, and the 1x1 convolution with "down" (the mean commutes with it).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.backends.precision import split_scale_backward
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._autograd import needs_reference, wanted
from pggan_fast.ops._register import register
from pggan_fast.ops.bias_act import bias_act_backward, mask_shape
from pggan_fast.ops.conv import input_grad, weight_grad
from pggan_fast.ops.fade_in import fade_in_backward


def from_rgb_fade_in(
    image: Tensor,
    high: Tensor,
    w_low: Tensor,
    b_low: Tensor | None,
    alpha: float | Tensor,
    *,
    weight_scale: float,
    bias_scale: float = 1.0,
    negative_slope: float = 0.2,
    backend: str | None = None,
) -> Tensor:
    """The old resolution's fromRGB of the halved image, blended with the new block's features.

    Args:
        image: [N, K, 2H, 2W]; high: [N, C, H, W], same dtype.
        w_low: [C, K, 1, 1]; b_low: [C] or None; scales and slope as for `scaled_conv2d`.
        alpha: a float or a 0-d tensor on the device, clamped to [0, 1]; not differentiable.
    Returns:
        [N, C, H, W] in the features' dtype (autocast's under autocast); sums are float32 at least.
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, figure 2; the official discriminator blends features, after fromRGB's leaky ReLU.
    """
    image, high = _autocast.lowered(image), _autocast.lowered(high)
    w_low, b_low = _autocast.parameter(w_low, image), _autocast.parameter(b_low, image)
    _checks.tensor("image", image, (4,))
    _checks.tensor("high", high, (4,), image)
    _checks.same_dtype("high", high, "image", image)
    _checks.conv_weight("w_low", w_low, image, "image", (1,))
    n, _, h, w = image.shape
    _checks.even("image", image, "from_rgb_fade_in")
    expected = (n, w_low.shape[0], h // 2, w // 2)
    if tuple(high.shape) != expected:
        raise ValueError(f"high: expected {expected} for this image and weight, got {tuple(high.shape)}")
    _checks.bias("b_low", b_low, w_low.shape[0], image, "image")
    _checks.finite(weight_scale=weight_scale, bias_scale=bias_scale, negative_slope=negative_slope)
    _checks.epilogue(negative_slope, "none", 0.0, "inside")
    a = _checks.alpha(alpha, image)
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        return reference.from_rgb_fade_in(
            image, high, w_low, b_low, a, weight_scale=weight_scale, bias_scale=bias_scale,
            negative_slope=negative_slope,
        )  # fmt: skip
    y: Tensor = _forward(image, high, w_low, b_low, a, weight_scale, bias_scale, negative_slope, chosen)[0]
    return y


def _fake(image: Tensor, high: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    channels_last = layout.is_channels_last(image)
    mask = layout.empty(mask_shape(*high.shape), image, channels_last, torch.uint8)
    return layout.empty(high.shape, image, channels_last), mask


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, _, w_low, b_low, alpha, ctx.weight_scale, ctx.bias_scale, ctx.slope, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.bias_dtype = None if b_low is None else b_low.dtype
    ctx.save_for_backward(image, w_low, alpha, output[1])


def _backward(ctx: Any, dy: Tensor | None, dmask: None) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 9
    image, w_low, alpha, mask = ctx.saved_tensors
    on_weight, on_epilogue = split_scale_backward(ctx.weight_scale, image.dtype)
    dlow, dhigh = fade_in_backward(dy, alpha, False, ctx.backend)
    need_image, need_weight, need_bias = wanted(ctx, 0, 2, 3)
    epilogue = on_epilogue, ctx.bias_scale, ctx.slope, "none", 0.0, "inside", False
    du, db = bias_act_backward(dlow, None, dlow, None, mask, *epilogue, need_bias, ctx.backend)
    dimage = dw = None
    if need_image:
        dimage = input_grad(du, w_low, on_weight, "down", ctx.backend)
    if need_weight:
        dw = weight_grad(image, du, on_weight, "down", w_low, ctx.backend)
    return dimage, dhigh, dw, None if db is None else db.to(ctx.bias_dtype), *(None,) * 5


_forward = register(
    "from_rgb_fade_in_forward(Tensor image, Tensor high, Tensor w, Tensor? b, Tensor alpha, float weight_scale, "
    "float bias_scale, float slope, str backend) -> (Tensor y, Tensor mask)",
    _fake,
    _setup,
    _backward,
)
