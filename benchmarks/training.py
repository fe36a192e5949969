"""Seconds for a thousand images of the BENCHMARK preset, ours against plain PyTorch: whole trainings, every phase.

    python -m pggan_fast.benchmarks.training [--resolution R] [--batch N] [--rounds N] [--cbase N] [--cmax N]
        [--json FILE]

The preset trains every level and every fade for 3 kimg. Here two trainers, one on the automatic choice of kernels and
one on backend "reference", stand in the middle of each phase and take iterations in turns: images, D's step with its
penalty, G_ema, G's step, both Adams. From equal states they must come to equal losses first. The last line is the whole
preset, every phase weighted by its images. float32; `--batch` is the minibatch at every resolution (the official ones
are for GPUs), and one pair of steps is an iteration.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch
from pggan_fast.benchmarks import command, stats, timing
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.progress import Progress
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console
from rich import box
from rich.table import Table

from pggan_fast.data import faces
from pggan_fast.data.dataset import ArrayDataset
from pggan_fast.training.config import Config, configure
from pggan_fast.training.distributed import World
from pggan_fast.training.trainer import Trainer

OURS, EAGER = "auto", "eager"
AGREEMENT = 1e-2  # of losses after an iteration of each: of their own size, or of 1


def dataset(resolution: int, count: int = 64) -> ArrayDataset:
    """Some of the embedded faces; above 32x32 each pixel repeated."""
    images = faces(min(resolution, 32))[:count]
    factor = max(1, resolution // 32)
    larger = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return ArrayDataset("faces", larger.numpy())


def config(data: ArrayDataset, options: argparse.Namespace) -> Config:
    networks = {"fmap_base": options.cbase, "fmap_max": options.cmax}
    plan = {"minibatch_base": options.batch, "minibatch": {}, "minibatch_gpu": {}}
    return configure(data, "faces", "BENCHMARK", networks=networks, schedule=plan, minibatch_repeats=1)


def phases(config: Config) -> list[tuple[int, float]]:
    """(images seen in the middle, kimg) of each: a level, the next one's fade, that level, ..."""
    length = config.schedule.training_kimg
    count = round(config.schedule.total_kimg / length)
    return [(round(1000 * length * (number + 0.5)), length) for number in range(count)]


def measure(trainers: dict[str, Trainer], images: int, rounds: int) -> list[Row]:
    """A row for each trainer, seconds of a thousand images."""
    device, losses = trainers[OURS].world.device, {}
    trainers[EAGER].load_state_dict(trainers[OURS].state_dict())
    for name, trainer in trainers.items():
        found: list[float] = []
        trainer.images = images
        stage = trainer.iteration(lambda name, value, found=found: found.append(float(value)))  # type: ignore[misc]
        losses[name] = torch.tensor(found)
    wrong = (losses[OURS] - losses[EAGER]).abs() > AGREEMENT * losses[EAGER].abs().clamp(min=1.0)

    def iteration(trainer: Trainer) -> None:
        trainer.images = images
        trainer.iteration()

    runs = {name: lambda trainer=trainer: iteration(trainer) for name, trainer in trainers.items()}
    samples = timing.interleave(runs, rounds, device)
    rows = []
    for name, seconds in samples.items():
        row = Row("train", name, stage.resolution, stage.minibatch, "float32", device.type, failed=bool(wrong.any()))
        row.samples = [1000 * s / stage.minibatch for s in seconds]
        row.median_s, row.p20_s, row.p80_s = stats.spread(row.samples)
        row.images_per_s, row.threads = 1000 / row.median_s, torch.get_num_threads()
        row.mode = "fades in" if stage.alpha < 1 else None
        row.reason = "other losses than plain PyTorch's" if row.failed else None
        rows.append(row)
    return rows


def table(rows: Sequence[Row], kimg: float) -> Table:
    """A line per phase: sec/kimg of both and their ratio; the last is the sum over phases of `kimg` each."""
    drawn = Table(
        "phase", "batch", "plain PyTorch, sec/kimg", "ours, sec/kimg", "times", box=box.ASCII2, pad_edge=False
    )
    total = {OURS: 0.0, EAGER: 0.0}
    for ours, eager in zip(rows[::2], rows[1::2], strict=True):
        assert ours.median_s is not None
        assert eager.median_s is not None
        total[OURS] += kimg * ours.median_s
        total[EAGER] += kimg * eager.median_s
        ratio = stats.speedup(eager.samples, ours.samples)
        times = "wrong" if ours.failed else f"{ratio.median:.2f} ({ratio.p20:.2f}..{ratio.p80:.2f})"
        name = f"{ours.resolution}x{ours.resolution}{', ' + ours.mode if ours.mode else ''}"
        drawn.add_row(name, str(ours.batch), f"{eager.median_s:.1f}", f"{ours.median_s:.1f}", times)
    drawn.add_row(
        "the whole preset, s", "", f"{total[EAGER]:.0f}", f"{total[OURS]:.0f}", f"{total[EAGER] / total[OURS]:.2f}"
    )
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("training", __doc__)
    parser.add_argument("--resolution", type=positive, default=64, metavar="R", help="the last one")
    parser.add_argument("--batch", type=positive, default=8, metavar="N")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="iterations of each, in turns")
    parser.add_argument("--cbase", type=positive, default=8192, metavar="N", help="fmap_base of the networks")
    parser.add_argument("--cmax", type=positive, default=512, metavar="N", help="fmap_max of the networks")
    options = command.parsed(parser, arguments)
    if options.resolution < 8 or options.resolution & (options.resolution - 1):
        parser.error(f"--resolution: got {options.resolution}, expected a power of two from 8 on")
    started, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    screen, rows = console(), []
    data = dataset(options.resolution)
    asked = config(data, options)
    trainers = {
        OURS: Trainer(asked, data, World(device=device)),
        EAGER: Trainer(asked, data, World(device=device), backend="reference"),
    }
    with Progress(console(stderr=True)) as progress:
        for images, _ in phases(asked):
            stage = asked.schedule.at(images)
            progress(f"{stage.resolution}x{stage.resolution}{', fades in' if stage.alpha < 1 else ''}")
            rows += measure(trainers, images, options.rounds)
    screen.print(table(rows, asked.schedule.training_kimg))
    command.save(options.json, rows, device, started)
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
