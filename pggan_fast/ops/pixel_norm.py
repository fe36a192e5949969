"""pixel_norm: the pixelwise feature vector normalisation alone; `bias_act` without bias and activation."""

from __future__ import annotations

from torch import Tensor

from pggan_fast.ops.bias_act import bias_act


def pixel_norm(x: Tensor, eps: float = 1e-8, *, backend: str | None = None) -> Tensor:
    """`x * rsqrt(mean_c(x^2) + eps)` over dim 1 of x [N, C, H, W] or [N, C].

    Returns a tensor of x's shape and dtype; the mean is float32 at least. Errors as for `bias_act`.
    Source: Karras et al. 2017, section 4.2.
    """
    return bias_act(x, pixel_norm="after_act", eps=eps, backend=backend)
