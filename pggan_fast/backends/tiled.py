"""3x3 convolutions on the CPU with fewer products, a tile at a time through cache: csrc/cpu/forms.h has the formulas.

Without resampling Winograd's F(2x2, 3x3), 16 products for 4 pixels in place of 36 (Lavin & Gray 2015, arXiv
1509.09308); with it by differences, 9 for the 4 pixels of the larger image. All dtypes, sums in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import cpu, layout
from pggan_fast.backends.frozen import is_frozen, prepared
from pggan_fast.backends.launch import launch
from pggan_fast.backends.native import DTYPES, NORMS
from pggan_fast.backends.precision import exact_matmul

RESAMPLES = {"none": 0, "up": 1, "down": 2}
LEAST_CHANNELS = 8  # below, half of a vector's lanes are idle
NARROW = 32  # channels up to which the weights' transform counts for nothing
LEAST_PLANES = 128  # channels of planes, which are copied to rows and back
MOST_LANES = 16  # of a vector, on any instruction set
MOST_WEIGHTS = 32 << 20  # bytes of transformed weights


def rule(x: Tensor, channels: int, resample: str) -> str | None:
    """Why tiles do not pay for x and so many channels of y, as far as nobody measured; None where they do."""
    n, _, h, w = x.shape
    few = min(x.shape[1], channels)
    if few < LEAST_CHANNELS:
        return f"of less than {LEAST_CHANNELS} channels half of a vector would be idle"
    if resample != "none":
        return None
    if min(h, w) == 1 and x.dtype in (torch.float32, torch.bfloat16):
        return "of one row half of every tile would be idle"
    most = max(x.shape[1], channels)
    if most > NARROW and n * h * w < most:
        return f"so few pixels do not pay for transforming the weights: {n * h * w} for {most} channels"
    if not layout.is_channels_last(x) and few < LEAST_PLANES:
        return f"planes would be copied to rows and back, which pays from {LEAST_PLANES} channels on"
    return None


def conv_rule(x: Tensor, channels: int, resample: str) -> str | None:
    """The same for the convolution and its input gradient."""
    if x.dtype == torch.bfloat16 and cpu.native is not None and cpu.native.multiplies_bfloat16:
        return "torch's convolution is faster where the CPU multiplies bfloat16"
    return rule(x, channels, resample)


def large_tiles(x: Tensor, channels: int) -> bool:
    """Whether F(4x4, 3x3) may run, 36 products for 16 pixels: it rounds ten times as much as F(2x2, 3x3), a fiftieth of
    what TF32 loses, which torch's settings have to allow."""
    allowed = x.dtype != torch.float64 and not exact_matmul()
    return allowed and 4 * 36 * x.shape[1] * channels <= MOST_WEIGHTS


def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """`scale * conv2d(x, weight, padding=1)` with resampling, or with `adjoint` of the flipped transpose."""
    return conv_plan(x, weight, scale, resample, adjoint)(x, weight)


def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(y, factor of the norm or None) of scaled_conv2d, but for "pool"."""
    args = x, weight, bias, weight_scale, bias_scale, resample, slope, norm, eps, eps_mode
    return layer_plan(*args)(*args)


def weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, k: int, dtype: torch.dtype) -> Tensor:
    """The gradient of `conv(x, weight, scale, resample, False)` in weight [C, Cin, 3, 3], in `dtype`."""
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
    out = layout.output(shape, x, True)
    factor = None if norm == "none" else layout.output((n, 1, h, w), x, False, layout.accumulator(x.dtype))
    constants = (
        *_config(x, weight, bias, weight_scale, resample, adjoint), bias_scale, 1.0 if slope is None else slope,
        NORMS[norm], eps, eps_mode == "inside",
    )  # fmt: skip

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, Tensor | None]:
        y = layout.allocate(out, x)
        r = None if factor is None else layout.allocate(factor, x)
        u = transformed(x, weight, weight_scale, resample, adjoint)
        launch(
            cpu.native.tiled_conv, layout.dense(x, True), layout.contiguous(weight), u, layout.contiguous(bias), y, r,
            *constants,
        )  # fmt: skip
        return layout.conform(y, x), r

    return run


def _config(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, resample: str, adjoint: bool
) -> tuple[Any, ...]:
    c = weight.shape[1 if adjoint else 0]
    return (
        DTYPES[x.dtype], DTYPES[weight.dtype], 0 if bias is None else DTYPES[bias.dtype], *x.shape, c,
        RESAMPLES[resample], adjoint, large_tiles(x, c), weight_scale,
    )  # fmt: skip


def transformed(x: Tensor, weight: Tensor, weight_scale: float, resample: str, adjoint: bool = False) -> Tensor | None:
    """A frozen weight as the convolution of such an x multiplies with it; None: it transforms the weight itself."""
    if not is_frozen(weight):
        return None
    config = _config(x, weight, None, weight_scale, resample, adjoint)

    def transform() -> Tensor:
        _, cin, _, _, c = config[3:8]
        points = 9 if resample != "none" else 36 if large_tiles(x, c) else 16
        whole = -(-c // MOST_LANES) * MOST_LANES
        u = x.new_empty(points * cin * whole, dtype=layout.accumulator(x.dtype))
        rest = 1.0, 1.0, 0, 0.0, True  # of the epilogue
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
    out = layout.output((c, x.shape[1], 3, 3), x, False, dtype)
    constants = (
        DTYPES[x.dtype], DTYPES[dtype], *x.shape, c, RESAMPLES[resample], large_tiles(x, c), scale,
    )  # fmt: skip

    def run(x: Tensor, dy: Tensor, *_: Any) -> Tensor:
        dw = layout.allocate(out, x)
        native = cpu.native.tiled_conv_weight_grad
        launch(native, layout.dense(x, True), layout.dense(dy, True), dw, *constants)
        return dw

    return run
