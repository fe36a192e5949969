"""Convolutions on the CPU, 3x3 with fewer products, a tile at a time through cache: csrc/cpu/forms.h has the formulas.

Without resampling Winograd's F(2x2, 3x3), 16 products for 4 pixels in place of 36 (Lavin & Gray 2015, arXiv
1509.09308); with it by differences, 9 for the 4 pixels of the larger image. All dtypes, sums in float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import cpu, layout
from pggan_fast.backends.frozen import is_frozen, prepared
from pggan_fast.backends.launch import launch
from pggan_fast.backends.native import DTYPES, NORMS
from pggan_fast.backends.precision import exact_matmul
from pggan_fast.backends.registry import LAYER_BACKWARD, Gradients

RESAMPLES = {"none": 0, "up": 1, "down": 2}
LEAST_CHANNELS = 8  # below, half of a vector's lanes are idle
NARROW = 32  # channels up to which the weights' transform counts for nothing
LEAST_PLANES = 128  # channels of planes, which are copied to rows and back
MOST_PLANES = 8192  # elements of an image whose planes a kernel takes as they are
# Of 1x1 convolutions: most pixels, and most elements of an image in rows, of one in planes, and of the weights
SINGLE_PIXELS, SINGLE_ROWS, SINGLE_PLANES, SINGLE_WEIGHTS = 256, 1 << 14, 1 << 12, 1 << 12
MOST_LANES = 16  # of a vector, on any instruction set
MOST_WEIGHTS = 32 << 20  # bytes of transformed weights


def rule(x: Tensor, channels: int, k: int, resample: str) -> str | None:
    """Why tiles do not pay for x and so many channels of y, as far as nobody measured; None where they do."""
    n, _, h, w = x.shape
    few = min(x.shape[1], channels)
    if k == 1:
        return _single_rule(x, channels)
    if few < LEAST_CHANNELS:
        return f"of less than {LEAST_CHANNELS} channels half of a vector would be idle"
    if resample != "none":
        return None
    if min(h, w) == 1 and x.dtype in (torch.float32, torch.bfloat16):
        return "of one row half of every tile would be idle"
    most = max(x.shape[1], channels)
    if most > NARROW and n * h * w < most:
        return f"so few pixels do not pay for transforming the weights: {n * h * w} for {most} channels"
    if not layout.is_channels_last(x) and few < LEAST_PLANES and x.numel() > MOST_PLANES:
        return f"planes would be copied to rows and back, which pays from {LEAST_PLANES} channels on"
    return None


def _single_rule(x: Tensor, channels: int) -> str | None:
    """The same for 1x1 convolutions, which need no less products here than torch's: only calls are cheaper."""
    n, cin, h, w = x.shape
    pixels, most = n * h * w, SINGLE_ROWS if layout.is_dense(x, True) else SINGLE_PLANES
    small = pixels <= SINGLE_PIXELS and pixels * max(cin, channels) <= most
    if small and cin * channels <= SINGLE_WEIGHTS:
        return None
    return "torch's 1x1 convolutions are faster where they take longer than a call"


def conv_rule(x: Tensor, channels: int, k: int, resample: str) -> str | None:
    """The same for the convolution and its input gradient."""
    if x.dtype == torch.bfloat16 and cpu.native is not None and cpu.native.multiplies_bfloat16:
        return "torch's convolution is faster where the CPU multiplies bfloat16"
    return rule(x, channels, k, resample)


def large_tiles(x: Tensor, channels: int) -> bool:
    """Whether F(4x4, 3x3) may run, 36 products for 16 pixels: it rounds ten times as much as F(2x2, 3x3), a fiftieth of
    what TF32 loses, which torch's settings have to allow."""
    allowed = x.dtype != torch.float64 and not exact_matmul()
    return allowed and 4 * 36 * x.shape[1] * channels <= MOST_WEIGHTS


def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """`scale * conv2d(x, weight, padding=k // 2)` with resampling, or with `adjoint` of the flipped transpose."""
    return conv_plan(x, weight, scale, resample, adjoint)(x, weight)


