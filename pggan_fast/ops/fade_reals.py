"""fade_reals: real images faded as G's are. up2(down2(.)) is symmetric, so the op is its own adjoint."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.ops import _checks
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.ops._register import register


def fade_reals(image: Tensor, alpha: float | Tensor, *, backend: str | None = None) -> Tensor:
    """`(1 - alpha) * up2(down2(image)) + alpha * image`: nearest x2 of the 2x2 mean, blended with the image.

    Args:
        image: [N, C, H, W] with even H and W.
        alpha: a float or a 0-d tensor on the device, clamped to [0, 1]; not differentiable.
    Returns:
        A tensor of image's shape and dtype, computed in float32 at least.
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, appendix A: the reals are interpolated between resolutions as G's images are.
    """
    _checks.tensor("image", image, (4,))
    _checks.even("image", image, "fade_reals")
    a = _checks.alpha(alpha, image)
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        return reference.fade_reals(image, a)
    y: Tensor = _fade_reals(image, a, chosen)
    return y


def _fake(image: Tensor, alpha: Tensor) -> Tensor:
    return layout.empty(image.shape, image, layout.is_channels_last(image))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, alpha, ctx.backend = inputs
    ctx.save_for_backward(alpha)


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (alpha,) = ctx.saved_tensors
    return _fade_reals(dy, alpha, ctx.backend), None, None


_fade_reals = register("fade_reals(Tensor image, Tensor alpha, str backend) -> Tensor", _fake, _setup, _backward)
