"""Precision: where a layer's scale is applied per dtype, and what torch's settings allow."""

from __future__ import annotations

import torch


def split_scale(weight_scale: float, dtype: torch.dtype) -> tuple[float, float]:
    """(scale on the weights, scale on the epilogue); their product is weight_scale.

    The scale rides on the epilogue, in float32 (forward: v = scale * u; backward: du leaves with the scale already in
    it, right for dx and dW alike), so no scaled copy of the weights is made. In float16 the unscaled products could
    leave the range: there the weights are scaled, in the pass that rounds them anyway.
    """
    if dtype == torch.float16:
        return weight_scale, 1.0
    return 1.0, weight_scale


def exact_matmul() -> bool:
    """Whether torch multiplies float32 matrices in full float32, as far as its settings can be read."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer where its old and new switches were mixed
        return False
