"""The generator's block by the backend "cpu", without gradients: the features between its layers stay in cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pggan_fast.backends import cpu, layout, tiled
from pggan_fast.backends.launch import launch
from pggan_fast.backends.native import DTYPES, NO_LAYER, NORMS, unsupported_image_channels
from pggan_fast.backends.registry import implement

MOST_CHANNELS = 128  # of more, edges that are computed twice cost as much as the memory saves


def _unsupported(x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, *others: Any) -> str | None:
    c = conv.weight.shape[0]
    if to_rgb is not None and (reason := unsupported_image_channels(to_rgb.weight.shape[0])) is not None:
        return reason
    if (reason := cpu.unsupported(x)) is not None:
        return reason
    if c > MOST_CHANNELS:
        return f"its features stay in cache up to {MOST_CHANNELS} channels, got {c}"
    return None if x.numel() else "there is nothing to convolve"


def _rule(x: Tensor, conv_up: Any, conv: Any, *others: Any) -> str | None:
    return tiled.conv_rule(x, conv.weight.shape[0], 3, "up")


def _plan(
    x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, slope: float | None,
    norm: str, eps: float, eps_mode: str,
) -> Callable[..., Tensor]:  # fmt: skip
    n, cin, h, w = x.shape
    c, rgb = conv.weight.shape[0], 0 if to_rgb is None else to_rgb.weight.shape[0]
    rows = not rgb or layout.is_channels_last(x)
    kind = layout.output((n, rgb or c, 2 * h, 2 * w), x, rows)
    layers = [conv_up, conv, to_rgb or NO_LAYER, to_rgb_low or NO_LAYER]
    features = x.new_empty((0, c, h, w))
    constants = (
        DTYPES[x.dtype], *(0 if p is None else DTYPES[p.dtype] for layer in layers for p in layer[:2]), n, cin, h, w,
        c, rgb, kind.strides[1] == 1, tiled.large_tiles(features, c),
        *(scale for layer in layers for scale in layer[2:]), 1.0 if slope is None else slope, NORMS[norm], eps,
        eps_mode == "inside",
    )  # fmt: skip

    def run(x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, *_: Any) -> Tensor:
        out = layout.allocate(kind, x)
        layers = conv_up, conv, to_rgb or NO_LAYER, to_rgb_low or NO_LAYER
        launch(
            cpu.native.tiled_stage, layout.dense(x, True),
            *(layout.contiguous(p) for layer in layers for p in layer[:2]),
            tiled.transformed(x, conv_up.weight, conv_up.weight_scale, "up"),
            tiled.transformed(features, conv.weight, conv.weight_scale, "none"),
            alpha, *((None, out) if rgb else (out, None)), *constants,
        )  # fmt: skip
        return layout.conform(out, x)

    return run


@implement("cpu", "generator_stage", supports=_unsupported, rule=_rule, plan=_plan)
def generator_stage(
    x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, slope: float | None,
    norm: str, eps: float, eps_mode: str,
) -> Tensor:  # fmt: skip
    args = x, conv_up, conv, to_rgb, to_rgb_low, alpha, slope, norm, eps, eps_mode
    return _plan(*args)(*args)
