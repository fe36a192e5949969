"""nashory/pggan-pytorch: one nn.Sequential, rebuilt when the network grows and when a level has come in.

The weight is an attribute of the layer that blends, read at every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import Chain, chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import View


class _Network(network.Network[network.Plan]):
    def apart(self, m: Any) -> Sequence[torch.nn.Module]:
        return [m.model.fadein_block] if hasattr(m.model, "fadein_block") else ()

    @property
    def alpha(self) -> plan.Alpha:
        model: Any = self.module.model
        return model.fadein_block.alpha if hasattr(model, "fadein_block") else None

    def state(self, level: int, alpha: float | None) -> AbstractContextManager[Any]:
        model: Any = self.module.model
        if not hasattr(model, "fadein_block"):
            return nullcontext()
        return network.attribute(model.fadein_block, "alpha", 1.0 if alpha is None else alpha)

    def older(self, count: int, *shown: torch.nn.Module) -> list[Chain | None]:
        """The image layers, those before `shown` being gone."""
        return [None] * (count - len(shown)) + [self.chain(layer) for layer in shown]


class Generator(_Network[plan.Generator]):
    pattern = "generator of pggan-pytorch"

    def read(self, m: Any) -> None:
        features = [child for name, child in m.model.named_children() if name.startswith(("first", "intermediate"))]
        shown = []
        if hasattr(m.model, "concat_block"):
            low, high = m.model.concat_block.layer1, m.model.concat_block.layer2
            features.append(high.high_resl_block)
            shown = [low.low_resl_to_rgb, high.high_resl_to_rgb]
        else:
            shown = [m.model.to_rgb_block]
        self.net = plan.Generator([self.chain(child) for child in features], self.older(len(features), *shown))

    def run(self, x: Tensor) -> Tensor:
        z = network.latent(x.view(x.shape[0], -1, 1, 1), rank=4)
        return network.widened(self.net(z, len(self.net.levels) - 1, self.alpha), self.module)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        features = network.kernel(m.model.first_block)[1]
        return (network.random_latent(like, n, features),)


class Discriminator(_Network[plan.Discriminator]):
    pattern = "discriminator of pggan-pytorch"

    def read(self, m: Any) -> None:
        blocks = [child for name, child in m.model.named_children() if name.startswith("intermediate")]
        if hasattr(m.model, "concat_block"):
            low, high = m.model.concat_block.layer1, m.model.concat_block.layer2
            blocks.insert(0, high.high_resl_block)
            shown = [low.low_resl_from_rgb, high.high_resl_from_rgb]
        else:
            shown = [m.model.from_rgb_block]
        chains = [self._last(m.model.last_block), *map(self.chain, reversed(blocks))]
        self.net = plan.Discriminator(self.older(len(chains), *shown), chains)

    def _last(self, block: Any) -> Chain:
        """4x4 features to scores. The map of deviations, one per pixel, stays its own layer's."""
        layers = list(block)
        flat = next(i for i, layer in enumerate(layers) if type(layer).__name__ == "Flatten")
        dense = [step for layer in layers[flat + 1 :] for step in self.steps(layer, 2)]
        return chain([*self.applied(layers[:flat]), View(), *dense])

    def run(self, x: Tensor) -> Tensor:
        level = len(self.net.blocks) - 1
        return network.widened(self.net(network.image(x, level, level + 1), level, self.alpha), self.module)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        layer = m.model.concat_block.layer2 if hasattr(m.model, "concat_block") else m.model.from_rgb_block
        channels = network.kernel(layer)[1]
        return (network.random_image(like, n, channels, level),)


def match(m: torch.nn.Module) -> Forward | None:
    model = getattr(m, "model", None)
    if not isinstance(model, torch.nn.Sequential):
        return None
    if hasattr(model, "first_block") and (hasattr(model, "to_rgb_block") or hasattr(model, "concat_block")):
        return Generator(m)
    if hasattr(model, "last_block") and (hasattr(model, "from_rgb_block") or hasattr(model, "concat_block")):
        return Discriminator(m)
    return None
