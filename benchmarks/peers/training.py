"""Published progressive GANs, by name, and a training step of each as its users write one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# The module of this package that has `networks`, `generate` and `score`. PACKAGES are the packages themselves,
# where they are installed; the others have the structure, the names and the numerics of what was published.
PEERS = {
    "pro-gan-pth": "pro_gan_pth",
    "gan-lab": "gan_lab_package",
    "akanimax": "akanimax",  # pro-gan-pth's structure
    "wsconv": "wsconv",
    "gan_zoo": "gan_zoo",
    "rosinality": "rosinality",
    "nashory": "nashory",
    "gan_lab": "gan_lab",
    "genforce": "genforce",
}
PACKAGES = ("pro-gan-pth", "gan-lab")
ALPHA = 0.5  # the last level is half faded in


def module(name: str) -> ModuleType:
    return importlib.import_module(f"pggan_fast.benchmarks.peers.{PEERS[name]}")


def origin(name: str) -> str:
    """What the networks of that name are: two differ by a hyphen alone."""
    return "the package itself" if name in PACKAGES else "in structure and numerics"


def depth_of(resolution: int) -> int:
    return resolution.bit_length() - 3


def networks(name: str, resolution: int, widths: Sequence[int], latent: int, seed: int) -> list[torch.nn.Module]:
    """[G, D] of `widths` from 4x4 up, the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return list(module(name).networks(depth_of(resolution), list(widths), latent))


class Training:
    """One pair of networks in training on always the same inputs: WGAN-GP with drift, both with Adam."""

    def __init__(self, peer: ModuleType, networks: Sequence[torch.nn.Module], inputs: Sequence[Tensor]) -> None:
        self.peer = peer
        self.G, self.D = networks
        self.z, self.reals, self.u = inputs
        self.depth = depth_of(self.reals.shape[3])
        options: dict[str, Any] = {"lr": 1e-3, "betas": (0.0, 0.99), "eps": 1e-8}
        self.on_d, self.on_g = (torch.optim.Adam(m.parameters(), **options) for m in (self.D, self.G))

    def generate(self) -> Tensor:
        image: Tensor = self.peer.generate(self.G, self.z, self.depth, ALPHA)
        return image

    def score(self, images: Tensor) -> Tensor:
        scores = self.peer.score(self.D, images, self.depth, ALPHA)
        return (scores[0] if isinstance(scores, tuple) else scores).flatten()

    def step(self) -> dict[str, Tensor]:
        """D's step, then G's: D's loss, and the gradients that each left."""
        d_loss, g_loss = self.losses()
        self.on_d.zero_grad()
        d_loss.backward()
        found = {"loss": d_loss.detach(), **_gradients("D", self.D)}
        self.on_d.step()
        self.on_g.zero_grad()
        g_loss().backward()
        self.on_g.step()
        return found | _gradients("G", self.G)

    def losses(self) -> tuple[Tensor, Callable[[], Tensor]]:
        """D's loss, and what makes G's after D's step."""
        fakes = self.generate()
        mixed = torch.lerp(self.reals, fakes.detach(), self.u).requires_grad_()
        (gradient,) = torch.autograd.grad(self.score(mixed).sum(), mixed, create_graph=True)
        penalty = 10.0 * (gradient.flatten(1).norm(dim=1) - 1.0).square().mean()
        real = self.score(self.reals)
        d_loss = self.score(fakes.detach()).mean() - real.mean() + 1e-3 * real.square().mean() + penalty
        return d_loss, lambda: -self.score(fakes).mean()


def _gradients(which: str, network: torch.nn.Module) -> dict[str, Tensor]:
    named = ((name, p.grad) for name, p in network.named_parameters())
    # of D they are read before G's backward adds to them
    return {f"grad {which}.{name}": grad.clone() for name, grad in named if grad is not None}
