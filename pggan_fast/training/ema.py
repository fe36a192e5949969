"""The running mean of G's weights that images are made with."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged(G: nn.Module) -> nn.Module:
    """A copy of G, of its own memory and without gradients, to be moved by `update`."""
    return copy.deepcopy(G).eval().requires_grad_(False)


@torch.no_grad()
def update(G_ema: nn.Module, G: nn.Module, beta: float) -> None:
    """G_ema = beta * G_ema + (1 - beta) * G for parameters; buffers are copied. Source: Karras et al. 2017, 4.

    The official step is constant, whatever the minibatch; to keep a half-life of k images, beta = 0.5^(minibatch / k).
    """
    torch._foreach_lerp_(list(G_ema.parameters()), list(G.parameters()), 1.0 - beta)
    for mine, theirs in zip(G_ema.buffers(), G.buffers(), strict=True):
        mine.copy_(theirs)