def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(y, factor of the norm or None) of scaled_conv2d, but for "pool"."""
    args = x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode
    return layer_plan(*args)(*args)


def weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    """The gradient of `conv(x, weight, scale, resample, False)` in weight [C, Cin, k, k], in `dtype`."""
    return weight_grad_plan(x, dy, scale, resample, k, dtype)(x, dy)


def conv_plan(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Callable[..., Tensor]:
    """What runs `conv` for such arguments, of (x, weight)."""
    run = layer_plan(x, weight, None, scale, 1.0, resample, None, "none", 0.0, "inside", adjoint=adjoint)
    return lambda x, weight, *_: run(x, weight, None)[0]


def layer_plan(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str, *, adjoint: bool = False,
) -> Callable[..., tuple[Tensor, Tensor | None]]:  # fmt: skip
    """What runs `layer` for such arguments, of (x, weight, bias); with `adjoint` by the flipped transpose."""
    shape = n, _, h, w = layout.output_shape(x, weight, resample, adjoint)
    read, planes = _reading(x)
    out, out_planes, conform = _writing(shape, x)
    factor = None if norm == "none" else layout.output((n, 1, h, w), x, False, layout.accumulator(x.dtype))
    ready = layout.is_ready(weight), layout.is_ready(bias)
    constants = (
        *_config(x, weight, bias, weight_scale, resample, adjoint), bias_scale, 1.0 if slope is None else slope,
        NORMS[norm], eps, eps_mode == "inside", planes, out_planes,
    )  # fmt: skip

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, Tensor | None]:
        y = layout.allocate(out, x)
        r = None if factor is None else layout.allocate(factor, x)
        u = transformed(x, weight, weight_scale, resample, adjoint)
        launch(
            cpu.native.tiled_conv, read(x), weight if ready[0] else layout.contiguous(weight), u,
            bias if ready[1] else layout.contiguous(bias), y, r, *constants,
        )  # fmt: skip
        return (layout.conform(y, x) if conform else y), r

    return run


def _as_it_is(x: Any) -> Any:
    return x


def _to_rows(x: Tensor) -> Tensor:
    return layout.dense(x, True).resolve_neg()


def _reading(x: Tensor) -> tuple[Callable[[Tensor], Tensor], bool]:
    """What makes of such an x what a kernel reads, and whether that is planes."""
    if x.is_neg():
        return _to_rows, False
    if layout.is_dense(x, True):
        return _as_it_is, False
    if x.numel() <= MOST_PLANES and layout.is_dense(x, False):
        return _as_it_is, True
    return _to_rows, False


def _writing(shape: tuple[int, ...], like: Tensor) -> tuple[layout.Output, bool, bool]:
    """(what a kernel writes of this shape for `like`, whether that is planes, whether it is to be conformed)."""
    rows, wanted = layout.output(shape, like, True), layout.output(shape, like, layout.is_channels_last(like))
    if rows == wanted:
        return rows, False, False
    small = math.prod(shape) <= MOST_PLANES
    return (wanted if small else rows), small, not small


def _config(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, resample: str, adjoint: bool
) -> tuple[Any, ...]:
    c = weight.shape[1 if adjoint else 0]
    return (
        DTYPES[x.dtype], DTYPES[weight.dtype], 0 if bias is None else DTYPES[bias.dtype], *x.shape, c, weight.shape[2],
        RESAMPLES[resample], adjoint, large_tiles(x, c), weight_scale,
    )  # fmt: skip


def transformed(x: Tensor, weight: Tensor, weight_scale: float, resample: str, adjoint: bool = False) -> Tensor | None:
    """A frozen 3x3 weight as the convolution of such an x multiplies with it; None: it transforms the weight itself."""
    if weight.shape[2] == 1 or not is_frozen(weight):
        return None
    config = _config(x, weight, None, weight_scale, resample, adjoint)

    def transform() -> Tensor:
        _, cin, _, _, c = config[3:8]
        points = 9 if resample != "none" else 36 if large_tiles(x, c) else 16
        whole = -(-c // MOST_LANES) * MOST_LANES
        u = x.new_empty(points * cin * whole, dtype=layout.accumulator(x.dtype))
        rest = 1.0, 1.0, 0, 0.0, True, False, False  # of the epilogue and of images
        launch(cpu.native.tiled_weight, x, layout.contiguous(weight), u, None, None, None, *config, *rest)
        return u

    # all that the values hang on
    key = "tiled", x.dtype, large_tiles(x, config[7]), weight_scale, resample, adjoint, cpu.native.isa()
    return prepared(weight, key, transform)


def weight_grad_plan(
    x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype
) -> Callable[..., Tensor]:
    """What runs `weight_grad` for such arguments, of (x, dy)."""
    c = dy.shape[1]
    out = layout.output((c, x.shape[1], k, k), x, False, dtype)
    (read_x, x_planes), (read_dy, dy_planes) = _reading(x), _reading(dy)
    constants = (
        DTYPES[x.dtype], DTYPES[dtype], *x.shape, c, k, RESAMPLES[resample], large_tiles(x, c), scale, x_planes,
        dy_planes,
    )  # fmt: skip

    def run(x: Tensor, dy: Tensor, *_: Any) -> Tensor:
        dw = layout.allocate(out, x)
        launch(cpu.native.tiled_conv_weight_grad, read_x(x), read_dy(dy), dw, *constants)
        return dw

    return run


def layer_backward_plan(
    epilogue: tuple[Any, ...],
    input_grad: tuple[Any, ...],
    weight_grad: tuple[Any, ...],
    need_x: bool,
    need_weight: bool,
) -> Callable[..., Gradients] | None:
    """What makes (dx, dw, db) of (dy, x, weight, y, r, mask) in one call, du staying inside; of the arguments of
    "bias_act_backward", "conv" and "conv_weight_grad". None where a large image would be copied first."""
    _, dr, y, _, _, scale, bias_scale, slope, norm, eps, eps_mode, pool, need_bias = epilogue
    du, weight, adjoint_scale, adjoint_resample, _ = input_grad
    x, _, weight_scale, resample, _, dtype = weight_grad
    channels_last, du_planes = layout.is_channels_last(y), not layout.is_dense(du, True)
    read_x, x_planes = _reading(x)
    dx_out, dx_planes, conform = _writing(x.shape, du)
    copied = conform or read_x is _to_rows or (du_planes and du.numel() > MOST_PLANES)
    if copied or dr is not None or not (need_x or need_weight):
        return None
    dw_out = layout.output(weight.shape, x, False, dtype)
    db_out = layout.accumulator(x.dtype)
    c, ready = du.shape[1], layout.is_ready(weight)
    constants = (
        DTYPES[x.dtype], DTYPES[weight.dtype], *x.shape, *du.shape[1:], channels_last, du_planes, x_planes,
        dx_planes, pool, weight.shape[2], RESAMPLES[resample], RESAMPLES[adjoint_resample], large_tiles(x, c),
        weight_scale, adjoint_scale, scale, bias_scale, 1.0 if slope is None else slope, NORMS[norm], eps,
        eps_mode == "inside",
    )  # fmt: skip

    def run(dy: Tensor, x: Tensor, weight: Tensor, y: Tensor, r: Tensor | None, mask: Tensor | None) -> Gradients:
        dx = layout.allocate(dx_out, x) if need_x else None
        dw = layout.allocate(dw_out, x) if need_weight else None
        db = x.new_empty(c, dtype=db_out) if need_bias else None
        u = transformed(dy, weight, adjoint_scale, adjoint_resample, True)
        launch(
            cpu.native.tiled_layer_backward, layout.dense(dy, channels_last),
            None if pool else layout.dense(y, channels_last), layout.contiguous(r),
            None if mask is None else layout.dense(mask, channels_last), x,
            weight if ready else layout.contiguous(weight), u, dx, dw, db, *constants,
        )  # fmt: skip
        return dx, dw, db

    return run


LAYER_BACKWARD["cpu", "cpu"] = layer_backward_plan
