"""Networks small enough to be compiled, exported, copied and sent between processes, and what is compared of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pggan_fast import networks
from pggan_fast.models import Discriminator, Generator

Network = Generator | Discriminator
LATENT, LABELS = 16, 3
KINDS = (Generator, Discriminator)
ALPHA = 0.3  # while a level fades in, the older one has a part too


def make(kind: type[Network], resolution: int = 16, *, labelled: bool = False, **options: Any) -> Network:
    """With biases that are not zero: 16, 16 and 8 feature maps."""
    widths = {"fmap_base": 64, "fmap_max": 16, **({"latent_dim": LATENT} if kind is Generator else {})}
    network = kind(resolution, label_dim=LABELS if labelled else 0, **{**widths, **options})
    with torch.no_grad():
        for key, p in network.named_parameters():
            if key.endswith("bias"):
                p.normal_()
    return network


def saved(path: Path, name: str = "G", resolution: int = 16, **options: Any) -> Generator:
    """A generator, in a network file under that name."""
    network = make(Generator, resolution, **options)
    assert isinstance(network, Generator)
    held: dict[str, Any] = {name: network}
    networks.save(path, networks.Networks(**held))
    return network


def arguments(network: Network, n: int = 4, size: int | None = None) -> tuple[Tensor, ...]:
    """What its forward takes besides alpha; images of full size unless another is given."""
    if isinstance(network, Discriminator):
        size = size or network.levels.resolution
        return (torch.randn(n, 3, size, size),)
    return (torch.randn(n, LATENT), one_hot(n)) if network.label_dim else (torch.randn(n, LATENT),)


def one_hot(n: int) -> Tensor:
    return torch.eye(LABELS)[torch.arange(n) % LABELS]


def outputs(result: Tensor | tuple[Tensor, Tensor | None]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for t in result if t is not None]


def gradients(results: list[Tensor], wanted: list[Tensor]) -> list[Tensor | None]:
    """Of a sum in which every element of every output counts differently; None where nothing depends on it."""
    loss = sum((t.double().square() * torch.linspace(1, 2, t.numel()).view(t.shape)).sum() for t in results)
    assert isinstance(loss, Tensor)
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


def assert_same_gradients(got: list[Tensor | None], want: list[Tensor | None], **options: float) -> None:
    assert [g is None for g in got] == [g is None for g in want]
    assert any(g is not None and g.any() for g in want)
    torch.testing.assert_close([g for g in got if g is not None], [g for g in want if g is not None], **options)
