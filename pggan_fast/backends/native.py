"""The ops of a native module, CPU or CUDA: layouts, allocation, and the argument order of csrc/bind/arguments.h.

Arguments and results are those of the ops' schemas (pggan_fast/ops).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends.layout import (
    accumulator,
    allocate,
    contiguous,
    dense,
    empty,
    is_channels_last,
    is_dense,
    is_ready,
    output,
)
from pggan_fast.backends.registry import Limit, implement

# The codes of csrc/kernels.h
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
NORMS = {"none": 0, "after_act": 1, "before_act": 2}
_MAX_IMAGE_CHANNELS = 4
# Weight, bias and their scales where a block has no such layer
NO_LAYER: tuple[Any, ...] = (None, None, 1.0, 1.0)


def unsupported_to_rgb(x_low: Tensor, x_high: Tensor, w_low: Tensor, *others: Any) -> str | None:
    return unsupported_image_channels(w_low.shape[0])


def unsupported_from_rgb(image: Tensor, *others: Any) -> str | None:
    return unsupported_image_channels(image.shape[1])


def unsupported_image_channels(channels: int) -> str | None:
    if channels <= _MAX_IMAGE_CHANNELS:
        return None
    return Limit(f"it handles images of at most {_MAX_IMAGE_CHANNELS} channels, got {channels}")


def unsupported_backward(
    dy: Tensor, dr: Tensor | None, y: Tensor, r: Any, mask: Any, scale: float, bias_scale: float, slope: float | None,
    norm: str, *others: Any
) -> str | None:  # fmt: skip
    if norm == "before_act" and slope == 0.0:
        return "a slope of 0 after the norm leaves nothing of the normalised value in y"
    return None


def _parameters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.contiguous(), contiguous(bias)


def _codes(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    return DTYPES[weight.dtype], 0 if bias is None else DTYPES[bias.dtype]


class NativeOps:
    """The ops of one native module as functions on tensors."""

    def __init__(self, launch: Callable[..., Any], workspaces: bool) -> None:
        """`launch(name, *args)` calls the module's function of that name on tensors.

        `workspaces`: kernels that sum want room for it from us, as much as `<name>_workspace` says.
        """
        self._call = launch
        self._workspaces = workspaces

    def register(
        self, backend: str, unsupported: Callable[..., str | None], rule: Callable[[str], Any] = lambda op: None
    ) -> None:
        """Implement every op for `backend`; `unsupported(x, *others)` judges the first tensor of each, `rule(op)` is
        its rule."""

        def both(more: Callable[..., str | None]) -> Callable[..., str | None]:
            return lambda *args: unsupported(*args) or more(*args)

        for op in OPS:
            supports = both(LIMITS[op]) if op in LIMITS else unsupported
            plan = getattr(self, f"{op}_plan", None)
            implement(backend, op, supports=supports, rule=rule(op), plan=plan)(getattr(self, op))

    def _call_summing(self, name: str, like: Tensor, *args: Any) -> None:
        elements = self._call(f"{name}_workspace", *args, None) if self._workspaces else 0
        self._call(name, *args, like.new_empty(elements, dtype=torch.float32) if self._workspaces else None)

    def bias_act_forward(
        self, u: Tensor, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str,
        eps: float, eps_mode: str, pool: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        args = u, bias, scale, bias_scale, slope, norm, eps, eps_mode, pool
        results: tuple[Tensor, Tensor | None, Tensor | None] = self.bias_act_forward_plan(*args)(*args)
        return results

    def bias_act_forward_plan(
        self, u: Tensor, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str,
        eps: float, eps_mode: str, pool: bool, *, inplace: bool = False,
    ) -> Callable[..., Any]:  # fmt: skip
        """`inplace`: what is returned writes y over u where that is dense; not with `pool`."""
        channels_last = is_channels_last(u)
        n, c, h, w = u.shape
        out = output((n, c, h // 2, w // 2) if pool else u.shape, u, channels_last)
        factor = None if norm == "none" else output((n, 1, h, w), u, False, accumulator(u.dtype))
        bits = output((n, (c + 7) // 8, h, w), u, channels_last, torch.uint8) if pool and slope is not None else None
        constants = (
            DTYPES[u.dtype], 0 if bias is None else DTYPES[bias.dtype], n, c, h, w, channels_last, pool, scale,
            bias_scale, 1.0 if slope is None else slope, NORMS[norm], eps, eps_mode == "inside",
        )  # fmt: skip

        as_it_is, ready = is_dense(u, channels_last), is_ready(bias)

        def run(u: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
            u = u if as_it_is else dense(u, channels_last)
            y = u if inplace else allocate(out, u)
            r = None if factor is None else allocate(factor, u)
            mask = None if bits is None else allocate(bits, u)
            self._call("bias_act_forward", u, bias if ready else contiguous(bias), y, r, mask, *constants)
            return y, r, mask

        return run

    def bias_act_backward(
        self, dy: Tensor, dr: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, scale: float,
        bias_scale: float, slope: float | None, norm: str, eps: float, eps_mode: str, pool: bool, need_bias: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        args = dy, dr, y, r, mask, scale, bias_scale, slope, norm, eps, eps_mode, pool, need_bias
        results: tuple[Tensor, Tensor | None] = self.bias_act_backward_plan(*args)(*args)
        return results

    def bias_act_backward_plan(
        self, dy: Tensor, dr: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, scale: float,
        bias_scale: float, slope: float | None, norm: str, eps: float, eps_mode: str, pool: bool, need_bias: bool,
    ) -> Callable[..., Any]:  # fmt: skip
        channels_last = is_channels_last(y)
        n, c, h, w = y.shape
        if pool:
            h, w = 2 * h, 2 * w
        out = output((n, c, h, w), y, channels_last)
        wide = accumulator(dy.dtype)
        constants = (
            DTYPES[dy.dtype], n, c, h, w, channels_last, pool, scale, bias_scale, 1.0 if slope is None else slope,
            NORMS[norm], eps, eps_mode == "inside",
        )  # fmt: skip

        elements = 0
        if self._workspaces and need_bias:  # of any tensors so large: only whether there is a db counts
            elements = self._call("bias_act_backward_workspace", *(None,) * 6, dy, *constants, None)

        def run(dy: Tensor, dr: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, *_: Any) -> Any:
            du = allocate(out, y)
            db = dy.new_empty(c, dtype=wide) if need_bias else None
            self._call(
                "bias_act_backward", dense(dy, channels_last), contiguous(dr),
                None if mask is not None else dense(y, channels_last), contiguous(r),
                None if mask is None else dense(mask, channels_last), du, db, *constants,
                dy.new_empty(elements, dtype=torch.float32) if elements else None,
            )  # fmt: skip
            return du, db

        return run

    def masked_pool(self, g: Tensor, mask: Tensor | None, scale: float, slope: float | None) -> Tensor:
        channels_last = is_channels_last(g)
        n, c, h, w = g.shape
        out = empty((n, c, h // 2, w // 2), g, channels_last)
        self._call(
            "masked_pool", dense(g, channels_last), None if mask is None else dense(mask, channels_last), out,
            DTYPES[g.dtype], n, c, h, w, channels_last, scale, 1.0 if slope is None else slope,
        )  # fmt: skip
        return out

    def fade_in_forward(self, low: Tensor, high: Tensor, alpha: Tensor) -> Tensor:
        channels_last = is_channels_last(low)
        out = empty(high.shape, high, channels_last)
        self._call(
            "fade_in_forward", dense(low, channels_last), dense(high, channels_last), alpha, out,
            DTYPES[high.dtype], *high.shape, channels_last, low.shape[2:] != high.shape[2:],
        )  # fmt: skip
        return out

    def fade_in_backward(self, dy: Tensor, alpha: Tensor, up: bool) -> tuple[Tensor, Tensor]:
        channels_last = is_channels_last(dy)
        n, c, h, w = dy.shape
        dlow = empty((n, c, h // 2, w // 2) if up else dy.shape, dy, channels_last)
        dhigh = empty(dy.shape, dy, channels_last)
        self._call(
            "fade_in_backward", dense(dy, channels_last), alpha, dlow, dhigh, DTYPES[dy.dtype], n, c, h, w,
            channels_last, up,
        )  # fmt: skip
        return dlow, dhigh

    def fade_reals(self, image: Tensor, alpha: Tensor) -> Tensor:
        channels_last = is_channels_last(image)
        out = empty(image.shape, image, channels_last)
        self._call(
            "fade_reals", dense(image, channels_last), alpha, out, DTYPES[image.dtype], *image.shape, channels_last
        )
        return out

    def to_rgb_fade_in_forward(
        self, x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor | None, w_high: Tensor, b_high: Tensor | None,
        alpha: Tensor, weight_scale_low: float, weight_scale_high: float, bias_scale_low: float, bias_scale_high: float,
    ) -> Tensor:  # fmt: skip
        channels_last = is_channels_last(x_low)
        n, c_high, h, w = x_high.shape
        shape = n, w_high.shape[0], h, w
        image = empty(shape, x_high, channels_last)
        self._call(
            "to_rgb_fade_in_forward", dense(x_low, channels_last), dense(x_high, channels_last),
            *_parameters(w_low, b_low), *_parameters(w_high, b_high), alpha, image, DTYPES[image.dtype],
            *_codes(w_low, b_low), *_codes(w_high, b_high), *shape, channels_last, x_low.shape[1], c_high,
            weight_scale_low, weight_scale_high, bias_scale_low, bias_scale_high,
        )  # fmt: skip
        return image

    def from_rgb_fade_in_forward(
        self, image: Tensor, high: Tensor, w: Tensor, b: Tensor | None, alpha: Tensor, weight_scale: float,
        bias_scale: float, slope: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        channels_last = is_channels_last(image)
        n, c, height, width = shape = high.shape
        y = empty(shape, high, channels_last)
        mask = empty((n, (c + 7) // 8, height, width), high, channels_last, torch.uint8)
        self._call(
            "from_rgb_fade_in_forward", dense(image, channels_last), dense(high, channels_last), *_parameters(w, b),
            alpha, y, mask, DTYPES[high.dtype], *_codes(w, b), *shape, channels_last, image.shape[1], weight_scale,
            bias_scale, slope,
        )  # fmt: skip
        return y, mask

    def minibatch_stddev_forward(self, x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
        channels_last = is_channels_last(x)
        n, c, h, w = shape = x.shape
        out = empty((n, c + 1, h, w), x, channels_last)
        self._call_summing(
            "minibatch_stddev_forward", x, dense(x, channels_last), out, DTYPES[x.dtype], *shape, channels_last, group,
            grouping == "strided", group - unbiased, eps,
        )  # fmt: skip
        return out

    def minibatch_stddev_backward(
        self, dy: Tensor, x: Tensor, group: int, grouping: str, unbiased: bool, eps: float
    ) -> Tensor:
        channels_last = is_channels_last(dy)
        shape = x.shape
        dx = empty(shape, x, channels_last)
        self._call_summing(
            "minibatch_stddev_backward", x, dense(dy, channels_last), dense(x, channels_last), dx, DTYPES[x.dtype],
            *shape, channels_last, group, grouping == "strided", group - unbiased, eps,
        )  # fmt: skip
        return dx


LIMITS: dict[str, Callable[..., str | None]] = {
    "bias_act_backward": unsupported_backward,
    "to_rgb_fade_in_forward": unsupported_to_rgb,
    "from_rgb_fade_in_forward": unsupported_from_rgb,
}
OPS = (
    "bias_act_forward", "bias_act_backward", "masked_pool", "fade_in_forward", "fade_in_backward", "fade_reals",
    "to_rgb_fade_in_forward", "from_rgb_fade_in_forward", "minibatch_stddev_forward", "minibatch_stddev_backward",
)  # fmt: skip
