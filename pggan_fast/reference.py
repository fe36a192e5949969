"""The specification: every op of the library in plain PyTorch, exact to the official semantics.

Differentiable to any order, on any device and dtype; float64 here is what every other implementation is compared with.
Tensors are [N, C, H, W] (or [N, C] where said). Channel statistics are accumulated in float32 at least: in half
precision x^2 overflows at |x| > 255 and eps = 1e-8 rounds to zero.

Source: Karras et al. 2017 (arXiv 1710.10196), sections 3 (minibatch stddev), 4.1 (equalised learning rate),
4.2 (pixelwise normalisation), appendix A (fade-in).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def up2(x: Tensor) -> Tensor:
    """Nearest-neighbour x2 in height and width."""
    if x.numel() == 0:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.interpolate(x, scale_factor=2, mode="nearest")


def down2(x: Tensor) -> Tensor:
    """Mean of 2x2 blocks."""
    if x.numel() == 0:
        return x[:, :, ::2, ::2].clone()
    return F.avg_pool2d(x, 2)


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
) -> Tensor:
    """Equalised-learning-rate convolution with the layer around it; weight [C, Cin, k, k], k in {1, 3}.

    `u = conv2d(x, weight_scale * weight, padding=k//2)`, then bias, leaky ReLU and pixel norm. Resampling:
    "up" repeats x before the convolution, "down" averages 2x2 before the bias, "pool" averages after everything.
    """
    if resample == "up":
        x = up2(x)
    w = (weight * weight_scale).to(x.dtype)
    b = None if bias is None else (bias * bias_scale).to(x.dtype)
    u = F.conv2d(x, w, b, padding=weight.shape[2] // 2)
    if resample == "down":  # the mean of u + bias is the mean of u, plus bias
        u = down2(u)
    y = bias_act(u, negative_slope=negative_slope, pixel_norm=pixel_norm, eps=eps, eps_mode=eps_mode)
    return down2(y) if resample == "pool" else y


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    bias_scale: float = 1.0,
    negative_slope: float | None = None,
    pixel_norm: str = "none",
    eps: float = 1e-8,
    eps_mode: str = "inside",
) -> Tensor:
    """`v = scale * x + bias_scale * bias` over dim 1, leaky ReLU, and pixel norm before or after the activation."""
    v = x if scale == 1.0 else x * scale
    if bias is not None:
        v = v + (bias * bias_scale).to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
    if pixel_norm == "before_act":
        v = _normalise(v, eps, eps_mode)
    if negative_slope is not None:
        v = F.leaky_relu(v, negative_slope)
    return _normalise(v, eps, eps_mode) if pixel_norm == "after_act" else v


def _normalise(x: Tensor, eps: float, eps_mode: str) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if eps_mode == "inside":
        r = torch.rsqrt(wide.square().mean(dim=1, keepdim=True) + eps)
    else:  # vector_norm has the subgradient 0 at zero, where sqrt has NaN
        r = 1.0 / (torch.linalg.vector_norm(wide, dim=1, keepdim=True) / x.shape[1] ** 0.5 + eps)
    return (wide * r).to(x.dtype)


def scaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    weight_scale: float,
    bias_scale: float = 1.0,
    negative_slope: float | None = None,
    pixel_norm: str = "none",
    eps: float = 1e-8,
) -> Tensor:
    """Equalised-learning-rate dense layer: x [N, K], weight [C, K] -> [N, C]."""
    u = F.linear(x, (weight * weight_scale).to(x.dtype))
    return bias_act(u, bias, bias_scale=bias_scale, negative_slope=negative_slope, pixel_norm=pixel_norm, eps=eps)


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """`x * rsqrt(mean_c(x^2) + eps)` for x [N, C, H, W] or [N, C] (section 4.2)."""
    return _normalise(x, eps, "inside")


def _weight_of(alpha: float | Tensor, like: Tensor) -> Tensor:
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.as_tensor(alpha, dtype=wide, device=like.device).clamp(0.0, 1.0)


def _blend(low: Tensor, high: Tensor, alpha: float | Tensor) -> Tensor:
    a = _weight_of(alpha, high)
    return (low.to(a.dtype) * (1.0 - a) + high.to(a.dtype) * a).to(high.dtype)


def fade_in(low: Tensor, high: Tensor, alpha: float | Tensor) -> Tensor:
    """`(1 - alpha) * low + alpha * high`; `low` at half the size is nearest-upsampled first. alpha is clamped."""
    return _blend(up2(low) if low.shape[2:] != high.shape[2:] else low, high, alpha)


def fade_reals(image: Tensor, alpha: float | Tensor) -> Tensor:
    """Real images faded as G's are: `(1 - alpha) * up2(down2(image)) + alpha * image`."""
    return _blend(up2(down2(image)), image, alpha)


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
) -> Tensor:
    """G's output while fading: both resolutions' features to RGB by 1x1 convolutions, blended in RGB."""
    low = scaled_conv2d(x_low, w_low, b_low, weight_scale=weight_scale_low, bias_scale=bias_scale_low)
    high = scaled_conv2d(x_high, w_high, b_high, weight_scale=weight_scale_high, bias_scale=bias_scale_high)
    return fade_in(low, high, alpha)


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
) -> Tensor:
    """D's features while fading: `(1-alpha) * lrelu(conv1x1(down2(image)) + bias) + alpha * high`."""
    low = scaled_conv2d(
        down2(image), w_low, b_low, weight_scale=weight_scale, bias_scale=bias_scale, negative_slope=negative_slope
    )
    return fade_in(low, high, alpha)


