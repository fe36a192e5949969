"""Epilogues of the backend "triton": bias_act, its backward pass, and the masked 2x2 mean."""

from __future__ import annotations

import torch
from torch import Tensor

from pggan_fast.backends.layout import accumulator, contiguous, dense, empty, is_channels_last
from pggan_fast.backends.registry import Limit, implement
from pggan_fast.backends.triton.availability import unsupported
from pggan_fast.kernels import bias_act as kernels


def unsupported_epilogue(x: Tensor, norm: str, pool: bool, channels: int | None = None) -> str | None:
    """Why the epilogue kernels cannot run on x, or its gradient, [N, C, H, W]; `channels`: where they are not x's."""
    if (reason := unsupported(x)) is not None:
        return reason
    if pool and norm != "none":
        return "it has no 2x2 mean after a pixel norm"
    channels = x.shape[1] if channels is None else channels
    if channels > kernels.MAX_CHANNELS:
        return Limit(f"it handles at most {kernels.MAX_CHANNELS} channels, got {channels}")
    return None


def _unsupported_forward(
    u: Tensor, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str, eps: float,
    eps_mode: str, pool: bool,
) -> str | None:  # fmt: skip
    return unsupported_epilogue(u, norm, pool)


def _unsupported_backward(
    dy: Tensor, dr: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, scale: float, bias_scale: float,
    slope: float | None, norm: str, eps: float, eps_mode: str, pool: bool, need_bias: bool,
) -> str | None:  # fmt: skip
    if norm == "before_act" and slope == 0.0:
        return "a slope of 0 after the norm leaves nothing of the normalised value in y"
    return unsupported_epilogue(dy, norm, pool)


def _unsupported_pool(g: Tensor, mask: Tensor | None, scale: float, slope: float | None) -> str | None:
    return unsupported_epilogue(g, "none", True)


@implement("triton", "bias_act_forward", supports=_unsupported_forward)
def bias_act_forward(
    u: Tensor, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str, eps: float,
    eps_mode: str, pool: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    channels_last = is_channels_last(u)
    n, c, h, w = u.shape
    y = empty((n, c, h // 2, w // 2) if pool else u.shape, u, channels_last)
    r = None if norm == "none" else empty((n, 1, h, w), u, False, accumulator(u.dtype))
    mask = empty((n, (c + 7) // 8, h, w), u, channels_last, torch.uint8) if pool and slope is not None else None
    kernels.bias_act_forward(
        dense(u, channels_last), contiguous(bias), y, r, mask, channels_last=channels_last,
        pool=pool, scale=scale, bias_scale=bias_scale, slope=slope, norm=norm, eps=eps, eps_inside=eps_mode == "inside",
    )  # fmt: skip
    return y, r, mask


@implement("triton", "bias_act_backward", supports=_unsupported_backward)
def bias_act_backward(
    dy: Tensor, dr: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, scale: float, bias_scale: float,
    slope: float | None, norm: str, eps: float, eps_mode: str, pool: bool, need_bias: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    channels_last = is_channels_last(y)
    n, c, h, w = y.shape
    du = empty((n, c, 2 * h, 2 * w) if pool else y.shape, y, channels_last)
    sums = None
    if need_bias:
        rows = kernels.bias_act_rows(du, channels_last, norm, pool)
        sums = dy.new_empty((rows, c), dtype=accumulator(dy.dtype))
    kernels.bias_act_backward(
        dense(dy, channels_last), contiguous(dr), None if pool else dense(y, channels_last),
        contiguous(r), None if mask is None else dense(mask, channels_last), du, sums,
        channels_last=channels_last, pool=pool, scale=scale, slope=slope, norm=norm, eps=eps,
        eps_inside=eps_mode == "inside",
    )  # fmt: skip
    return du, None if sums is None else sums.sum(dim=0).mul_(bias_scale)


@implement("triton", "masked_pool", supports=_unsupported_pool)
def masked_pool(g: Tensor, mask: Tensor | None, scale: float, slope: float | None) -> Tensor:
    channels_last = is_channels_last(g)
    n, c, h, w = g.shape
    out = empty((n, c, h // 2, w // 2), g, channels_last)
    kernels.masked_pool(
        dense(g, channels_last), None if mask is None else dense(mask, channels_last), out,
        channels_last=channels_last, scale=scale, slope=slope,
    )  # fmt: skip
    return out
