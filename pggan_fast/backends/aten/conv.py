"""Convolutions of the backend "aten": torch's own, on phase-decomposed weights.

Resampling convolutions run as one 4x4 stride-2 convolution: with S(w) the 3x3 kernel box-summed to 4x4,
    conv2d(up2(x), w) == conv_transpose2d(x, S(flip(w)), stride=2, padding=1)     9 taps -> 4 per output pixel
    down2(conv2d(x, w)) == conv2d(x, S(w) / 4, stride=2, padding=1)               9 taps -> 4 per input pixel
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.backends import layout
from pggan_fast.backends.registry import implement
from pggan_fast.reference import down2, up2

# oneDNN at or below this many pixels an image prefers NCHW: with channels_last activations and contiguous weights it
# took 16 ms instead of 1.6 for 4 x 512 x 4 x 4, and 17 instead of 7 for the weight gradient at 8 x 8 (Zen 4, 2 cores).
FEW_PIXELS = 64


@functools.cache
def _box_sum(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[9, 16]: the 3x3 kernel's taps to those of S(w), the full convolution of w with a 2x2 box."""
    taps = torch.zeros(3, 3, 4, 4)
    for i in range(3):
        for j in range(3):
            taps[i, j, i : i + 2, j : j + 2] = 1.0
    return taps.view(9, 16).to(device=device, dtype=dtype)


def _summed(weight: Tensor, scale: float, flip: bool) -> Tensor:
    """scale * S(weight), or of the flipped weight: [C, Cin, 3, 3] -> [C, Cin, 4, 4]."""
    c, cin = weight.shape[:2]
    box = _box_sum(weight.dtype, weight.device) * scale
    return (weight.reshape(-1, 9) @ (box.flip(1) if flip else box)).view(c, cin, 4, 4)


def _wide(weight: Tensor) -> Tensor:
    return weight.to(layout.accumulator(weight.dtype))


def _compute_format(x: Tensor) -> Tensor:
    channels_last = layout.is_channels_last(x) and x.shape[2] * x.shape[3] > FEW_PIXELS
    return layout.dense(x, channels_last)


@implement("aten", "conv")
def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    k = weight.shape[2]
    if k == 3 and resample != "none":
        return layout.conform(_strided_conv(_compute_format(x), weight, scale, resample, adjoint), x)
    w = (_wide(weight) * scale if scale != 1.0 else weight).to(x.dtype)
    if resample == "down":
        return layout.conform(_plain_conv(_compute_format(down2(x)), w, adjoint), x)
    y = _plain_conv(_compute_format(x), w, adjoint)
    return layout.conform(up2(y) if resample == "up" else y, x)


def _plain_conv(x: Tensor, w: Tensor, adjoint: bool) -> Tensor:
    k = w.shape[2]
    if k == 1 and x.shape[2] == x.shape[3] == 1:  # a dense layer
        matrix = w[:, :, 0, 0]
        return (x[:, :, 0, 0] @ (matrix if adjoint else matrix.t()))[:, :, None, None]
    if adjoint:
        return F.conv_transpose2d(x, w, padding=k // 2)
    return F.conv2d(x, w, padding=k // 2)


def _strided_conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """The adjoint's kernel is the flipped transpose, and S(flip(w)) == flip(S(w))."""
    w = _wide(weight)
    if resample == "up":  # conv_transpose2d takes [Cin, C, 4, 4] and flips by itself
        s = _summed(w, scale, flip=not adjoint)
        s = (s if adjoint else s.transpose(0, 1)).to(x.dtype).contiguous()
        return F.conv_transpose2d(x, s, stride=2, padding=1)
    s = _summed(w, scale * 0.25, flip=adjoint)
    s = (s.transpose(0, 1) if adjoint else s).to(x.dtype).contiguous()
    return F.conv2d(x, s, stride=2, padding=1)


@implement("aten", "conv_weight_grad")
def conv_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    if x.shape[0] == 0:
        return x.new_zeros(dy.shape[1], x.shape[1], k, k, dtype=dtype)
    if dtype != x.dtype:  # float32 parameters beside half activations: no half rounding on the way
        x, dy = x.to(dtype), dy.to(dtype)
    if k == 1:
        return _pointwise_weight_grad(x, dy, scale, resample)
    x, dy = _compute_format(x), _compute_format(dy)
    if resample == "up":  # conv_transpose2d(x, s)'s gradient is a strided convolution's with x and dy exchanged
        ds = _gathered_weight_grad(dy, x, 4, 2)  # [Cin, C, 4, 4]
        return (_box_gather(ds, scale, flip=True)).transpose(0, 1).contiguous()
    if resample == "down":
        return _box_gather(_gathered_weight_grad(x, dy, 4, 2), scale * 0.25, flip=False)
    dw = _gathered_weight_grad(x, dy, 3, 1)
    return dw if scale == 1.0 else dw.mul_(scale)


def _gathered_weight_grad(x: Tensor, dy: Tensor, k: int, stride: int) -> Tensor:
    """The weight gradient of `conv2d(x, w, stride, padding=1)`: [C, Cin, k, k]."""
    shape_only = x.new_empty(dy.shape[1], x.shape[1], k, k)
    grads = torch.ops.aten.convolution_backward(
        dy, x, shape_only, None, [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    return grads[1].contiguous()


def _box_gather(ds: Tensor, scale: float, flip: bool) -> Tensor:
    """The transpose of `_summed`: [C, Cin, 4, 4] -> [C, Cin, 3, 3]."""
    box = _box_sum(layout.accumulator(ds.dtype), ds.device) * scale
    dw = ds.reshape(-1, 16).to(box.dtype) @ (box.flip(1) if flip else box).t()
    return dw.view(*ds.shape[:2], 3, 3).to(ds.dtype)


def _pointwise_weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str) -> Tensor:
    if resample == "up":
        dy, scale = down2(dy), scale * 4.0
    elif resample == "down":
        x = down2(x)
    rows = dy.permute(1, 0, 2, 3).reshape(dy.shape[1], -1)  # [C, N * H * W]
    columns = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # [N * H * W, Cin]
    return (rows @ columns)[:, :, None, None].mul_(scale)
