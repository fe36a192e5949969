"""The generator's block by the backend "cpu", without gradients: the features between its layers stay in cache."""

from __future__ import annotations

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


@implement("cpu", "generator_stage", supports=_unsupported, rule=_rule)
def generator_stage(
    x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, slope: float | None,
    norm: str, eps: float, eps_mode: str,
) -> Tensor:  # fmt: skip
    n, cin, h, w = x.shape
    c, rgb = conv.weight.shape[0], 0 if to_rgb is None else to_rgb.weight.shape[0]
    out = layout.empty((n, rgb or c, 2 * h, 2 * w), x, not rgb or layout.is_channels_last(x))
    layers = [conv_up, conv, to_rgb or NO_LAYER, to_rgb_low or NO_LAYER]
    parameters = [layout.contiguous(p) for layer in layers for p in layer[:2]]
    features = x.new_empty((0, c, h, w))
    weights = [
        tiled.transformed(x, conv_up.weight, conv_up.weight_scale, "up"),
        tiled.transformed(features, conv.weight, conv.weight_scale, "none"),
    ]
    dtypes = [0 if p is None else DTYPES[p.dtype] for p in parameters]
    results = (None, out) if rgb else (out, None)
    launch(
        cpu.native.tiled_stage, layout.dense(x, True), *parameters, *weights, alpha, *results, DTYPES[x.dtype],
        *dtypes, n, cin, h, w, c, rgb, layout.is_channels_last(out), tiled.large_tiles(features, c),
        *(scale for layer in layers for scale in layer[2:]), 1.0 if slope is None else slope, NORMS[norm], eps,
        eps_mode == "inside",
    )  # fmt: skip
    return layout.conform(out, x)
