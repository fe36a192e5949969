"""Metrics of a training's G_ema, as `pggan-fast metrics` computes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pggan_fast.metrics import running
from pggan_fast.metrics.measures import Measure, Settings
from pggan_fast.metrics.names import parse
from pggan_fast.metrics.ranks import Ranks
from pggan_fast.metrics.samples import Generated, Level, Reals, label_rows
from pggan_fast.training.trainer import Trainer


def check(names: Sequence[str], trainer: Trainer) -> None:
    """Raises ValueError for a metric that these images cannot have, which would be told after days else."""
    if names:
        _planned(names, trainer)


def evaluate(names: Sequence[str], trainer: Trainer, snapshot: str, folder: Path) -> Iterator[str]:
    """A line for each metric, which also goes to `folder`/metric-NAME.jsonl; at the full resolution, on this process.

    Raises as `check` does, and OSError.
    """
    measures, fakes, reals = _planned(names, trainer)
    batch = min(256, max(4, 8192 // max(fakes.resolution))) & ~1
    for result in running.evaluate(measures, fakes, reals, batch=batch, ranks=Ranks()):
        running.append(folder, result, {**result.as_json(trainer.world.size, snapshot), "kimg": trainer.images / 1000})
        values = "  ".join(f"{name} {value:.4g}" for name, value in result.values.items())
        fewer = "" if result.used == result.name.count else f"of {result.used:,} images, "
        yield f"{snapshot}: {values}  ({fewer}{running.duration(result.seconds)})"


def _planned(names: Sequence[str], trainer: Trainer) -> tuple[list[Measure], Generated, Reals]:
    wanted, config, dataset = [parse(name) for name in names], trainer.config, trainer.dataset
    settings = Settings(config.seed % (1 << 32), trainer.world.device)
    labels = label_rows(dataset) if config.G["label_dim"] else None
    count = max(name.count for name in wanted)
    fakes = Generated(trainer.G_ema, count, seed=settings.seed, labels=labels, device=trainer.world.device)  # type: ignore[arg-type]
    reals = Reals(Level(dataset, dataset.resolution), seed=settings.seed, mirror=config.mirror, name=dataset.name)
    return running.measures(wanted, fakes, reals, settings), fakes, reals
