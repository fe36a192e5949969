"""bias_act: scale, bias, leaky ReLU and pixel norm in one pass, differentiable twice.

    v = scale * x + bias_scale * bias          a = leaky_relu(v)
    after_act:  r = rsqrt(mean_c(a^2) + eps),  y = a * r            (official)
    before_act: r = rsqrt(mean_c(v^2) + eps),  y = leaky_relu(v * r)  (some ports)

Backward needs only y and r: y's sign is the activation's mask, and with g = dy, C channels,
    t = k * (r * mean_c(g * y) + dr * r^2 / C),   after_act: dv = mask(r * g - y * t)
where k = 1 for eps inside the root and 1 / (1 - eps * r) outside it. The pooled form (2x2 mean after the activation)
cannot read the mask from y and saves one bit per element.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._again import AgainOp
from pggan_fast.ops._autograd import needs_reference, wanted
from pggan_fast.ops._register import register


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
    backend: str | None = None,
) -> Tensor:
    """The epilogue of a layer over dim 1: `act(scale * x + bias_scale * bias)` with a pixel norm before or after.

    Args:
        x: [N, C, H, W] or [N, C], any strides; float32, float16, bfloat16 or float64.
        bias: [C] in x's dtype, or float32 beside half-precision x.
        negative_slope: leaky ReLU's slope in [0, 1]; None leaves the layer linear.
        pixel_norm: "none", "after_act" (official) or "before_act".
        eps_mode: "inside" divides by sqrt(mean + eps), "outside" by sqrt(mean) + eps.
        backend: None chooses; see `pggan_fast.backends`.
    Returns:
        A tensor of x's shape and dtype. Statistics and sums are float32 at least.
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, sections 4.1 and 4.2.
    """
    args = x, bias, scale, bias_scale, negative_slope, pixel_norm, eps, eps_mode, False
    if (out := _again(args, backend)) is not None:
        y: Tensor = out[0]
        return y
    bias = _autocast.parameter(bias, x)
    _check(x, bias, scale, bias_scale, negative_slope, pixel_norm, eps, eps_mode)
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        return reference.bias_act(
            x, bias, scale=scale, bias_scale=bias_scale, negative_slope=negative_slope, pixel_norm=pixel_norm,
            eps=eps, eps_mode=eps_mode,
        )  # fmt: skip
    u = x if x.ndim == 4 else x[:, :, None, None]
    y = apply(u, bias, scale, bias_scale, negative_slope, pixel_norm, eps, eps_mode, chosen)
    if x.ndim == 2:
        return y[:, :, 0, 0]
    if not activation_apart(negative_slope, pixel_norm):
        _again.learn_choice(args, args, chosen)
    return y


_again = AgainOp("bias_act", "bias_act_forward", tensors=2)


@_checks.once(tensors=2)
def _check(
    x: Tensor,
    bias: Tensor | None,
    scale: float,
    bias_scale: float,
    negative_slope: float | None,
    pixel_norm: str,
    eps: float,
    eps_mode: str,
) -> None:
    _checks.tensor("x", x, (2, 4))
    _checks.bias("bias", bias, x.shape[1], x)
    _checks.finite(scale=scale, bias_scale=bias_scale)
    _checks.epilogue(negative_slope, pixel_norm, eps, eps_mode)


# Below it backward would divide by a slope that float16 rounds to zero, or whose inverse no float16 gradient can carry.
LEAST_SLOPE = 1e-3


def activation_apart(slope: float | None, norm: str) -> bool:
    """Whether the activation is a node of its own: y = slope * n has lost the normalised n that backward needs."""
    return norm == "before_act" and slope is not None and slope < LEAST_SLOPE


def apply(
    u: Tensor,
    bias: Tensor | None,
    scale: float,
    bias_scale: float,
    slope: float | None,
    norm: str,
    eps: float,
    eps_mode: str,
    backend: str,
) -> Tensor:
    """The registered op on checked arguments, less r and mask."""
    if slope is not None and activation_apart(slope, norm):
        n = bias_act_forward(u, bias, scale, bias_scale, None, norm, eps, eps_mode, False, backend)[0]
        return F.leaky_relu(n, slope)
    y: Tensor = bias_act_forward(u, bias, scale, bias_scale, slope, norm, eps, eps_mode, False, backend)[0]
    return y


def mask_shape(n: int, c: int, h: int, w: int) -> tuple[int, int, int, int]:
    """One bit per element: uint8 [N, ceil(C / 8), H, W]."""
    return n, (c + 7) // 8, h, w


def forward_fake(
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
    channels_last = layout.is_channels_last(u)
    n, c, h, w = u.shape
    y = layout.empty((n, c, h // 2, w // 2) if pool else u.shape, u, channels_last)
    r = None if norm == "none" else layout.empty((n, 1, h, w), u, False, layout.accumulator(u.dtype))
    mask = None
    if pool and slope is not None:
        mask = layout.empty(mask_shape(n, c, h, w), u, channels_last, torch.uint8)
    return y, r, mask


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    _, bias, *ctx.config = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output)


def _forward_backward(ctx: Any, dy: Tensor | None, dr: Tensor | None, dmask: None) -> tuple[Any, ...]:
    if dy is None and dr is None:
        return (None,) * 10
    y, r, mask = ctx.saved_tensors
    (need_bias,) = wanted(ctx, 1, data=0)
    dy = torch.zeros_like(y) if dy is None else dy
    *config, backend = ctx.config
    du, db = bias_act_backward(dy, dr, y, r, mask, *config, need_bias, backend)
    return du, None if db is None else db.to(ctx.bias_dtype), *(None,) * 8


bias_act_forward = register(
    "bias_act_forward(Tensor u, Tensor? bias, float scale, float bias_scale, float? slope, str norm, float eps, "
    "str eps_mode, bool pool, str backend) -> (Tensor y, Tensor? r, Tensor? mask)",
    forward_fake,
    _forward_setup,
    _forward_backward,
)


def _backward_fake(
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
    n, c, h, w = y.shape
    du = layout.empty((n, c, 2 * h, 2 * w) if pool else y.shape, y, layout.is_channels_last(y))
    return du, y.new_empty(c, dtype=layout.accumulator(y.dtype)) if need_bias else None


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.config = inputs[5:]
    ctx.save_for_backward(*inputs[:5])


def _backward_backward(ctx: Any, g: Tensor | None, gdb: Tensor | None) -> tuple[Any, ...]:
    """Gradients in (dy, dr, y, r) given the cotangents of du and db."""
    nothing = (None,) * 14
    if g is None and gdb is None:
        return nothing
    dy, dr, y, r, mask = ctx.saved_tensors
    scale, bias_scale, slope, norm, eps, eps_mode, pool, _, backend = ctx.config
    if gdb is not None:  # db = bias_scale * sum(dv) joins as a constant cotangent of dv = du / scale
        per_channel = (gdb * bias_scale).to(y.dtype).view(1, -1, 1, 1)
        n, c, h, w = y.shape
        if g is None:
            g, scale = per_channel.expand(n, c, 2 * h if pool else h, 2 * w if pool else w), 1.0
        else:
            g, scale = g * scale + per_channel, 1.0
    if pool:
        return masked_pool(g, mask, scale, slope, backend), *nothing[1:]
    assert g is not None
    if norm == "none":  # piecewise linear: the same masked pass again
        ddy = bias_act_backward(
            g, None, y, None, mask, scale, 1.0, slope, "none", eps, eps_mode, False, False, backend
        )[0]
        return ddy, *nothing[1:]
    return *_norm_second_order(g, dy, dr, y, r, scale, slope, norm, eps, eps_mode), *nothing[4:]


def _norm_second_order(
    g: Tensor,
    dy: Tensor,
    dr: Tensor | None,
    y: Tensor,
    r: Tensor,
    scale: float,
    slope: float | None,
    norm: str,
    eps: float,
    eps_mode: str,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Second order of the pixel norm in closed form over y and r: plain differentiable PyTorch, any order beyond.

    With p = <g, dv>: dv = r * m - y_i * t, where m is the masked dy and y_i = y (after_act) or y / slope where
    negative (before_act); q = mean_c(g_i * y), s = sum_c(dy * y), t = k * (r * s / C + dr * r^2 / C).
    """
    c = y.shape[1]
    g, dyw, yw = g.to(r.dtype) * scale, dy.to(r.dtype), y.to(r.dtype)
    positive = yw > 0
    gm = g if slope is None else torch.where(positive, g, g * slope)
    gi = gm if norm == "after_act" or slope is None else torch.where(positive, g, g / slope)
    w = (gi * yw).sum(dim=1, keepdim=True)  # the weight of -t in p
    s = (dyw * yw).sum(dim=1, keepdim=True)
    inner = r * s / c if dr is None else r * s / c + dr * r * r / c
    k, dk = _outside_factor(r, eps) if eps_mode == "outside" else (1.0, None)
    ddy = r * gm - yw * (w * k * r / c)
    ddr = None if dr is None else -w * k * r * r / c
    d_y = -gi * (k * inner) - dyw * (w * k * r / c)
    d_r = (gm * dyw).sum(dim=1, keepdim=True) - w * k * s / c
    if dr is not None:
        d_r = d_r - w * k * 2.0 * dr * r / c
    if dk is not None:
        d_r = d_r - w * dk * inner
    return ddy.to(dy.dtype), ddr, d_y.to(y.dtype), d_r


