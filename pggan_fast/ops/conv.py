"""The closed family {convolution, its input gradient, its weight gradient}: internal ops under every layer.

    conv(x, w, scale, resample)   "none": scale * conv2d(x, w)        "up":   scale * conv2d(up2(x), w)
                                  "down": scale * down2(conv2d(x, w))         (padding k // 2, k in {1, 3})

Each is linear in x and in w. The adjoint in x is again a `conv` with flipped, transposed weights: of "none" itself, of
"up" 4 x "down", of "down" "up" / 4. So these two ops serve all orders of differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pggan_fast.backends import layout
from pggan_fast.backends.registry import TOGETHER, Chosen
from pggan_fast.ops._again import known
from pggan_fast.ops._autograd import wanted
from pggan_fast.ops._register import register

ADJOINT = {"none": ("none", 1.0), "up": ("down", 4.0), "down": ("up", 0.25)}


def _conv_fake(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    return layout.empty(layout.output_shape(x, weight, resample, adjoint), x, layout.is_channels_last(x))


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, *ctx.config = inputs
    ctx.save_for_backward(x, weight)


def _conv_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    scale, resample, adjoint, backend = ctx.config
    dx = dw = None
    need_x, need_weight = wanted(ctx, 0, 1)
    if not adjoint:
        return *gradients(x, dy, weight, scale, resample, backend, need_x, need_weight), None, None, None, None
    if need_x:
        dx = input_grad(dy, weight, scale, resample, backend, adjoint=adjoint)
    if need_weight:  # y is bilinear in (x, w) with x in the role of an output gradient
        other, factor = ADJOINT[resample]
        dw = weight_grad(dy, x, scale * factor, other, weight, backend)
    return dx, dw, None, None, None, None


conv = register(
    "conv(Tensor x, Tensor weight, float scale, str resample, bool adjoint, str backend) -> Tensor",
    _conv_fake,
    _conv_setup,
    _conv_backward,
)


def input_grad(
    dy: Tensor, weight: Tensor, scale: float, resample: str, backend: str, *, adjoint: bool = False
) -> Tensor:
    """The gradient of `conv(x, weight, scale, resample, adjoint)` in x."""
    dx: Tensor = conv(*_input_grad_args(dy, weight, scale, resample, adjoint), backend)
    return dx


def _input_grad_args(dy: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> tuple[Any, ...]:
    other, factor = ADJOINT[resample]
    return dy, weight, scale * factor, other, not adjoint


def _weight_grad_fake(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty(dy.shape[1], x.shape[1], k, k, dtype=dtype)


def _weight_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, dy, *ctx.config = inputs
    ctx.save_for_backward(x, dy)


def _weight_grad_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, dy = ctx.saved_tensors
    scale, resample, _, _, backend = ctx.config
    need_x, need_dy = wanted(ctx, 0, 1, data=2)
    dx = input_grad(dy, g, scale, resample, backend) if need_x else None
    ddy = conv(x, g, scale, resample, False, backend) if need_dy else None
    return dx, ddy, None, None, None, None, None


_conv_weight_grad = register(
    "conv_weight_grad(Tensor x, Tensor dy, float scale, str resample, SymInt k, ScalarType dtype, str backend) "
    "-> Tensor",
    _weight_grad_fake,
    _weight_grad_setup,
    _weight_grad_backward,
)


def weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, weight: Tensor, backend: str) -> Tensor:
    """The gradient of `conv(x, weight, scale, resample)` in weight, in its dtype; x [N, Cin, ...], dy [N, C, ...]."""
    dw: Tensor = _conv_weight_grad(x, dy, scale, resample, weight.shape[2], weight.dtype, backend)
    return dw


def gradients(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    scale: float,
    resample: str,
    backend: str,
    need_x: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `conv(x, weight, scale, resample, False)` in x and weight, those needed."""
    dx = input_grad(dy, weight, scale, resample, backend) if need_x else None
    return dx, weight_grad(x, dy, scale, resample, weight, backend) if need_weight else None


class KnownGradients(NamedTuple):
    """What `gradients` ran; None: nothing was needed."""

    for_x: Chosen | None
    for_weight: Chosen | None
    on_x: tuple[Any, ...]  # the arguments of "conv", less `backend`
    on_weight: tuple[Any, ...]  # of "conv_weight_grad"

    @property
    def way(self) -> str | None:
        """The one way of all that was needed."""
        ways = {chosen.way for chosen in self[:2] if chosen is not None}
        return ways.pop() if len(ways) == 1 else None

    def plan(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None]]:
        """What does the same for other tensors of the same kinds, of (x, dy, weight)."""
        x, dy, scale, resample, *_ = self.on_weight
        if self.for_x is not None and self.for_weight is not None and self.way in TOGETHER:
            both = TOGETHER[self.way](x, dy, self.on_x[1], scale, resample)
            if both is not None:
                return both
        run_x, run_weight = (_nothing if chosen is None else chosen.run for chosen in self[:2])
        x_scalars, weight_scalars = self.on_x[2:], self.on_weight[2:]
        return lambda x, dy, weight: (run_x(dy, weight, *x_scalars), run_weight(x, dy, *weight_scalars))


def _nothing(*args: Any) -> None:
    return None


def known_gradients(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    scale: float,
    resample: str,
    backend: str,
    need_x: bool,
    need_weight: bool,
) -> KnownGradients | None:
    """What `gradients` ran for such arguments; None where it has to be chosen again."""
    on_x = _input_grad_args(dy, weight, scale, resample, False)
    on_weight = x, dy, scale, resample, weight.shape[2], weight.dtype
    for_x = known("conv", on_x, backend) if need_x else None
    for_weight = known("conv_weight_grad", on_weight, backend) if need_weight else None
    if (need_x and for_x is None) or (need_weight and for_weight is None):
        return None
    return KnownGradients(for_x, for_weight, on_x, on_weight)
