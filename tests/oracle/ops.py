"""Float64 numpy forms of every op. Arrays are [N, C, H, W] or [N, C]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def conv2d(x: npt.ArrayLike, w: npt.ArrayLike) -> Array:
    """Cross-correlation with zero padding k//2: out[n,o,i,j] = sum_{c,a,b} w[o,c,a,b] * x[n,c,i+a-p,j+b-p]."""
    x, w = f64(x), f64(w)
    n, _, height, width = x.shape
    out_channels, _, k, _ = w.shape
    p = k // 2
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    out = np.zeros((n, out_channels, height, width))
    for a in range(k):
        for b in range(k):
            out += mix_channels(w[:, :, a, b], padded[:, :, a : a + height, b : b + width])
    return out


def up2(x: npt.ArrayLike) -> Array:
    """Nearest neighbour: out[2i+a, 2j+b] = x[i, j] for a, b in {0, 1}."""
    x = f64(x)
    out = np.empty((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    for a in range(2):
        for b in range(2):
            out[:, :, a::2, b::2] = x
    return out


def down2(x: npt.ArrayLike) -> Array:
    """Mean of each 2x2 square; sizes must be even."""
    x = f64(x)
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"down2 needs even sizes, got {x.shape[2:]}")
    return (x[:, :, 0::2, 0::2] + x[:, :, 0::2, 1::2] + x[:, :, 1::2, 0::2] + x[:, :, 1::2, 1::2]) / 4.0


def box_sum(w: npt.ArrayLike) -> Array:
    """S(w): a 3x3 kernel zero-padded to 5x5, then the sum of its four 4x4 windows. [O, I, 3, 3] -> [O, I, 4, 4]."""
    p = np.pad(f64(w), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return p[:, :, 1:, 1:] + p[:, :, :-1, 1:] + p[:, :, 1:, :-1] + p[:, :, :-1, :-1]


def conv_transpose_stride2(x: npt.ArrayLike, kernel: npt.ArrayLike) -> Array:
    """Scatter form, stride 2, padding 1, kernel [O, I, 4, 4]: out[2i+a-1, 2j+b-1] += kernel[a, b] * x[i, j]."""
    x, kernel = f64(x), f64(kernel)
    n, _, height, width = x.shape
    full = np.zeros((n, kernel.shape[0], 2 * height + 2, 2 * width + 2))
    for a in range(4):
        for b in range(4):
            full[:, :, a : a + 2 * height : 2, b : b + 2 * width : 2] += mix_channels(kernel[:, :, a, b], x)
    return full[:, :, 1:-1, 1:-1]


def conv_stride2(x: npt.ArrayLike, kernel: npt.ArrayLike) -> Array:
    """Gather form, stride 2, padding 1, 4x4 kernel [O, I, 4, 4]: out[i, j] = sum kernel[a, b] * x[2i+a-1, 2j+b-1]."""
    x, kernel = f64(x), f64(kernel)
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, kernel.shape[0], height // 2, width // 2))
    for a in range(4):
        for b in range(4):
            out += mix_channels(kernel[:, :, a, b], padded[:, :, a : a + height : 2, b : b + width : 2])
    return out


def conv_up_fused(x: npt.ArrayLike, w: npt.ArrayLike) -> Array:
    """up2 followed by conv2d in the official fused form. The 3x3 kernel has to be flipped first."""
    return conv_transpose_stride2(x, box_sum(f64(w)[:, :, ::-1, ::-1]))


def conv_down_fused(x: npt.ArrayLike, w: npt.ArrayLike) -> Array:
    """conv2d followed by a 2x2 mean in the official fused form."""
    return conv_stride2(x, box_sum(w) / 4.0)


def lrelu(v: npt.ArrayLike, slope: float | None) -> Array:
    """v where v > 0, slope * v elsewhere; a slope of None is the identity."""
    v = f64(v)
    return v if slope is None else np.where(v > 0, v, slope * v)


def pixel_norm(x: npt.ArrayLike, eps: float = 1e-8, eps_mode: str = "inside") -> Array:
    """x / sqrt(mean_c x^2 + eps), or x / (sqrt(mean_c x^2) + eps) when eps is outside of the root."""
    x = f64(x)
    mean_square = sum(x[:, c] ** 2 for c in range(x.shape[1])) / x.shape[1]  # [N, H, W] or [N]
    root = np.sqrt(mean_square + eps) if eps_mode == "inside" else np.sqrt(mean_square) + eps
    return x / root[:, None]


def bias_act(
    x: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    scale: float = 1.0,
    bias_scale: float = 1.0,
    negative_slope: float | None = None,
    pixel_norm: str = "none",
    eps: float = 1e-8,
    eps_mode: str = "inside",
) -> Array:
    """scale * x + bias_scale * bias[c], leaky ReLU, with a pixel norm after it, before it, or not at all."""
    v = scale * f64(x)
    if bias is not None:
        v = v + bias_scale * f64(bias).reshape(1, -1, *[1] * (v.ndim - 2))
    if pixel_norm == "before_act":
        return lrelu(_pixel_norm(v, eps, eps_mode), negative_slope)
    y = lrelu(v, negative_slope)
    return _pixel_norm(y, eps, eps_mode) if pixel_norm == "after_act" else y


_pixel_norm = pixel_norm  # the keyword `pixel_norm` of bias_act hides the function of that name


def scaled_conv2d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    weight_scale: float,
    resample: str = "none",
    fused: bool = False,
    **epilogue: Any,
) -> Array:
    """Convolution by weight_scale * weight, resampled, then bias_act. `fused` takes the S(w) way where there is one."""
    w = weight_scale * f64(weight)
    if resample == "up":
        u = conv_up_fused(x, w) if fused else conv2d(up2(x), w)
    elif resample == "down":  # official D: the mean is taken before bias and activation
        u = conv_down_fused(x, w) if fused else down2(conv2d(x, w))
    else:
        u = conv2d(x, w)
    y = bias_act(u, bias, **epilogue)
    return down2(y) if resample == "pool" else y


def scaled_linear(
    x: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None, *, weight_scale: float, **epilogue: Any
) -> Array:
    """out[n, o] = weight_scale * sum_i weight[o, i] * x[n, i], then bias_act."""
    return bias_act(mix_channels(weight_scale * f64(weight), f64(x)), bias, **epilogue)


def fade_in(low: npt.ArrayLike, high: npt.ArrayLike, alpha: float) -> Array:
    """(1 - alpha) * low + alpha * high; low is nearest-upsampled when it has half the size."""
    low, high = f64(low), f64(high)
    a = min(max(float(alpha), 0.0), 1.0)
    return (1.0 - a) * (low if low.shape == high.shape else up2(low)) + a * high


def fade_reals(image: npt.ArrayLike, alpha: float) -> Array:
    return fade_in(down2(image), image, alpha)


def to_rgb_fade_in(
    x_low: npt.ArrayLike,
    x_high: npt.ArrayLike,
    w_low: npt.ArrayLike,
    b_low: npt.ArrayLike | None,
    w_high: npt.ArrayLike,
    b_high: npt.ArrayLike | None,
    alpha: float,
    *,
    weight_scale_low: float,
    weight_scale_high: float,
    bias_scale_low: float = 1.0,
    bias_scale_high: float = 1.0,
) -> Array:
    """G: both levels become images first, then they are blended."""
    low = scaled_conv2d(x_low, w_low, b_low, weight_scale=weight_scale_low, bias_scale=bias_scale_low)
    high = scaled_conv2d(x_high, w_high, b_high, weight_scale=weight_scale_high, bias_scale=bias_scale_high)
    return fade_in(low, high, alpha)


def from_rgb_fade_in(
    image: npt.ArrayLike,
    high: npt.ArrayLike,
    w_low: npt.ArrayLike,
    b_low: npt.ArrayLike | None,
    alpha: float,
    *,
    weight_scale: float,
    bias_scale: float = 1.0,
    negative_slope: float | None = 0.2,
) -> Array:
    """D: the shrunken image through the old fromRGB and its activation, blended with the new block's features."""
    low = scaled_conv2d(
        down2(image), w_low, b_low, weight_scale=weight_scale, bias_scale=bias_scale, negative_slope=negative_slope
    )
    return fade_in(low, high, alpha)


def group_of(n: int, groups: int, group: int, grouping: str) -> int:
    """The group of sample n: official n mod M, or neighbours as in several ports."""
    return n % groups if grouping == "strided" else n // group


def minibatch_stddev(
    x: npt.ArrayLike, group_size: int = 4, *, grouping: str = "strided", unbiased: bool = False, eps: float = 1e-8
) -> Array:
    """[N, C, H, W] -> [N, C+1, H, W]: one constant map per sample, the mean deviation of the sample's group."""
    x = f64(x)
    n, channels, height, width = x.shape
    group = min(group_size, n)
    out = np.zeros((n, channels + 1, height, width))
    out[:, :channels] = x
    if n == 0:
        return out
    if n % group:
        raise ValueError(f"batch {n} is no multiple of the group {group}")
    groups = n // group
    for m in range(groups):
        members = [i for i in range(n) if group_of(i, groups, group, grouping) == m]
        mean = sum(x[i] for i in members) / group  # [C, H, W]
        square = sum((x[i] - mean) ** 2 for i in members)
        deviation = np.sqrt(square / (group - 1 if unbiased else group) + eps)
        for i in members:
            out[i, channels] = deviation.sum() / deviation.size
    return out


def numeric_gradient(f: Callable[[Array], float], x: npt.ArrayLike, step: float = 1e-5) -> Array:
    """Central differences of a scalar function, one element at a time."""
    x = f64(x).copy()
    grad = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f(x)
        x[index] = kept - step
        grad[index] = (above - f(x)) / (2.0 * step)
        x[index] = kept
    return grad


def f64(x: npt.ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def mix_channels(w: Array, x: Array) -> Array:
    """out[n, o, ...] = sum_i w[o, i] * x[n, i, ...]."""
    return np.moveaxis(np.tensordot(w, x, axes=([1], [1])), 0, 1)
