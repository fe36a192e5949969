"""gan-lab 0.4.2 (PyPI): ProGenerator and ProDiscriminator.

Level and weight are attributes of the class, common to all networks of the process, and read at every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import Chain, chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import NotAsRecorded, View


class _Network(network.Network[network.Plan]):
    class_varies = True

    @contextmanager
    def state(self, level: int, alpha: float | None) -> Iterator[None]:
        m: Any = self.module
        before = m.alpha, m.fade_in_phase
        m.alpha, m.fade_in_phase = 1.0 if alpha is None else alpha, alpha is not None
        try:
            yield
        finally:
            m.alpha, m.fade_in_phase = before


class Generator(_Network[plan.Generator]):
    pattern = "generator of gan-lab"

    def read(self, m: Any) -> None:
        first, *blocks = m.gen_blocks
        norm = self.steps(m.preprocess_z[-1], 2) if isinstance(m.preprocess_z, torch.nn.Sequential) else ()
        levels = [chain([*norm, *self.steps(first, 2)]), *map(self.chain, blocks)]
        self.net = plan.Generator(levels, _newest(self, len(levels), m.prev_torgb, m.torgb))

    def run(self, x: Tensor) -> Tensor:
        m: Any = self.module
        z = network.latent(x, m.len_latent + m.num_classes)
        return self.net(z, len(self.net.levels) - 1, _alpha(m, len(self.net.levels)))

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        return (network.random_latent(like, n, m.len_latent + m.num_classes),)


class Discriminator(_Network[plan.Discriminator]):
    pattern = "discriminator of gan-lab"

    def read(self, m: Any) -> None:
        *blocks, last = m.disc_blocks
        layers = list(last)
        stddev = [] if m.mbstd_group_size == -1 else [plan.AdjacentStddev(m.mbstd_group_size)]
        del layers[: len(stddev)]
        flat = next(i for i, layer in enumerate(layers) if network.has(layer, "func"))  # the view
        dense = [step for layer in layers[flat + 1 :] for step in self.steps(layer, 2)]
        chains = [chain([*stddev, *self.applied(layers[:flat]), View(), *dense]), *map(self.chain, reversed(blocks))]
        self.net = plan.Discriminator(_newest(self, len(chains), m.prev_fromrgb, m.fromrgb), chains)

    def run(self, x: Tensor) -> Tensor:
        m: Any = self.module
        level = len(self.net.blocks) - 1
        if m.curr_res != 4 << level:
            raise NotAsRecorded("another level of the class")
        return self.net(network.image(x, level, level + 1), level, _alpha(m, level + 1)).view(-1)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        channels = network.kernel(m.fromrgb)[1]
        return (network.random_image(like, n, channels, level),)


def _newest(net: network.Network[Any], levels: int, previous: Any, newest: Any) -> list[Chain | None]:
    """The image layers of the last two levels; those before are gone."""
    old = [None if previous is None else net.chain(previous)] if levels > 1 else []
    return [None] * (levels - 2) + old + [net.chain(newest)]


def _alpha(m: Any, levels: int) -> plan.Alpha:
    if m.fade_in_phase and levels == 1:
        raise NotAsRecorded("an older level than 4x4")
    return m.alpha if m.fade_in_phase else None


def match(m: torch.nn.Module) -> Forward | None:
    if network.has(m, "gen_blocks", "torgb", "preprocess_z", "fade_in_phase", "alpha", "len_latent"):
        return Generator(m)
    if network.has(m, "disc_blocks", "fromrgb", "fade_in_phase", "alpha", "mbstd_group_size"):
        return Discriminator(m)
    return None
