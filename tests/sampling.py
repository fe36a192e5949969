"""Small generators for tests of sampling, and what their images are without a sampler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast import frozen
from pggan_fast.models import Generator

LATENT = 16


def generator(resolution: int = 16, seed: int = 0, **options: Any) -> Generator:
    """Biases are not zero, pixels seldom leave [-1, 1], and 64 channels are enough for weights to be prepared."""
    torch.manual_seed(seed)
    G = Generator(resolution, latent_dim=LATENT, **{"fmap_base": 512, "fmap_max": 64, **options})
    with torch.no_grad():
        for name, p in G.named_parameters():
            if name.endswith("bias"):
                p.normal_(std=0.1)
            if name.startswith("to_rgb"):
                p.mul_(0.4)
    return G


def draw(n: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n, LATENT, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def expected(G: Generator, z: Tensor, *args: Any, **options: Any) -> Tensor:
    with frozen(G):
        return G(z, *args, **options)


# The network, its call's labels, and what the sampler and the network's forward are both told.
NETWORKS: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "plain": ({}, 0, {}),
    "labels": ({"label_dim": 3}, 3, {}),
    "not square": ({"base_shape": (2, 5)}, 0, {}),
    "one channel": ({"channels": 1}, 0, {}),
    "below": ({}, 0, {"resolution": 8}),
    "lowest, fading": ({}, 0, {"resolution": 4, "alpha": 0.5}),
    "fading": ({}, 0, {"alpha": 0.3}),
    "fading below": ({"label_dim": 2}, 2, {"resolution": 8, "alpha": torch.tensor(0.7)}),
    "alpha above 1": ({}, 0, {"alpha": 2.0}),
    "alpha below 0": ({}, 0, {"alpha": -1.0}),
    "reference": ({"backend": "reference"}, 0, {}),
    "NCHW": ({"channels_last": False}, 0, {}),
}
