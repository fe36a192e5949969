"""Images a second that the loader gives, against those that a training step takes, on this machine.

    python -m pggan_fast.benchmarks.loader [--resolution R ...] [--batch N] [--images N] [--workers N] [--fmap-max N]
        [--rounds N] [--json FILE]

A ZIP of `--images` PNGs per resolution, the embedded faces enlarged (their content costs nothing: PNGs are not
compressed), is read three ways: kept on the device as bytes, read ahead by `--workers` threads, and read by the caller.
Beside it one WGAN-GP step of D and of G from the threads' loader, with the share of its time that was spent in waiting
for images. float32. Where the loader's images/s are many times the step's, training does not wait for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from pggan_fast.benchmarks import command, stats, timing
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.progress import Progress
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console
from PIL import Image
from rich import box
from rich.table import Table

from pggan_fast.data import Dataset, Loader, faces, open_dataset
from pggan_fast.data.images import encode
from pggan_fast.data.journal import name_of
from pggan_fast.data.zip_writer import ZipWriter
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.step import d_step, g_step

RESOLUTIONS = (32, 64, 128, 256)
CACHED, THREADS, CALLER, STEP = "cached", "threads", "caller", "step"


def dataset(folder: Path, resolution: int, count: int) -> Dataset:
    """A ZIP of the embedded faces, enlarged, opened."""
    path = folder / f"{resolution}.zip"
    with open(path, "wb") as file:
        writer = ZipWriter(file)
        for i, face in enumerate(faces()[torch.arange(count) % 1024].permute(0, 2, 3, 1).numpy()):
            larger = Image.fromarray(face).resize((resolution, resolution), Image.Resampling.BICUBIC)
            writer.add(name_of(i), encode(np.asarray(larger)))
        writer.finish()
    return open_dataset(path)


def loaders(data: Dataset, batch: int, workers: int, device: torch.device) -> dict[str, Loader]:
    ways: Mapping[str, tuple[str, int]] = {
        CACHED: ("always", workers),
        THREADS: ("never", workers),
        CALLER: ("never", 0),
    }
    return {
        name: Loader(data, batch=batch, mirror=True, device=device, cache=cache, workers=threads)  # type: ignore[arg-type]
        for name, (cache, threads) in ways.items()
    }


def batches(loader: Loader, count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            next(loader)

    return run


def step(loader: Loader, resolution: int, fmap_max: int, device: torch.device) -> Callable[[], None]:
    """One step of D and one of G, as a training does, on the loader's images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        G = Generator(resolution, fmap_max=fmap_max).to(device)
        D = Discriminator(resolution, fmap_max=fmap_max).to(device)
    adam = {net: torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99), eps=1e-8) for net in (G, D)}

    def run() -> None:
        reals, _ = next(loader)
        z = torch.randn(len(reals), 512, device=device)
        d_step(G, D, adam[D], reals, z)
        g_step(G, D, adam[G], z)

    return run


def measure(data: Dataset, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """A row per way of loading, in seconds of a batch, and one of the step, with its share of waiting in `reason`."""
    resolution, batch = data.resolution, options.batch
    ways = loaders(data, batch, options.workers, device)
    images = {name: next(loader)[0] for name, loader in ways.items()}
    wrong = [name for name in ways if not torch.equal(images[name], images[CALLER])]
    if wrong:
        row = Row("loader", wrong[0], resolution, batch, "float32", device.type, failed=True)
        row.reason = "its images are others than the caller's"
        return [row]
    many = max(1, min(100, options.images // batch))
    samples = timing.interleave({name: batches(ways[name], many) for name in ways}, options.rounds, device)
    samples = {name: [s / many for s in seconds] for name, seconds in samples.items()}
    train = step(ways[THREADS], resolution, options.fmap_max, device)
    train()  # chooses kernels
    waited = ways[THREADS].waited_s
    samples[STEP] = [timing.timed(train, device) for _ in range(options.rounds)]
    share = (ways[THREADS].waited_s - waited) / sum(samples[STEP])
    rows = []
    for name, seconds in samples.items():
        row = Row("train" if name == STEP else "loader", name, resolution, batch, "float32", device.type)
        row.samples = seconds
        row.median_s, row.p20_s, row.p80_s = stats.spread(seconds)
        row.images_per_s, row.threads = batch / row.median_s, torch.get_num_threads()
        row.reason = f"{share:.2%} of it waiting for images" if name == STEP else None
        rows.append(row)
    for loader in ways.values():
        loader.close()
    return rows


def table(rows: Sequence[Row]) -> Table:
    """A line per resolution: images/s, and how many times the step's they are."""
    names = ("resolution", "batch", CACHED, THREADS, CALLER, "training step", "step waits")
    drawn = Table(*names, box=box.ASCII2, pad_edge=False)
    for column in drawn.columns:
        column.justify = "right"
    for resolution in dict.fromkeys(row.resolution for row in rows):
        by = {row.provider: row for row in rows if row.resolution == resolution}
        if STEP not in by:
            drawn.add_row(f"{resolution}x{resolution}", "", "wrong")
            continue
        taken = by[STEP].images_per_s or 0.0
        cells = [_rate(by[name].images_per_s or 0.0, taken) for name in (CACHED, THREADS, CALLER)]
        waits = (by[STEP].reason or "").split(" ")[0]
        drawn.add_row(f"{resolution}x{resolution}", str(by[STEP].batch), *cells, f"{taken:.2f}", waits)
    return drawn


def _rate(given: float, taken: float) -> str:
    return f"{given:,.0f} ({given / taken:,.0f} x)"


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("loader", __doc__)
    parser.add_argument("--resolution", type=positive, nargs="+", default=RESOLUTIONS, metavar="R")
    parser.add_argument("--batch", type=positive, default=4, metavar="N")
    parser.add_argument("--images", type=positive, default=256, metavar="N", help="in the ZIP")
    parser.add_argument("--workers", type=positive, default=2, metavar="N", help="threads that read ahead")
    parser.add_argument("--fmap-max", type=positive, default=512, metavar="N", help="of the networks")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="samples of each, in turns")
    options = command.parsed(parser, arguments)
    bad = [r for r in options.resolution if r < 4 or r & (r - 1)]
    if bad:
        parser.error(f"--resolution: got {bad[0]}, expected a power of two from 4 on")
    started, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    screen, rows = console(), []
    with Progress(console(stderr=True)) as progress, tempfile.TemporaryDirectory() as folder:
        for resolution in options.resolution:
            progress(f"{resolution}x{resolution}")
            rows += measure(dataset(Path(folder), resolution, options.images), options, device)
    screen.print(table(rows))
    return command.finished(
        screen, options.json, rows, device, started, lambda row: f"{row.resolution}x{row.resolution}"
    )


if __name__ == "__main__":
    sys.exit(main())
