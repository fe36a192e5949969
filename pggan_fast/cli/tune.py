"""`pggan-fast tune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.options import Flag, option

if TYPE_CHECKING:
    from rich.console import Console

    from pggan_fast.benchmarks.tune import Tuning

Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass
class Command:
    """Measure who is fastest on this device for every internal op of the networks, and let that run from now on.

    Each way is timed in turns with the others, once it agrees with plain PyTorch. The results are kept per device,
    number of CPU threads and versions, in the cache folder that `pggan-fast info` shows; what was measured before is
    left alone, so that a run that was cut short, or out of its budget, goes on when it is started again.
    """

    resolution: Annotated[tuple[int, ...], tyro.conf.arg(metavar="R")] = (32, 128)
    """Powers of two from 4 to 1024: networks up to these, in training and sampling."""
    batch: Annotated[int | None, option("N")] = None
    """Images per batch; the official minibatch of each resolution on a GPU, an eighth of it on a CPU, if not given."""
    dtype: tuple[Dtype, ...] = ("float32",)
    """Of the activations; weights are float32."""
    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    threads: Annotated[int | None, option("N")] = None
    """CPU threads, as the program that is tuned for has them; torch's own choice, if not given."""
    budget: Annotated[float, tyro.conf.arg(metavar="SECONDS")] = 300.0
    """When to stop; the calls with the most work come first."""
    again: Flag = False
    """Measure again what has been measured."""

    def run(self) -> int:
        self._check()
        import torch

        from pggan_fast.backends import tables
        from pggan_fast.benchmarks.table import console
        from pggan_fast.benchmarks.tune import Tuning

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = parse_device(self.device)
        dtypes = [getattr(torch, name) for name in self.dtype]
        tuning = Tuning(device, dtypes, self.resolution, self.batch, self.budget, self.again)
        try:
            _watched(tuning, console(stderr=True))
        except OSError as error:
            raise UsageError(f"the cache folder cannot be written: {error}; PGGAN_FAST_CACHE names another") from None
        screen = console()
        _summary(tuning, screen)
        where = tables.path_of(tables.device_key(device))
        screen.print(f"table: {where}", soft_wrap=True, highlight=False, markup=False)
        return 1 if tuning.wrong else 0

    def _check(self) -> None:
        bad = [r for r in self.resolution if r not in [2**i for i in range(2, 11)]]
        if bad or not self.resolution:
            got = bad[0] if bad else "none"
            raise UsageError(f"--resolution: got {got}, expected powers of two from 4 to 1024")
        if not self.dtype:
            raise UsageError("--dtype: got none, expected some of float32, float16, bfloat16")
        for name in ("batch", "threads", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # NaN fails too
                raise UsageError(f"--{name}: got {value}, expected a positive number")
        if self.threads is not None and self.threads > 1024:
            raise UsageError(f"--threads: got {self.threads}, expected at most 1024")
        if self.batch is not None and self.batch > 4 and self.batch % 4:
            raise UsageError(f"--batch: got {self.batch}, expected at most 4, or a multiple of the stddev's group of 4")


def _watched(tuning: Tuning, screen: Console) -> None:
    """Run it under a bar on a terminal, with a line for each tenth elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if not screen.is_terminal:
        tenths: set[int] = set()

        def line(text: str, done: int, total: int) -> None:
            if (tenth := 10 * done // total) not in tenths:
                tenths.add(tenth)
                screen.print(f"[{done:4} of {total}] {text}", markup=False, highlight=False, soft_wrap=True)

        tuning.say = line
        tuning.run()
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task("")
        tuning.say = lambda text, done, total: progress.update(task, completed=done, total=total, description=text[:70])
        tuning.run()


def _summary(tuning: Tuning, screen: Console) -> None:
    """What changed, and what did not."""
    from rich import box
    from rich.table import Table

    from pggan_fast.benchmarks.table import seconds

    moved = [change for change in tuning.changes if change.before != change.best]
    if moved:
        table = Table(box=box.SIMPLE_HEAVY if screen.is_terminal else box.ASCII2, pad_edge=False)
        for name in ("call", "before", "now"):
            table.add_column(name)
        table.add_column("faster", justify="right", no_wrap=True)
        for change in sorted(moved, key=lambda c: -c.gain):
            took = change.seconds
            before = f"{change.before} {seconds(took[change.before])}" if change.before in took else change.before
            table.add_row(change.name, before, f"{change.best} {seconds(took[change.best])}", f"{change.gain:.2f}x")
        screen.print(table)
    for text in tuning.wrong:
        screen.print(f"WRONG, left out: {text}", markup=False, highlight=False, soft_wrap=True)
    counts = [f"{len(tuning.changes)} measured", f"{len(moved)} of them run another way now"]
    counts += [f"{tuning.single} have one way only"] if tuning.single else []
    counts += [f"{tuning.known} measured before (--again measures them again)"] if tuning.known else []
    counts += [f"{tuning.left} not reached in {tuning.budget_s:g} s: run it again"] if tuning.left else []
    screen.print("; ".join(counts), soft_wrap=True, highlight=False)
