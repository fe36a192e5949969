"""Epilogues of the backend "aten": scale, bias, leaky ReLU, pixel norm and pooling in few plain-torch passes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.backends import layout
from pggan_fast.backends.registry import implement
from pggan_fast.reference import down2, up2


def _reciprocal_rms(a: Tensor, eps: float, eps_mode: str) -> Tensor:
    mean = a.square().mean(dim=1, keepdim=True)
    return torch.rsqrt(mean + eps) if eps_mode == "inside" else 1.0 / (mean.sqrt() + eps)


def pack_bits(positive: Tensor) -> Tensor:
    """bool [N, C, H, W] -> one bit per element, uint8 [N, ceil(C / 8), H, W]."""
    n, c, h, w = positive.shape
    bits = F.pad(positive, (0, 0, 0, 0, 0, -c % 8)).view(n, (c + 7) // 8, 8, h, w)
    return (bits.to(torch.uint8) << _places(bits)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(mask: Tensor, c: int) -> Tensor:
    n, groups, h, w = mask.shape
    return ((mask.unsqueeze(2) >> _places(mask)) & 1).reshape(n, groups * 8, h, w)[:, :c].bool()


def _places(like: Tensor) -> Tensor:
    """[8, 1, 1]: the bits of a byte. Made on the device: a CUDA graph holds no copy from the host."""
    return torch.arange(8, dtype=torch.uint8, device=like.device).view(8, 1, 1)


def _masked(g: Tensor, positive: Tensor, slope: float | None) -> Tensor:
    return g if slope is None else torch.where(positive, g, g * slope)


@implement("aten", "bias_act_forward")
def bias_act_forward(
    u: Tensor,
    bias: Tensor | None,
    scale: float,
    bias_scale: float,
    slope: float | None,
    norm: str,
    eps: float,
    eps_mode: str,
    pool: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    v = u.to(layout.accumulator(u.dtype)) * scale
    if bias is not None:
        v = v + (bias.to(v.dtype) * bias_scale).view(1, -1, 1, 1)
    r = mask = None
    if norm == "before_act":
        r = _reciprocal_rms(v, eps, eps_mode)
        v = v * r
    y = v if slope is None else F.leaky_relu(v, slope)
    if norm == "after_act":
        r = _reciprocal_rms(y, eps, eps_mode)
        y = y * r
    if pool:
        if slope is not None:
            mask = layout.conform(pack_bits(v > 0), u)
        y = down2(y)
    return layout.conform(y.to(u.dtype), u), None if r is None else r.contiguous(), mask


@implement("aten", "bias_act_backward")
def bias_act_backward(
    dy: Tensor,
    dr: Tensor | None,
    y: Tensor,
    r: Tensor | None,
    mask: Tensor | None,
    scale: float,
    bias_scale: float,
    slope: float | None,
    norm: str,
    eps: float,
    eps_mode: str,
    pool: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    g = dy.to(layout.accumulator(y.dtype))
    if pool:
        g = up2(g) * 0.25
    positive = unpack_bits(mask, y.shape[1]) if mask is not None else y > 0
    if r is None:
        dv = _masked(g, positive, slope)
    else:
        wide = y.to(g.dtype)
        t = r * (g * wide).mean(dim=1, keepdim=True)
        if dr is not None:
            t = t + dr * r * r / y.shape[1]
        if eps_mode == "outside":
            rest = 1.0 - eps * r
            t = torch.where(rest > 0, t / rest, 0.0)
        if norm == "after_act":
            dv = _masked(r * g - wide * t, positive, slope)
        else:
            dv = r * _masked(g, positive, slope) - _masked(wide, positive, None if slope is None else 1 / slope) * t
    db = bias_scale * dv.sum(dim=(0, 2, 3)) if need_bias else None
    return layout.conform((dv * scale).to(y.dtype), y), db


@implement("aten", "masked_pool")
def masked_pool(g: Tensor, mask: Tensor | None, scale: float, slope: float | None) -> Tensor:
    wide = g.to(layout.accumulator(g.dtype))
    if mask is not None:
        wide = _masked(wide, unpack_bits(mask, g.shape[1]), slope)
    return layout.conform((down2(wide) * scale).to(g.dtype), g)
