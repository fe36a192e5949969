"""Thousands of mixed calls and a training, and what of the process grew: `... [CALLS [ITERATIONS]]`.

Calls are of every public op by every backend that runs on the CPU, forward, backward and twice backward, of shapes from
a bounded set; a training iteration is two steps of each network. Prints the process's resident memory, open files,
threads, and the sizes of the caches, ten times in each part; ends with 1 where one grows.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import small_trainings
import torch
from public_ops import OPS, By, draw, gradients, leaves_of
from torch import Tensor

from pggan_fast.backends import registry, tables

BACKENDS = (None, "reference", "aten", "cpu")
SCALES = (1, 2, 3)
POINTS = 10
MOST_BYTES = 32 << 20  # from the fourth of ten points to the last: what an allocator keeps; nothing else may grow


def sizes() -> dict[str, int]:
    gc.collect()
    known = tables.table(torch.device("cpu"))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return {
        "resident": resident,
        "files": len(os.listdir("/proc/self/fd")),
        "tasks": len(os.listdir("/proc/self/task")),
        "threads": threading.active_count(),
        "choices": len(registry._memo),
        "checks": len(known["checks"]),
        "again": len(registry.again),
        "warned": len(registry._WARNED),
    }


def available(name: str, backend: str | None, tensors: dict[str, Tensor]) -> bool:
    try:
        OPS[name].call(By(backend), **tensors)
    except registry.BackendUnavailable:
        return False
    return True


def calls() -> Callable[[], None]:
    """A function that makes one call, of those that run here."""
    rng = random.Random(0)
    given = {(name, scale): draw(op, scale) for name, op in OPS.items() for scale in SCALES}
    runs = [
        (name, scale, backend)
        for (name, scale), tensors in given.items()
        for backend in BACKENDS
        if available(name, backend, tensors)
    ]

    def call() -> None:
        name, scale, backend = rng.choice(runs)
        kind = rng.choice(("forward", "backward", "twice"))
        tensors = given[name, scale]
        if kind == "forward":
            with torch.no_grad():
                OPS[name].call(By(backend), **tensors)
            return
        leaves = leaves_of(tensors)
        y = OPS[name].call(By(backend), **leaves)
        if kind == "twice":
            gradients(y, leaves)
        else:
            y.square().sum().backward()

    return call


def trainings() -> Callable[[], None]:
    trainer = small_trainings.trainer()

    def iteration() -> None:
        trainer.iteration()

    return iteration


def soak(what: str, work: Callable[[], None], count: int) -> list[str]:
    """What grew."""
    points: list[dict[str, int]] = []
    began = time.monotonic()
    for point in range(POINTS):
        for _ in range(count // POINTS):
            work()
        points.append(sizes())
        told = ", ".join(f"{name} {value >> 20} MiB" if name == "resident" else f"{name} {value}"
                         for name, value in points[-1].items())  # fmt: skip
        done = f"{(point + 1) * (count // POINTS)} {what} in {time.monotonic() - began:.0f} s"
        print(f"{done}: {told}", flush=True)
    return grown(what, points)


def grown(what: str, points: list[dict[str, int]]) -> list[str]:
    settled, last = points[POINTS * 3 // 10], points[-1]
    limits = {**settled, "resident": settled["resident"] + MOST_BYTES}
    return [
        f"{what}: {name} grew from {settled[name]} to {last[name]}" for name in settled if last[name] > limits[name]
    ]


def main(count: int, iterations: int, leak: Any = None) -> list[str]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    call = calls()
    if leak is not None:
        plain = call
        call = lambda: (plain(), leak())  # type: ignore[assignment, return-value]  # noqa: E731
    return soak("calls", call, count) + (soak("iterations", trainings(), iterations) if iterations else [])


if __name__ == "__main__":
    found = main(int((sys.argv[1:] or ["10000"])[0]), int((sys.argv[2:] or ["100"])[0]))
    print(*found or ["nothing grew"], sep="\n")
    sys.exit(1 if found else 0)
