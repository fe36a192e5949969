"""Small trainings for tests: a few images of 8x8, narrow networks, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pggan_fast.data.dataset import ArrayDataset
from pggan_fast.training.config import Config, configure
from pggan_fast.training.distributed import World
from pggan_fast.training.trainer import Trainer

LABELS = 3


def images(count: int = 24, size: int = 8, labels: bool = False) -> ArrayDataset:
    draw = np.random.RandomState(7)
    pixels = draw.randint(0, 256, (count, 3, size, size), np.uint8)
    return ArrayDataset("random", pixels, draw.randint(0, LABELS, count) if labels else None)


def config(dataset: ArrayDataset, schedule: Mapping[str, Any] | None = None, **training: Any) -> Config:
    """4x4 for 64 images, 8x8 fades in for 64 and is trained from there on, 8 images a minibatch."""
    plan = {"total_kimg": 0.32, "training_kimg": 0.064, "transition_kimg": 0.064, "minibatch_base": 8, "minibatch": {},
            "lr_base": 0.002, "lr": {8: 0.001}, "tick_kimg_base": 0.064, "tick_kimg": {}}  # fmt: skip
    return configure(
        dataset,
        "random",
        "demo",
        networks={"fmap_base": 64, "fmap_max": 8},
        generator={"latent_dim": 6},
        schedule={**plan, **(schedule or {})},
        **{"minibatch_repeats": 2, "seed": 5, "ema_beta": 0.99, **training},
    )


def trainer(dataset: ArrayDataset | None = None, world: World | None = None, **options: Any) -> Trainer:
    """`options`: of `config` and of Trainer."""
    dataset = images() if dataset is None else dataset
    ours = {name: options.pop(name) for name in ("backend", "batch_gpu", "say", "graphs") if name in options}
    return Trainer(config(dataset, **options), dataset, world, **ours)


class Poisoned:
    """A loader whose next image is infinite."""

    def __init__(self, loader: Any) -> None:
        self._loader, self._left = loader, 1

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        reals, labels = next(self._loader)
        if self._left:
            reals[0] = float("inf")
            self._left = 0
        return reals, labels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor of the training, by name."""
    return dict(_flat(trainer.state_dict()))


def _flat(value: Any, name: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(name, value.clone())]
    inside = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    )
    return [pair for key, inner in inside for pair in _flat(inner, f"{name}.{key}")]