def _outside_factor(r: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """k = 1 / (1 - eps * r) and dk/dr, both 0 for an all-zero pixel (the subgradient that vector_norm takes)."""
    rest = 1.0 - eps * r
    alive = rest > 0
    k = torch.where(alive, 1.0 / torch.where(alive, rest, 1.0), 0.0)
    return k, eps * k * k


bias_act_backward = register(
    "bias_act_backward(Tensor dy, Tensor? dr, Tensor y, Tensor? r, Tensor? mask, float scale, float bias_scale, "
    "float? slope, str norm, float eps, str eps_mode, bool pool, bool need_bias, str backend) "
    "-> (Tensor du, Tensor? db)",
    _backward_fake,
    _backward_setup,
    _backward_backward,
)


def _masked_pool_fake(g: Tensor, mask: Tensor | None, scale: float, slope: float | None) -> Tensor:
    n, c, h, w = g.shape
    return layout.empty((n, c, h // 2, w // 2), g, layout.is_channels_last(g))


def _masked_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, mask, *ctx.config = inputs
    ctx.save_for_backward(mask)


def _masked_pool_backward(ctx: Any, gg: Tensor) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    scale, slope, backend = ctx.config
    g = bias_act_backward(gg, None, gg, None, mask, scale, 1.0, slope, "none", 0.0, "inside", True, False, backend)[0]
    return g, None, None, None, None


masked_pool = register(
    "masked_pool(Tensor g, Tensor? mask, float scale, float? slope, str backend) -> Tensor",
    _masked_pool_fake,
    _masked_pool_setup,
    _masked_pool_backward,
)
