"""Seconds for a thousand images of the BENCHMARK preset, ours against plain PyTorch: whole trainings, every phase.

    python -m pggan_fast.benchmarks.training [--resolution R] [--batch N] [--rounds N] [--cbase N] [--cmax N]
        [--precision P] [--json FILE]

The preset trains every level and every fade for 3 kimg. Here trainers, one on the automatic choice of kernels and
one on backend "reference", stand in the middle of each phase and take iterations in turns: images, D's step with its
penalty, G_ema, G's step, both Adams. From equal states they must come to equal losses first. The last line is the whole
preset, every phase weighted by its images. `--batch` is the minibatch at every resolution (the official ones are for
GPUs), and one pair of steps is an iteration. On a CUDA device ours takes its steps as CUDA graphs, plain PyTorch takes
them as it does, and a third trainer, eager_graphs, is plain PyTorch with the same graphs; all are captured before they
are timed.
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

from pggan_fast.backends.graphs import WARM_UPS
from pggan_fast.data import faces
from pggan_fast.data.dataset import ArrayDataset
from pggan_fast.training import captured
from pggan_fast.training.config import PRECISIONS, Config, configure
from pggan_fast.training.distributed import World
from pggan_fast.training.trainer import Trainer

OURS, EAGER, GRAPHS = "auto", "eager", "eager_graphs"
TITLES = {EAGER: "plain PyTorch", GRAPHS: "plain PyTorch, graphs", OURS: "ours"}
AGREEMENT = {"fp32": 1e-2, "bf16": 1e-1}  # of losses after an iteration of each: of their own size, or of 1


def dataset(resolution: int, count: int = 64) -> ArrayDataset:
    """Some of the embedded faces; above 32x32 each pixel repeated."""
    images = faces(min(resolution, 32))[:count]
    factor = max(1, resolution // 32)
    larger = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    return ArrayDataset("faces", larger.numpy())


def config(data: ArrayDataset, options: argparse.Namespace) -> Config:
    networks = {"fmap_base": options.cbase, "fmap_max": options.cmax}
    plan = {"minibatch_base": options.batch, "minibatch": {}, "minibatch_gpu": {}}
    return configure(
        data, "faces", "BENCHMARK", networks=networks, schedule=plan, minibatch_repeats=1, precision=options.precision
    )


def phases(config: Config) -> list[tuple[int, float]]:
    """(images seen in the middle, kimg) of each: a level, the next one's fade, that level, ..."""
    length = config.schedule.training_kimg
    count = round(config.schedule.total_kimg / length)
    return [(round(1000 * length * (number + 0.5)), length) for number in range(count)]


def trainers_of(config: Config, data: ArrayDataset, device: torch.device) -> dict[str, Trainer]:
    """By provider: ours, plain PyTorch, and where steps can be graphs, plain PyTorch with them."""
    world = World(device=device)
    graphs = captured.wanted(None, world, config.precision)
    made = {
        OURS: Trainer(config, data, world, graphs=graphs),
        EAGER: Trainer(config, data, world, backend="reference", graphs=False),
    }
    return {**made, GRAPHS: Trainer(config, data, world, backend="reference", graphs=True)} if graphs else made


def measure(trainers: dict[str, Trainer], images: int, rounds: int) -> list[Row]:
    """A row for each trainer, seconds of a thousand images."""
    device, precision, losses = trainers[OURS].world.device, trainers[OURS].config.precision, {}
    for name in trainers.keys() - {OURS}:
        trainers[name].load_state_dict(trainers[OURS].state_dict())
    for name, trainer in trainers.items():
        found: list[float] = []
        trainer.images = images
        stage = trainer.iteration(lambda name, value, found=found: found.append(float(value)))  # type: ignore[misc]
        losses[name] = torch.tensor(found)

    def iteration(trainer: Trainer) -> None:
        trainer.images = images
        trainer.iteration()

    runs = {name: lambda trainer=trainer: iteration(trainer) for name, trainer in trainers.items()}
    if GRAPHS in trainers:
        for run in runs.values():
            timing.repeated(run, WARM_UPS + 1)()
    samples = timing.interleave(runs, rounds, device)
    rows = []
    dtype = str(PRECISIONS[precision] or torch.float32).removeprefix("torch.")
    for name, seconds in samples.items():
        wrong = (losses[name] - losses[EAGER]).abs() > AGREEMENT[precision] * losses[EAGER].abs().clamp(min=1.0)
        row = Row("train", name, stage.resolution, stage.minibatch, dtype, device.type, failed=bool(wrong.any()))
        row.samples = [1000 * s / stage.minibatch for s in seconds]
        row.median_s, row.p20_s, row.p80_s = stats.spread(row.samples)
        row.ratio, row.ratio_p20, row.ratio_p80 = stats.speedup(samples[EAGER], seconds)
        row.images_per_s, row.threads = 1000 / row.median_s, torch.get_num_threads()
        row.mode = "fades in" if stage.alpha < 1 else None
        row.reason = "other losses than plain PyTorch's" if row.failed else None
        rows.append(row)
    return rows


def table(rows: Sequence[Row], kimg: float) -> Table:
    """A line per phase: sec/kimg of each, and how many times faster than plain PyTorch; the last is the sum over phases
    of `kimg` each."""
    names = [name for name in TITLES if any(row.provider == name for row in rows)]
    columns = [f"{TITLES[name]}, sec/kimg" for name in names]
    times = ["times" if name == OURS else "times, graphs" for name in names if name != EAGER]
    drawn = Table("phase", "batch", *columns, *times, box=box.ASCII2, pad_edge=False)
    by = {name: [row for row in rows if row.provider == name] for name in names}
    for phase in zip(*by.values(), strict=True):
        first = phase[0]
        name = f"{first.resolution}x{first.resolution}{', ' + first.mode if first.mode else ''}"
        seconds = [f"{row.median_s:.1f}" for row in phase]
        drawn.add_row(name, str(first.batch), *seconds, *(ratio(row) for row in phase if row.provider != EAGER))
    total = {name: kimg * sum(row.median_s or 0.0 for row in found) for name, found in by.items()}
    ratios = [f"{total[EAGER] / total[name]:.2f}" for name in names if name != EAGER]
    drawn.add_row("the whole preset, s", "", *(f"{total[name]:.0f}" for name in names), *ratios)
    return drawn


def ratio(row: Row) -> str:
    return "wrong" if row.failed else f"{row.ratio:.2f} ({row.ratio_p20:.2f}..{row.ratio_p80:.2f})"


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("training", __doc__)
    parser.add_argument("--resolution", type=positive, default=64, metavar="R", help="the last one")
    parser.add_argument("--batch", type=positive, default=8, metavar="N")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="iterations of each, in turns")
    parser.add_argument("--cbase", type=positive, default=8192, metavar="N", help="fmap_base of the networks")
    parser.add_argument("--cmax", type=positive, default=512, metavar="N", help="fmap_max of the networks")
    parser.add_argument("--precision", choices=tuple(AGREEMENT), default="fp32", help="of the networks")
    options = command.parsed(parser, arguments)
    if options.resolution < 8 or options.resolution & (options.resolution - 1):
        parser.error(f"--resolution: got {options.resolution}, expected a power of two from 8 on")
    started, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    screen, rows = console(), []
    data = dataset(options.resolution)
    asked = config(data, options)
    trainers = trainers_of(asked, data, device)
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
