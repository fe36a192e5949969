"""3x3 convolutions on the CPU with fewer products, a tile at a time through cache: csrc/cpu/forms.h has the formulas.

Without resampling Winograd's F(2x2, 3x3), 16 products for 4 pixels in place of 36 (Lavin & Gray 2015, arXiv
1509.09308); with it by differences, 9 for the 4 pixels of the larger image. All dtypes, sums in float32 at least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import cpu, layout
from pggan_fast.backends.frozen import is_frozen, prepared
from pggan_fast.backends.launch import launch
from pggan_fast.backends.native import NORMS, norm_factor
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
    if x.dtype == torch.bfloat16 and cpu.native.multiplies_bfloat16:
        return "torch's convolution is faster where the CPU multiplies bfloat16"
    return rule(x, channels, resample)


def large_tiles(x: Tensor, channels: int) -> bool:
    """Whether F(4x4, 3x3) may run, 36 products for 16 pixels: it rounds ten times as much as F(2x2, 3x3), a fiftieth of
    what TF32 loses, which torch's settings have to allow."""
    allowed = x.dtype != torch.float64 and not exact_matmul()
    return allowed and 4 * 36 * x.shape[1] * channels <= MOST_WEIGHTS


def conv(x: Tensor, weight: Tensor, scale: float, resample: str, adjoint: bool) -> Tensor:
    """`scale * conv2d(x, weight, padding=1)` with resampling, or with `adjoint` of the flipped transpose."""
    return _layer(x, weight, None, scale, 1.0, resample, adjoint, None, "none", 0.0, "inside")[0]


def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """(y, factor of the norm or None) of scaled_conv2d, but for "pool"."""
    return _layer(x, weight, bias, weight_scale, bias_scale, resample, False, slope, norm, eps, eps_mode)


def _layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, bias_scale: float, resample: str,
    adjoint: bool, slope: float | None, norm: str, eps: float, eps_mode: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    rows = layout.dense(x, True)
    y = layout.empty(layout.output_shape(x, weight, resample, adjoint), x, True)
    n, _, h, w = y.shape
    r = norm_factor(x, n, h, w, norm)
    bias = layout.contiguous(bias)
    u = transformed(x, weight, weight_scale, resample, adjoint)
    launch(
        cpu.native.tiled_conv, rows, layout.contiguous(weight), u, bias, y, r,
        *_config(x, weight, bias, weight_scale, resample, adjoint), bias_scale, 1.0 if slope is None else slope,
        NORMS[norm], eps, eps_mode == "inside",
    )  # fmt: skip
    return layout.conform(y, x), r


def _config(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: float, resample: str, adjoint: bool
) -> tuple[Any, ...]:
    c = weight.shape[1 if adjoint else 0]
    return (
        cpu.DTYPES[x.dtype], cpu.DTYPES[weight.dtype], 0 if bias is None else cpu.DTYPES[bias.dtype], *x.shape, c,
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


def weight_grad(x: Tensor, dy: Tensor, scale: float, resample: str, dtype: torch.dtype) -> Tensor:
    """The gradient of `conv(x, weight, scale, resample, False)` in weight [C, Cin, 3, 3], in `dtype`."""
    c = dy.shape[1]
    dw = layout.empty((c, x.shape[1], 3, 3), x, False, dtype)
    launch(
        cpu.native.tiled_conv_weight_grad, layout.dense(x, True), layout.dense(dy, True), dw, cpu.DTYPES[x.dtype],
        cpu.DTYPES[dtype], *x.shape, c, RESAMPLES[resample], large_tiles(x, c), scale,
    )  # fmt: skip
    return dw
