"""rosinality/progressive-gan-pytorch: conv -> pixel norm -> activation; weights made by a pre-hook, EqualLR."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import NotAsRecorded, Pool, Up, View


class Generator(network.Network[plan.Generator]):
    pattern = "generator of progressive-gan-pytorch"
    any_level = True

    def read(self, m: Any) -> None:
        first, *blocks = m.progression
        levels = [self.chain(first), *(chain([Up(), *self.steps(block)]) for block in blocks)]
        self.net = plan.Generator(levels, [self.chain(layer) for layer in m.to_rgb])
        self.norm = chain(self.steps(m.code_norm, 2))

    def run(self, input: Tensor, label: Tensor, step: int = 0, alpha: plan.Alpha = -1) -> Tensor:
        m: Any = self.module
        if not 0 <= step < len(self.net.levels):
            raise NotAsRecorded(f"step {step}")
        z = torch.cat([self.norm(network.latent(input)), m.label_embed(label)], 1)
        return self.net(z[:, :, None, None], step, alpha if step and _fades(alpha) else None)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        kinds, size = m.label_embed.num_embeddings, m.label_embed.embedding_dim
        features = next(p for p in m.progression[0].parameters() if p.ndim == 4).shape[1] - size
        labels = torch.arange(n, device=like.device) % kinds
        return network.random_latent(like, n, features), labels, level, -1 if alpha is None else alpha


class Discriminator(network.Network[plan.Discriminator]):
    pattern = "discriminator of progressive-gan-pytorch"
    any_level = True

    def read(self, m: Any) -> None:
        *blocks, last = m.progression
        ending = chain([*self.steps(last), View(), *self.steps(m.linear, 2)])
        chains = [ending, *(chain([*self.steps(block), Pool()]) for block in reversed(blocks))]
        self.net = plan.Discriminator([self.chain(layer) for layer in reversed(m.from_rgb)], chains)

    def run(self, input: Tensor, step: int = 0, alpha: plan.Alpha = -1) -> tuple[Tensor, Tensor]:
        image = network.image(input, step, len(self.net.blocks))
        x = self.net.features(image, step, alpha if step and _fades(alpha) else None)
        deviation = image.std(0).mean()  # of the image, whatever its size
        out = self.net.blocks[0](torch.cat([x, deviation.expand(x.shape[0], 1, 4, 4)], 1))
        return out[:, 0], out[:, 1:]

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        x = network.random_image(like, n, m.from_rgb[0].weight.shape[1], level)
        return x, level, -1 if alpha is None else alpha


def _fades(alpha: Any) -> bool:
    return bool(0 <= alpha < 1)


def match(m: torch.nn.Module) -> Forward | None:
    if network.has(m, "progression", "to_rgb", "label_embed", "code_norm"):
        return Generator(m)
    if network.has(m, "progression", "from_rgb", "n_layer", "linear"):
        return Discriminator(m)
    return None
