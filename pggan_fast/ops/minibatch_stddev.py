"""minibatch_stddev: one extra map with the average standard deviation over a group of samples.

d = x - mean_g(x)      s = sqrt(kk * sum_g(d^2) + eps)      v = mean_{c,h,w}(s)      kk = 1/G, or 1/(G-1) unbiased
dx = dy[:, :C] + q * kk * d / (CHW * s),    q the sum of dy[:, C] over the group's samples and pixels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.ops._register import register
from pggan_fast.reference import merge_groups, split_groups


def minibatch_stddev(
    x: Tensor,
    group_size: int = 4,
    *,
    grouping: str = "strided",
    unbiased: bool = False,
    eps: float = 1e-8,
    backend: str | None = None,
) -> Tensor:
    """Append one map: the standard deviation over each group of samples, averaged over channels and pixels.

    Args:
        x: [N, C, H, W].
        group_size: samples in a group; min(group_size, N) is used and must divide N.
        grouping: "strided" (official): sample n belongs to group n mod M of M groups; "adjacent": n // group_size.
        unbiased: divide the variance by G - 1 (some ports) in place of G.
    Returns:
        [N, C + 1, H, W] in x's dtype; statistics are float32 at least. N = 0 gives [0, C + 1, H, W].
    Raises:
        ValueError, TypeError: an argument is off (N not divisible by the group, say); the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, section 3.
    """
    _check(x, group_size, grouping, unbiased, eps)
    group = min(group_size, x.shape[0]) if x.shape[0] else group_size
    chosen = forced.named(backend)
    if chosen == "reference" or needs_reference():
        with _autocast.off(x):
            return reference.minibatch_stddev(x, group, grouping=grouping, unbiased=unbiased, eps=eps)
    y: Tensor = _forward(x, group, grouping, unbiased, eps, chosen)
    return y


@_checks.once(tensors=1)
def _check(x: Tensor, group_size: int, grouping: str, unbiased: bool, eps: float) -> None:
    _checks.tensor("x", x, (4,))
    _checks.one_of("grouping", grouping, ("strided", "adjacent"))
    _checks.finite(eps=eps)
    if eps < 0.0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    _checks.counts(1, group_size=group_size)
    group = min(group_size, x.shape[0]) if x.shape[0] else group_size
    if x.shape[0] % group:
        raise ValueError(
            f"x: expected a batch that group_size {group_size} divides, or at most {group_size} samples, got "
            f"{x.shape[0]} samples; drop the last batch of an epoch (drop_last=True), or choose another group size"
        )
    if not isinstance(unbiased, bool):
        raise TypeError(f"unbiased: expected True or False, got {unbiased!r}")
    if x.shape[0] and not x.numel():
        raise ValueError(f"x: expected at least one channel and pixel, got shape {tuple(x.shape)}")
    if unbiased and group == 1:
        raise ValueError(
            "unbiased: expected False, as the deviation of a group of 1 sample is undefined, got True; or give more "
            "samples, in larger groups"
        )


def _forward_fake(x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    n, c, h, w = x.shape
    return layout.empty((n, c + 1, h, w), x, layout.is_channels_last(x))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.config = inputs
    ctx.save_for_backward(x)


def _forward_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (x,) = ctx.saved_tensors
    return _backward(dy, x, *ctx.config), *(None,) * 5


_forward = register(
    "minibatch_stddev_forward(Tensor x, SymInt group, str grouping, bool unbiased, float eps, str backend) -> Tensor",
    _forward_fake,
    _setup,
    _forward_backward,
)


def _backward_fake(dy: Tensor, x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    return layout.empty(x.shape, x, layout.is_channels_last(dy))


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, *ctx.config = inputs
    ctx.save_for_backward(dy, x)


def _second_order(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    """Gradients in (dy, x), closed form in plain differentiable PyTorch: this layer sees 4x4 maps only."""
    dy, x = ctx.saved_tensors
    group, grouping, unbiased, eps, _ = ctx.config
    n, c, h, w = x.shape
    if n == 0:
        return torch.zeros_like(dy), torch.zeros_like(x), *(None,) * 5
    wide = layout.accumulator(x.dtype)
    kk = 1.0 / (group - 1 if unbiased else group)
    xs, gs = split_groups(x.to(wide), group, grouping), split_groups(g.to(wide), group, grouping)
    d = xs - xs.mean(dim=0)  # [G, M, C, H, W]
    s = (kk * d.square().sum(dim=0) + eps).sqrt()  # [M, C, H, W]
    q = split_groups(dy[:, c].to(wide), group, grouping).sum(dim=(0, 2, 3))  # [M]
    chain = kk / (c * h * w)
    projected = (gs * d).sum(dim=0)  # [M, C, H, W]
    p = chain * (projected / s).sum(dim=(1, 2, 3))  # [M]
    d_map = merge_groups(p.expand(group, -1), grouping).to(dy.dtype).view(n, 1, 1, 1).expand(n, 1, h, w)
    curvature = (gs - gs.mean(dim=0)) / s - d * (kk * projected / s**3)
    d_x = merge_groups(curvature * (q * chain).view(-1, 1, 1, 1), grouping).to(x.dtype)
    with _autocast.off(g):
        return torch.cat([g, d_map], dim=1), d_x, *(None,) * 5


_backward = register(
    "minibatch_stddev_backward(Tensor dy, Tensor x, SymInt group, str grouping, bool unbiased, float eps, str backend) "
    "-> Tensor",
    _backward_fake,
    _backward_setup,
    _second_order,
)
