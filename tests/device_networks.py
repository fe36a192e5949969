"""Small networks and whole training computations for tests/gpu."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import g_loss, wgan_gp_d_loss
from pggan_fast.training.step import frozen_parameters

RESOLUTION, BATCH, LATENT = 16, 4, 24


class Data(NamedTuple):
    reals: Tensor
    z: Tensor
    u: Tensor
    alpha: Tensor

    @staticmethod
    def draw(seed: int, device: str) -> Data:
        rng = torch.Generator().manual_seed(seed)
        z, u = torch.randn(BATCH, LATENT, generator=rng), torch.rand(BATCH, 1, 1, 1, generator=rng)
        reals = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION, generator=rng).clamp(-1.0, 1.0)
        return Data(*(t.to(device) for t in (reals, z, u, torch.tensor(0.25 + 0.125 * (seed % 4)))))

    def to(self, dtype: torch.dtype) -> Data:
        return Data(*(t.to(dtype) for t in self))

    def copy_(self, other: Data) -> None:
        for mine, theirs in zip(self, other, strict=True):
            mine.copy_(theirs)


def networks(backend: str | None, device: str) -> tuple[Generator, Discriminator]:
    """The same weights for every backend; channels 32, 32, 16, and biases that are not zero."""
    torch.manual_seed(0)
    widths = {"fmap_base": 128, "fmap_max": 32, "backend": backend}
    pair = Generator(RESOLUTION, latent_dim=LATENT, **widths), Discriminator(RESOLUTION, **widths)
    with torch.no_grad():
        for network in pair:
            for name, p in network.named_parameters():
                if name.endswith("bias"):
                    p.normal_()
    if backend == "cuda":
        leave_wide_layers(*pair)
    return pair[0].to(device), pair[1].to(device)


def leave_wide_layers(*networks: torch.nn.Module) -> None:
    """The CUDA kernels take at most 64 channels: wider dense layers are left to torch's."""
    for layer in (layer for network in networks for layer in network.modules()):
        weight = getattr(layer, "weight", None)
        if weight is not None and max(weight.shape[:2]) > 64:
            layer.backend = "aten"  # type: ignore[assignment]


Results = dict[str, "Tensor | None"]


def generate(G: Generator, data: Data) -> Results:
    with torch.no_grad():
        return {"image": G(data.z, alpha=data.alpha)}


def d_gradients(G: Generator, D: Discriminator, data: Data) -> Results:
    """WGAN-GP's loss of D and its gradients: forward twice, the penalty's inner pass and the backward through it."""
    with torch.no_grad():
        fakes = G(data.z, alpha=data.alpha)
    loss = wgan_gp_d_loss(D, data.reals, fakes, u=data.u, alpha=data.alpha)
    return _with_gradients(loss, D)


def g_gradients(G: Generator, D: Discriminator, data: Data) -> Results:
    with frozen_parameters(D):
        loss = g_loss(D, G(data.z, alpha=data.alpha), alpha=data.alpha)
        return _with_gradients(loss, G)


def _with_gradients(loss: Tensor, network: torch.nn.Module) -> Results:
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {"loss": loss.detach(), **dict(zip(names, gradients, strict=True))}


def equal(got: Results, want: Results) -> bool:
    """Bit by bit."""
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))
        for a, b in ((got[k], want[k]) for k in want)
    )


def close(got: Results, want: Results, roundings: float = 1e-3) -> None:
    """But for the roundings of other algorithms, on the scale of each tensor; and all of it finite."""
    for name, b in want.items():
        a = got[name]
        assert (a is None) == (b is None), name
        if a is not None and b is not None and b.numel():
            error, largest = float((a - b).abs().max()), float(b.abs().max())
            assert error <= roundings * largest, f"{name}: off by {error:.3g}, largest {largest:.3g}"
