"""Scenes for test_cpu_threads.py, one a process: forks, workers and Python threads around the CPU backend's loops.

libgomp's pool does not survive a fork: in a child of a process that has used it, by any op, torch's parallel loops wait
for ever, and so do ours, which are torch's. What is asked of ours is to run where torch's ops run: on one thread, as
DataLoader sets it in its workers; in a loop short enough for one; in a child of a process whose pool was not started.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pggan_fast import nn, ops
from pggan_fast.backends import cpu, tiled
from pggan_fast.models import Generator


def drawn(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def loop(seed: int = 0) -> Tensor:
    """One native loop long enough for several threads, without torch's products: the same bits on any number."""
    return ops.pixel_norm(drawn(4, 32, 32, 32, seed=seed), backend="cpu")


torch.manual_seed(0)
CONV = nn.ScaledConv2d(16, 24, resample="up", negative_slope=0.2, pixel_norm="after_act", backend="cpu")


def layers(seed: int = 0) -> list[Tensor]:
    """Native loops among torch's products, with gradients: the same bits on the same number of threads."""
    y = CONV(drawn(2, 16, 32, 32, seed=seed))
    w = drawn(32, 24, 3, 3).contiguous()
    z = tiled.conv(y.detach(), w, 0.1, "none", False)
    return [y.detach(), z, *torch.autograd.grad(y.square().sum(), list(CONV.parameters()))]


def same(got: list[Tensor], expected: list[Tensor]) -> bool:
    return len(got) == len(expected) and all(map(torch.equal, got, expected))


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` is true in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def counts() -> bool:
    """The pool's threads and no others, however it is used; and they are used."""
    torch.set_num_threads(1)
    loop()
    before = tasks()
    for count in (2, 3):
        torch.set_num_threads(count)
        loop()
        assert tasks() == before + count - 1, "a native loop runs on the pool"
        layers()
        torch.ones(1 << 20).add(1)
        assert tasks() == before + count - 1, "and shares it with torch's own ops"
    release = threading.Event()
    threading.Thread(target=release.wait).start()
    one_more = tasks() == before + 3
    release.set()
    return one_more


def forked_after() -> bool:
    """The pool has been used before the fork."""
    torch.set_num_threads(1)
    expected, reals = layers(), drawn(2, 3, 64, 64)  # 24576 numbers
    faded = ops.fade_reals(reals, 0.3, backend="cpu")
    torch.set_num_threads(2)
    looped = loop()

    def short_loops() -> bool:
        assert torch.get_num_threads() == 2
        assert reals.add(1).isfinite().all()
        return torch.equal(ops.fade_reals(reals, 0.3, backend="cpu"), faded)

    def one_thread() -> bool:
        torch.set_num_threads(1)
        return torch.equal(loop(), looped) and same(layers(), expected)

    return in_child(short_loops) and in_child(one_thread) and torch.equal(loop(), looped)


def forked_before() -> bool:
    """The pool starts in the child, which runs in parallel as any process does."""
    torch.set_num_threads(1)
    expected = loop()

    def two_threads() -> bool:
        before = tasks()
        torch.set_num_threads(2)
        return torch.equal(loop(), expected) and tasks() == before + 1

    return in_child(two_threads)


class Samples(Dataset[tuple[Tensor, Tensor, int]]):
    """Faded reals, the image of a small generator, and the number of threads that they were made on."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.G = Generator(16, latent_dim=8, fmap_base=512, fmap_max=64, backend="cpu")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        reals = ops.fade_reals(drawn(4, 3, 64, 64, seed=i), 0.3, backend="cpu")
        return reals, self.G(drawn(4, 8, seed=i), alpha=0.3).detach(), torch.get_num_threads()


def loader(method: str) -> bool:
    torch.set_num_threads(1)
    samples = Samples()
    expected = [samples[i] for i in range(len(samples))]
    torch.set_num_threads(2)
    loop()
    got = list(DataLoader(samples, batch_size=None, num_workers=2, multiprocessing_context=method))
    assert [threads for *_, threads in got] == [1] * len(samples)
    return len(got) == len(expected) and all(same([*g[:2]], [*e[:2]]) for g, e in zip(got, expected, strict=True))


def loader_fork() -> bool:
    return loader("fork")


def loader_spawn() -> bool:
    return loader("spawn")


def into(rank: int, shared: Tensor) -> None:
    torch.set_num_threads(1)
    loop()
    before = tasks()
    torch.set_num_threads(2)
    shared[rank] = loop(seed=rank)
    assert tasks() == before + 1


def spawned() -> bool:
    """Two processes with a pool of two each."""
    torch.set_num_threads(2)
    expected = torch.stack([loop(seed=rank) for rank in range(2)])
    shared = torch.zeros_like(expected).share_memory_()
    torch.multiprocessing.spawn(into, (shared,), nprocs=2)
    return torch.equal(shared, expected)


def executor() -> bool:
    """Four Python threads at once on one layer, each with data and, as torch has it, a pool of its own."""

    def work(seed: int) -> list[Tensor]:
        return [loop(seed), *layers(seed)]

    torch.set_num_threads(2)
    expected = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(2,)) as threads:
        return all(all(map(same, threads.map(work, range(4)), expected)) for _ in range(10))


def fails() -> bool:
    return in_child(lambda: torch.equal(loop(seed=0), loop(seed=1)))


def hangs() -> bool:
    def forever() -> bool:
        while True:
            time.sleep(1)

    return in_child(forever)


if __name__ == "__main__":
    assert cpu.serial_reason is None
    sys.exit(0 if globals()[sys.argv[1]]() else 1)
