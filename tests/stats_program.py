"""One of two processes that collect statistics together: `stats_program.py RANK FOLDER`. Writes FOLDER/RANK."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pggan_fast.training.stats import Collector

WORLD = 2
EMPTY = "Loss/nobody"  # a name without values


def values(rank: int) -> dict[str, NDArray[np.float64]]:
    """Of different counts, far from zero, and of one process alone."""
    rng = np.random.default_rng(rank)
    return {
        "Loss/D": rng.normal(size=5 + 3 * rank) + 10 * rank,
        "Loss/far": 1e9 + rng.normal(size=7),
        "Loss/one": rng.normal(size=4 * rank),
        EMPTY: np.empty(0),
    }


def main(rank: int, folder: Path) -> None:
    reduced = 0
    all_reduce = dist.all_reduce

    def counted(*args: torch.Tensor) -> None:
        nonlocal reduced
        reduced += 1
        all_reduce(*args)

    dist.all_reduce = counted
    collector = Collector()
    for name, numbers in reversed(values(rank).items()) if rank else values(rank).items():
        collector.report(name, torch.from_numpy(numbers))
    found = {"moments": collector.collect(), "reduced": reduced}
    collector.report(f"Loss/of {rank}", 1.0)
    try:
        collector.collect()
    except ValueError as error:
        found["error"] = str(error)
    (folder / str(rank)).write_text(json.dumps(found))


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=WORLD,
        timeout=datetime.timedelta(seconds=180),
    )  # fmt: skip
    try:
        main(rank, folder)
    finally:
        dist.destroy_process_group()
