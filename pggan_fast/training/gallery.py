"""A run's pictures: the reals, and what G_ema makes of the same latents again and again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pggan_fast import pictures
from pggan_fast.inference import latents, to_uint8
from pggan_fast.training.schedule import Stage
from pggan_fast.training.trainer import Trainer

_COLUMNS, _ROWS = 16, 8  # at most
_BATCH = 32


class Gallery:
    """Pictures have the full resolution's size; lower ones are shown in larger pixels. With classes a row is of one."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._trainer, self._folder = trainer, folder
        height, width = (size * trainer.dataset.resolution // 4 for size in trainer.dataset.base_shape)
        columns, rows = pictures.grid_size(height, width)
        self._columns, self._size = min(columns, _COLUMNS), (height, width)
        self._count = self._columns * min(rows, _ROWS)
        self._numbers = self._chosen()

    def _chosen(self) -> list[int]:
        """Images of the set: at random, with classes a row of each in turn."""
        dataset, draw = self._trainer.dataset, np.random.RandomState(self._trainer.config.seed % (1 << 32))
        order = draw.permutation(len(dataset))
        if dataset.labels is None or dataset.labels.ndim != 1:
            return [int(n) for n in np.resize(order, self._count)]
        found: list[int] = []
        classes = np.unique(dataset.labels)
        for row in range(self._count // self._columns):
            members = order[dataset.labels[order] == classes[row % len(classes)]]
            found += [int(n) for n in np.resize(np.roll(members, -row // len(classes)), self._columns)]
        return found

    def reals(self) -> None:
        dataset = self._trainer.dataset
        images = torch.stack([torch.from_numpy(dataset.usable(n)[1]) for n in self._numbers])
        self._save("reals.png", dataset.level(images, dataset.resolution))

    @torch.no_grad()
    def fakes(self, name: str, stage: Stage) -> None:
        trainer = self._trainer
        z = latents(self._count, trainer.G.latent_dim, seed=trainer.config.seed % (1 << 32)).to(trainer.world.device)
        labels = None
        if trainer.dataset.labels is not None:
            labels = trainer.loader.labels_of(torch.tensor(self._numbers, device=z.device))
        parts = []
        for i in range(0, len(z), _BATCH):
            rows = slice(i, i + _BATCH)
            images = trainer.G_ema(
                z[rows], None if labels is None else labels[rows], resolution=stage.resolution, alpha=stage.alpha
            )
            parts.append(to_uint8(images))
        self._save(name, torch.cat(parts).cpu().permute(0, 3, 1, 2))

    def _save(self, name: str, images: Tensor) -> None:
        factor = self._size[0] // images.shape[2]
        images = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        pictures.save_png(self._folder / name, pictures.grid(images, columns=self._columns))
