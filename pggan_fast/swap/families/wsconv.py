"""The WSConv2d tutorial (aladdinpersson/Machine-Learning-Collection, ProGAN), and the many copies of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import NotAsRecorded, Up


class Generator(network.Network[plan.Generator]):
    pattern = "generator with WSConv2d"
    any_level = True

    def read(self, m: Any) -> None:
        levels = [self.chain(m.initial), *(chain([Up(), *self.steps(block)]) for block in m.prog_blocks)]
        self.net = plan.Generator(levels, [self.chain(layer) for layer in m.rgb_layers])

    def run(self, x: Tensor, alpha: plan.Alpha, steps: int) -> Tensor:
        if not 0 <= steps < len(self.net.levels):
            raise NotAsRecorded(f"{steps} steps")
        y = network.widened(self.net(network.latent(x, rank=4), steps, alpha if steps else None), self.module)
        return torch.tanh(y) if steps else y

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        features = network.kernel(m.initial)[0]
        z = network.random_latent(like, n, features)[:, :, None, None]
        return z, 1.0 if alpha is None else alpha, level


class Discriminator(network.Network[plan.Discriminator]):
    pattern = "discriminator with WSConv2d"
    any_level = True

    def read(self, m: Any) -> None:
        act = self.steps(m.leaky)
        blocks = [self.chain(m.final_block), *(self.chain(block, m.avg_pool) for block in reversed(m.prog_blocks))]
        from_rgb = [chain(self.applied([layer], *act)) for layer in reversed(m.rgb_layers)]
        self.net = plan.Discriminator(from_rgb, blocks)

    def run(self, x: Tensor, alpha: plan.Alpha, steps: int) -> Tensor:
        m: Any = self.module
        x = network.image(x, steps, len(self.net.blocks))
        features = self.net.features(x, steps, alpha if steps else None)
        return network.widened(self.net.blocks[0](m.minibatch_std(features)).flatten(1), m)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        channels = network.kernel(m.initial_rgb)[1]
        return network.random_image(like, n, channels, level), 1.0 if alpha is None else alpha, level


def match(m: torch.nn.Module) -> Forward | None:
    if network.has(m, "initial", "initial_rgb", "prog_blocks", "rgb_layers", "fade_in"):
        return Generator(m)
    if network.has(m, "final_block", "prog_blocks", "rgb_layers", "leaky", "avg_pool", "minibatch_std"):
        return Discriminator(m)
    return None
