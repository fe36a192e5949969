"""facebookresearch/pytorch_GAN_zoo: GNet and DNet of models/networks/progressive_conv_net.py.

`alpha` is the older level's weight, an attribute that is read at every call.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward, outside
from pggan_fast.swap.steps import NotAsRecorded, Pool, Up, View


class _Network(network.Network[network.Plan]):
    varying = ("alpha",)

    def state(self, level: int, alpha: float | None) -> AbstractContextManager[Any]:
        return network.attribute(self.module, "alpha", 0 if alpha is None else 1.0 - alpha)


class Generator(_Network[plan.Generator]):
    pattern = "generator of pytorch_GAN_zoo"

    def read(self, m: Any) -> None:
        network.expect(m.normalizationLayer is not None, "it has no normalizationLayer, without which it does not run")
        act, norm = self.steps(m.leakyRelu), self.steps(m.normalizationLayer)
        dense = [*norm, *self.steps(m.formatLayer, 2), *act, View((m.scalesDepth[0], 4, 4)), *norm]
        levels = [chain([*dense, *self.applied(m.groupScale0, *act, *norm)])]
        levels += [chain([Up(), *self.applied(group, *act, *norm)]) for group in m.scaleLayers]
        self.net = plan.Generator(levels, [self.chain(layer) for layer in m.toRGBLayers])

    def run(self, x: Tensor) -> Tensor:
        m: Any = self.module
        level = len(self.net.levels) - 1
        if m.alpha > 0 and not level:
            raise NotAsRecorded("an older level than 4x4")
        y = self.net(network.latent(x), level, 1.0 - m.alpha if m.alpha > 0 else None)
        if m.alpha > 0:  # the enlarged image, which the sum follows, is contiguous whatever the weights are
            y = outside(y)
        return y if m.generationActivation is None else m.generationActivation(y)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        return (network.random_latent(like, n, m.dimLatent),)


class Discriminator(_Network[plan.Discriminator]):
    pattern = "discriminator of pytorch_GAN_zoo"

    def read(self, m: Any) -> None:
        act = self.steps(m.leakyRelu)
        conv, dense = m.groupScaleZero
        stddev = [plan.AdjacentStddev(4)] if m.miniBatchNormalization else []
        last = [*stddev, *self.applied([conv], *act), View(), *self.steps(dense, 2), *act]
        blocks = [chain(last), *(chain([*self.applied(group, *act), Pool()]) for group in m.scaleLayers)]
        self.net = plan.Discriminator([chain(self.applied([layer], *act)) for layer in m.fromRGBLayers], blocks)
        self.decide = chain(self.steps(m.decisionLayer, 2))

    def run(self, x: Tensor, getFeature: bool = False) -> Any:
        m: Any = self.module
        level = len(self.net.blocks) - 1
        fades = m.alpha > 0 and level > 1  # never at 8x8, where the older fromRGB has no part in the scores
        features = self.net(network.image(x, level, level + 1), level, 1.0 - m.alpha if fades else None)
        scores = self.decide(features)
        return (scores, features) if getFeature else scores

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        return (network.random_image(like, n, m.dimInput, level),)


def match(m: torch.nn.Module) -> Forward | None:
    if network.has(m, "formatLayer", "groupScale0", "scaleLayers", "toRGBLayers", "normalizationLayer", "alpha"):
        return Generator(m)
    if network.has(m, "fromRGBLayers", "groupScaleZero", "scaleLayers", "decisionLayer", "alpha"):
        return Discriminator(m)
    return None
