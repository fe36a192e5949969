"""Fades and RGB layers of the backend "triton"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends.layout import contiguous, dense, empty, is_channels_last
from pggan_fast.backends.registry import Limit, implement
from pggan_fast.backends.triton.availability import unsupported
from pggan_fast.kernels import fade_in, fade_reals, from_rgb_fade_in, to_rgb_fade_in


@implement("triton", "fade_in_forward", supports=unsupported)
def fade_in_forward(low: Tensor, high: Tensor, alpha: Tensor) -> Tensor:
    channels_last = is_channels_last(low)
    out = empty(high.shape, high, channels_last)
    fade_in.fade_in_forward(dense(low, channels_last), dense(high, channels_last), alpha, out, channels_last)
    return out


@implement("triton", "fade_in_backward", supports=unsupported)
def fade_in_backward(dy: Tensor, alpha: Tensor, up: bool) -> tuple[Tensor, Tensor]:
    channels_last = is_channels_last(dy)
    n, c, h, w = dy.shape
    dlow = empty((n, c, h // 2, w // 2) if up else dy.shape, dy, channels_last)
    dhigh = empty(dy.shape, dy, channels_last)
    fade_in.fade_in_backward(dense(dy, channels_last), alpha, dlow, dhigh, channels_last)
    return dlow, dhigh


@implement("triton", "fade_reals", supports=unsupported)
def fade_image(image: Tensor, alpha: Tensor) -> Tensor:
    channels_last = is_channels_last(image)
    out = empty(image.shape, image, channels_last)
    fade_reals.fade_reals(dense(image, channels_last), alpha, out, channels_last)
    return out


def _too_many_channels(channels: int) -> str | None:
    most = to_rgb_fade_in.MAX_IMAGE_CHANNELS
    return None if channels <= most else Limit(f"it handles images of at most {most} channels, got {channels}")


def _unsupported_to_rgb(x_low: Tensor, x_high: Tensor, w_low: Tensor, *others: Any) -> str | None:
    return unsupported(x_low) or _too_many_channels(w_low.shape[0])


def _unsupported_from_rgb(image: Tensor, *others: Any) -> str | None:
    return unsupported(image) or _too_many_channels(image.shape[1])


@implement("triton", "to_rgb_fade_in_forward", supports=_unsupported_to_rgb)
def to_rgb_fade_in_forward(
    x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor | None, w_high: Tensor, b_high: Tensor | None,
    alpha: Tensor, weight_scale_low: float, weight_scale_high: float, bias_scale_low: float, bias_scale_high: float,
) -> Tensor:  # fmt: skip
    channels_last = is_channels_last(x_low)
    n, _, h, w = x_high.shape
    image = empty((n, w_high.shape[0], h, w), x_high, channels_last)
    to_rgb_fade_in.to_rgb_fade_in_forward(
        dense(x_low, channels_last), dense(x_high, channels_last), w_low.contiguous(), contiguous(b_low),
        w_high.contiguous(), contiguous(b_high), alpha, image, weight_scale_low, weight_scale_high, bias_scale_low,
        bias_scale_high, channels_last,
    )  # fmt: skip
    return image


@implement("triton", "from_rgb_fade_in_forward", supports=_unsupported_from_rgb)
def from_rgb_fade_in_forward(
    image: Tensor, high: Tensor, w: Tensor, b: Tensor | None, alpha: Tensor, weight_scale: float, bias_scale: float,
    slope: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    channels_last = is_channels_last(image)
    n, c, height, width = shape = high.shape
    y = empty(shape, high, channels_last)
    mask = empty((n, (c + 7) // 8, height, width), high, channels_last, torch.uint8)
    from_rgb_fade_in.from_rgb_fade_in_forward(
        dense(image, channels_last), dense(high, channels_last), w.contiguous(), contiguous(b), alpha, y, mask,
        weight_scale, bias_scale, slope, channels_last,
    )  # fmt: skip
    return y, mask
