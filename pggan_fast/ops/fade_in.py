"""fade_in: blending the old resolution into the new one, and its closed pair of linear ops.

    y = (1 - alpha) * up(low) + alpha * high        adjoint: (dlow, dhigh) = ((1 - alpha) * up^T(dy), alpha * dy)

up is nearest x2 where low has half the size of high (generator) and nothing where the sizes agree (discriminator).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.ops._register import register


def fade_in(low: Tensor, high: Tensor, alpha: float | Tensor, *, backend: str | None = None) -> Tensor:
    """`(1 - alpha) * low + alpha * high`; alpha 1 is only the new layer.

    Args:
        low: [N, C, H, W], or [N, C, H / 2, W / 2], which is nearest-upsampled.
        high: [N, C, H, W] in low's dtype; under autocast both go to the wider of theirs.
        alpha: a float, or a 0-d tensor on the device (read there, no sync), clamped to [0, 1]; not differentiable.
    Returns:
        [N, C, H, W] in their dtype, blended in float32 at least; exactly `high` at 1 and exactly `up(low)` at 0.
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, figure 2 and appendix A.
    """
    low, high = _autocast.promoted(low, high)
    _check(low, high)
    a = _checks.alpha(alpha, high)
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        return reference.fade_in(low, high, a)
    y: Tensor = fade_in_forward(low, high, a, chosen)
    return y


@_checks.once(tensors=2)
def _check(low: Tensor, high: Tensor) -> None:
    _checks.tensor("high", high, (4,))
    _checks.tensor("low", low, (4,), high)
    _checks.same_dtype("low", low, "high", high)
    half = (high.shape[2] // 2, high.shape[3] // 2)
    if low.shape[:2] != high.shape[:2] or tuple(low.shape[2:]) not in (tuple(high.shape[2:]), half):
        raise ValueError(
            f"low: expected the shape of high {tuple(high.shape)} or half its size, got {tuple(low.shape)}"
        )
    if tuple(low.shape[2:]) != tuple(high.shape[2:]):
        _checks.even("high", high, "blending with low at half the size")


def _forward_fake(low: Tensor, high: Tensor, alpha: Tensor) -> Tensor:
    return layout.empty(high.shape, high, layout.is_channels_last(low))


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    low, high, alpha, ctx.backend = inputs
    ctx.up = low.shape[2] != high.shape[2]
    ctx.save_for_backward(alpha)


def _forward_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (alpha,) = ctx.saved_tensors
    dlow, dhigh = fade_in_backward(dy, alpha, ctx.up, ctx.backend)
    return dlow, dhigh, None, None


fade_in_forward = register(
    "fade_in_forward(Tensor low, Tensor high, Tensor alpha, str backend) -> Tensor",
    _forward_fake,
    _forward_setup,
    _forward_backward,
)


def _backward_fake(dy: Tensor, alpha: Tensor, up: bool) -> tuple[Tensor, Tensor]:
    channels_last = layout.is_channels_last(dy)
    n, c, h, w = dy.shape
    low = (n, c, h // 2, w // 2) if up else (n, c, h, w)
    return layout.empty(low, dy, channels_last), layout.empty(dy.shape, dy, channels_last)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, alpha, ctx.up, ctx.backend = inputs
    ctx.save_for_backward(alpha)


def _backward_backward(ctx: Any, glow: Tensor, ghigh: Tensor) -> tuple[Any, ...]:
    (alpha,) = ctx.saved_tensors
    return fade_in_forward(glow, ghigh, alpha, ctx.backend), None, None, None


fade_in_backward = register(
    "fade_in_backward(Tensor dy, Tensor alpha, bool up, str backend) -> (Tensor dlow, Tensor dhigh)",
    _backward_fake,
    _backward_setup,
    _backward_backward,
)
