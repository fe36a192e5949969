"""Fades, RGB layers and the minibatch stddev of the backend "aten", in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import layout
from pggan_fast.backends.aten.conv import conv
from pggan_fast.backends.aten.epilogue import bias_act_forward, pack_bits
from pggan_fast.backends.precision import split_scale
from pggan_fast.backends.registry import implement
from pggan_fast.reference import down2, merge_groups, split_groups, up2


def _blend(low: Tensor, high: Tensor, alpha: Tensor) -> Tensor:
    """Wide (1 - a) * low + a * high; 0 * NaN of an excluded side included, as in plain PyTorch."""
    a = alpha.clamp(0.0, 1.0).to(layout.accumulator(high.dtype))
    return low.to(a.dtype) * (1.0 - a) + high.to(a.dtype) * a


@implement("aten", "fade_in_forward")
def fade_in_forward(low: Tensor, high: Tensor, alpha: Tensor) -> Tensor:
    up = up2(low) if low.shape[2] != high.shape[2] else low
    return layout.conform(_blend(up, high, alpha).to(high.dtype), low)


@implement("aten", "fade_in_backward")
def fade_in_backward(dy: Tensor, alpha: Tensor, up: bool) -> tuple[Tensor, Tensor]:
    a = alpha.clamp(0.0, 1.0).to(layout.accumulator(dy.dtype))
    wide = dy.to(a.dtype)
    dlow = (down2(wide) * 4.0 if up else wide) * (1.0 - a)
    return layout.conform(dlow.to(dy.dtype), dy), layout.conform((wide * a).to(dy.dtype), dy)


@implement("aten", "fade_reals")
def fade_reals(image: Tensor, alpha: Tensor) -> Tensor:
    wide = image.to(layout.accumulator(image.dtype))
    return layout.conform(_blend(up2(down2(wide)), wide, alpha).to(image.dtype), image)


@implement("aten", "to_rgb_fade_in_forward")
def to_rgb_fade_in_forward(
    x_low: Tensor,
    x_high: Tensor,
    w_low: Tensor,
    b_low: Tensor | None,
    w_high: Tensor,
    b_high: Tensor | None,
    alpha: Tensor,
    weight_scale_low: float,
    weight_scale_high: float,
    bias_scale_low: float,
    bias_scale_high: float,
) -> Tensor:
    images = []
    for x, w, b, weight_scale, bias_scale in (
        (x_low, w_low, b_low, weight_scale_low, bias_scale_low),
        (x_high, w_high, b_high, weight_scale_high, bias_scale_high),
    ):
        image = conv(x, w, weight_scale, "none", False)
        images.append(bias_act_forward(image, b, 1.0, bias_scale, None, "none", 0.0, "inside", False)[0])
    return layout.conform(_blend(up2(images[0]), images[1], alpha).to(x_high.dtype), x_low)


@implement("aten", "from_rgb_fade_in_forward")
def from_rgb_fade_in_forward(
    image: Tensor,
    high: Tensor,
    w: Tensor,
    b: Tensor | None,
    alpha: Tensor,
    weight_scale: float,
    bias_scale: float,
    slope: float,
) -> tuple[Tensor, Tensor]:
    on_weight, on_epilogue = split_scale(weight_scale, image.dtype)
    u = conv(image, w, on_weight, "down", False)
    v = bias_act_forward(u, b, on_epilogue, bias_scale, None, "none", 0.0, "inside", False)[0]
    y = _blend(F.leaky_relu(v, slope), high, alpha).to(high.dtype)
    return layout.conform(y, image), layout.conform(pack_bits(v > 0), image)


@implement("aten", "minibatch_stddev_forward")
def minibatch_stddev_forward(x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    return layout.conform(reference.minibatch_stddev(x, group, grouping=grouping, unbiased=unbiased, eps=eps), x)


@implement("aten", "minibatch_stddev_backward")
def minibatch_stddev_backward(dy: Tensor, x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    n, c, h, w = x.shape
    if n == 0:
        return layout.conform(torch.zeros_like(x), dy)
    wide = layout.accumulator(x.dtype)
    d = split_groups(x.to(wide), group, grouping)
    d = d - d.mean(dim=0)  # [group, M, C, H, W]
    divisor = group - 1 if unbiased else group
    s = (d.square().sum(dim=0) / divisor + eps).sqrt()  # [M, C, H, W]
    q = split_groups(dy[:, c].to(wide), group, grouping).sum(dim=(0, 2, 3)) / (divisor * c * h * w)  # [M]
    dx = dy[:, :c].to(wide) + merge_groups(q.view(-1, 1, 1, 1) * d / s, grouping)
    return layout.conform(dx.to(x.dtype), dy)