Layer = tuple[Tensor, Tensor | None, float, float]  # weight, bias, and the scales of both


def generator_stage(
    x: Tensor,
    conv_up: Layer,
    conv: Layer,
    to_rgb: Layer | None = None,
    to_rgb_low: Layer | None = None,
    alpha: float | Tensor = 1.0,
    *,
    negative_slope: float | None = 0.2,
    pixel_norm: str = "after_act",
    eps: float = 1e-8,
    eps_mode: str = "inside",
) -> Tensor:
    """G's block on the features of the level below, and the image that it shows, blended with that of x."""
    y = _scaled(x, conv_up, "up", negative_slope, pixel_norm, eps, eps_mode)
    y = _scaled(y, conv, "none", negative_slope, pixel_norm, eps, eps_mode)
    if to_rgb is None:
        return y
    image = _scaled(y, to_rgb)
    return image if to_rgb_low is None else fade_in(_scaled(x, to_rgb_low), image, alpha)


def discriminator_stem(image: Tensor, from_rgb: Layer, conv: Layer, *, negative_slope: float | None = 0.2) -> Tensor:
    """D's first two layers: `lrelu(conv(lrelu(from_rgb(image))))`."""
    return _scaled(_scaled(image, from_rgb, "none", negative_slope), conv, "none", negative_slope)


def _scaled(
    x: Tensor,
    layer: Layer,
    resample: str = "none",
    negative_slope: float | None = None,
    pixel_norm: str = "none",
    eps: float = 1e-8,
    eps_mode: str = "inside",
) -> Tensor:
    weight, bias, weight_scale, bias_scale = layer
    return scaled_conv2d(
        x,
        weight,
        bias,
        weight_scale=weight_scale,
        bias_scale=bias_scale,
        resample=resample,
        negative_slope=negative_slope,
        pixel_norm=pixel_norm,
        eps=eps,
        eps_mode=eps_mode,
    )


def minibatch_stddev(
    x: Tensor, group_size: int = 4, *, grouping: str = "strided", unbiased: bool = False, eps: float = 1e-8
) -> Tensor:
    """Append one map: the standard deviation over each group of samples, averaged over channels and pixels (section 3).

    x [N, C, H, W] -> [N, C + 1, H, W]. Groups have min(group_size, N) samples; sample n belongs to group n mod M
    ("strided", official) or n // group ("adjacent", some ports), M being the number of groups.
    """
    n, _, h, w = x.shape
    if n == 0:
        return torch.cat([x, x.new_empty(0, 1, h, w)], dim=1)
    group = min(group_size, n)
    y = split_groups(x.to(torch.promote_types(x.dtype, torch.float32)), group, grouping)
    y = y - y.mean(dim=0)  # [group, M, C, H, W]
    variance = y.square().sum(dim=0) / (group - 1 if unbiased else group)
    v = (variance + eps).sqrt().mean(dim=(1, 2, 3))  # [M]
    v = merge_groups(v.expand(group, -1), grouping)  # [N]
    return torch.cat([x, v.to(x.dtype).view(n, 1, 1, 1).expand(n, 1, h, w)], dim=1)


def split_groups(x: Tensor, group: int, grouping: str) -> Tensor:
    """[N, ...] -> [group, M, ...], M = N / group: the members of the M groups of samples."""
    m = x.shape[0] // group
    if grouping == "strided":
        return x.reshape(group, m, *x.shape[1:])
    return x.reshape(m, group, *x.shape[1:]).transpose(0, 1)


def merge_groups(y: Tensor, grouping: str) -> Tensor:
    """The inverse of `split_groups`."""
    return (y if grouping == "strided" else y.transpose(0, 1)).reshape(-1, *y.shape[2:])
