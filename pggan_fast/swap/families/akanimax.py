"""akanimax/pro_gan_pytorch, PyPI pro-gan-pth (3.4, and older forms with the same attributes).

Its `EqualizedConvTranspose2d` asks a private method of torch for the padding of the output, whose signature has changed
since: every forward of G is a TypeError there. The fused forward does without that layer's own, so that a fused G works
again, with that layer's values. (The HEAD of its repository cannot be imported at all, a NameError of `Tuple`: nothing
outside of it repairs that.)
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import NotAsRecorded, Product, Ref


class Generator(network.Network[plan.Generator]):
    pattern = "generator of pro_gan_pytorch"
    any_level = True

    def read(self, m: Any) -> None:
        first, *blocks = m.layers
        norm, act = self.steps(first.pixNorm), self.steps(first.lrelu)
        base = [*norm, _transposed(first.conv_1), *act, *self.applied([first.conv_2], *act, *norm)]
        levels = [chain(base), *map(self.chain, blocks)]
        self.net = plan.Generator(levels, [self.chain(rgb) for rgb in m.rgb_converters])

    def run(self, x: Tensor, depth: int | None = None, alpha: plan.Alpha = 1.0) -> Tensor:
        m: Any = self.module
        level = (m.depth if depth is None else depth) - 2
        if not 0 <= level < len(self.net.levels):
            raise NotAsRecorded(f"depth {depth}")
        return self.net(network.latent(x)[:, :, None, None], level, alpha if level else None)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        return network.random_latent(like, n, m.latent_size), level + 2, 1.0 if alpha is None else alpha

    def state(self, level: int, alpha: float | None) -> AbstractContextManager[Any]:
        """The original's first layer repaired, so that there is something to compare with."""
        m: Any = self.module
        return network.attribute(m.layers[0].conv_1, "_output_padding", _no_padding)


def _no_padding(*args: Any) -> tuple[int, int]:
    return 0, 0


def _transposed(conv: Any) -> Product:
    """The 4x4 transposed convolution of one pixel, without running it."""
    network.expect(conv.kernel_size == (4, 4) and conv.stride == (1, 1) and conv.groups == 1, "another first layer")
    network.expect(not any(conv.padding) and not any(conv.output_padding), "padding in the first layer")
    bias = None if conv.bias is None else Ref(conv, "bias")
    return Product(Ref(conv, "weight"), network.number(getattr(conv, "scale", 1.0)), bias, 1.0, "conv_transpose")


class Discriminator(network.Network[plan.Discriminator]):
    pattern = "discriminator of pro_gan_pytorch"
    any_level = True

    def read(self, m: Any) -> None:
        *blocks, last = m.layers
        act = self.steps(last.lrelu)
        features = [*self.steps(last.batch_discriminator), *self.applied([last.conv_1, last.conv_2], *act)]
        chains = [chain(features), *map(self.chain, reversed(blocks))]
        self.net = plan.Discriminator([self.chain(layer) for layer in reversed(m.from_rgb)], chains)
        # The projection head lets the score through the activation once more.
        self.decide = chain(self.applied([last.conv_3], *(act if m.conditional else ())))

    def run(self, x: Tensor, depth: int, alpha: plan.Alpha, labels: Tensor | None = None) -> Tensor:
        m: Any = self.module
        level = depth - 2
        x = network.image(x, level, len(self.net.blocks))
        if m.conditional and labels is None:
            raise NotAsRecorded("no labels")
        y = self.net(x, level, alpha if level else None)
        scores: Tensor = self.decide(y).view(-1)
        if m.conditional:
            scores = scores + (y.flatten(1) * m.layers[-1].label_embedder(labels)).sum(-1)
        return scores

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        labels = torch.arange(n, device=like.device) % m.num_classes if m.conditional else None
        x = network.random_image(like, n, m.num_channels, level)
        return x, level + 2, 1.0 if alpha is None else alpha, labels


def match(m: torch.nn.Module) -> Forward | None:
    layers = getattr(m, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or not len(layers) or not hasattr(m, "depth"):
        return None
    if hasattr(m, "rgb_converters") and network.has(layers[0], "conv_1", "conv_2", "pixNorm", "lrelu"):
        return Generator(m)
    if hasattr(m, "from_rgb") and network.has(layers[-1], "conv_1", "conv_2", "conv_3", "batch_discriminator", "lrelu"):
        return Discriminator(m)
    return None
