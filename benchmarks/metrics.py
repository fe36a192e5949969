"""Images per second of each metric's own computation, without making or reading the images.

    python -m pggan_fast.benchmarks.metrics [--resolution R ...] [--images N] [--rounds N] [--device D] [--json FILE]

The sliced Wasserstein distance and the feature distance are timed in two parts: what is taken of every image, which
grows with them and is shared among processes, and the distance of two sets of N images, once per run. Images are random
bytes: no metric's time depends on what they show. All are timed in turns.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pggan_fast.benchmarks import command, stats, timing
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.progress import Progress
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console, seconds
from rich import box
from rich.table import Table

from pggan_fast.metrics import swd
from pggan_fast.metrics.features import RandomFeatures, frechet_distance
from pggan_fast.metrics.msssim import ms_ssim

BATCH = 64


def subjects(resolution: int, count: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    """By name: one run over `count` images."""
    made = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, resolution, resolution), generator=made, dtype=torch.uint8).to(device)
    features = RandomFeatures(device)

    def batches(take: Callable[..., Any]) -> Callable[[], list[Any]]:
        return lambda: [take(images[i : i + BATCH], i) for i in range(0, count, BATCH)]

    runs: dict[str, Callable[[], Any]] = {}
    if resolution >= swd.SMALLEST:
        sets = [[t.flatten(0, 1) for t in swd.extract(images, 0, stream=stream)] for stream in (0, 1)]
        runs["swd: patches"] = batches(swd.extract)
        runs["swd: distance"] = lambda: [swd.sliced_wasserstein(a, b) for a, b in zip(*sets, strict=True)]
    runs["msssim"] = batches(lambda some, _: ms_ssim(some[0::2], some[1::2]))
    runs["fd: features"] = batches(lambda some, _: features(some))
    rows = features(images[: min(count, 4 * BATCH)]).repeat(-(-count // (4 * BATCH)), 1)[:count]
    runs["fd: distance"] = functools.partial(frechet_distance, rows, rows.flip(1))
    return runs


def measure(resolution: int, count: int, rounds: int, device: torch.device) -> list[Row]:
    runs = subjects(resolution, count, device)
    for run in runs.values():
        run()
    rows = []
    for name, samples in timing.interleave(runs, rounds, device).items():
        row = Row(name, "ours", resolution, BATCH, "uint8", device.type, threads=torch.get_num_threads())
        row.samples = samples
        row.median_s, row.p20_s, row.p80_s = stats.spread(samples)
        row.images_per_s = count / row.median_s
        rows.append(row)
    return rows


def table(rows: Sequence[Row]) -> Table:
    drawn = Table("metric", "size", "images/s", "median", "p20..p80", box=box.ASCII2, pad_edge=False)
    for column in drawn.columns[1:]:
        column.justify = "right"
    for row in rows:
        assert row.median_s is not None
        assert row.p20_s is not None
        assert row.p80_s is not None
        spread = f"{seconds(row.p20_s)}..{seconds(row.p80_s)}"
        size = f"{row.resolution}x{row.resolution}"
        drawn.add_row(row.case, size, f"{row.images_per_s:,.0f}", seconds(row.median_s), spread)
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("metrics", __doc__)
    parser.add_argument("--resolution", type=positive, nargs="+", default=[32, 128], metavar="R", help="from 4 pixels")
    parser.add_argument("--images", type=positive, default=256, metavar="N", help="in a set, an even number")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="samples of each, in turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    options = command.parsed(parser, arguments)
    if options.images % 2 or min(options.resolution) < 4:
        parser.error(f"expected an even --images and --resolution from 4, got {options.images}, {options.resolution}")
    try:
        device = torch.empty(0, device=options.device).device
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA
        parser.error(f"--device: got {options.device!r}: {str(error).splitlines()[0]}")
    started, rows = time.perf_counter(), []
    with Progress(console(stderr=True)) as progress:
        for resolution in options.resolution:
            progress(f"{options.images} images of {resolution}x{resolution}")
            rows += measure(resolution, options.images, options.rounds, device)
    console().print(table(rows))
    command.save(options.json, rows, device, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
