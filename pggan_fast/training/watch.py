"""What people see of a training: a live line, status lines, log.txt, stats.jsonl and TensorBoard's events.

Source of the names in stats.jsonl and of the status line: StyleGAN's training loop.
"""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.live import Live

from pggan_fast import system
from pggan_fast.metrics.running import duration
from pggan_fast.training import later
from pggan_fast.training.later import STATS
from pggan_fast.training.lines import Lines
from pggan_fast.training.live import Status
from pggan_fast.training.stats import Moments, moments

LOG = "log.txt"
_GB = 2**30
_REFRESHES = 4  # of the live line in a second

# The status line: name, the stat that it shows, format and width.
_STATUS = (
    ("tick", "Progress/tick", ".0f", 5),
    ("kimg", "Progress/kimg", ".1f", 8),
    ("lod", "Progress/lod", ".2f", 5),
    ("res", "Progress/resolution", ".0f", 5),
    ("alpha", "Progress/alpha", ".2f", 5),
    ("minibatch", "Progress/minibatch", ".0f", 5),
    ("time", "Timing/total_sec", "", 12),
    ("sec/tick", "Timing/sec_per_tick", ".1f", 7),
    ("sec/kimg", "Timing/sec_per_kimg", ".2f", 7),
    ("maintenance", "Timing/maintenance_sec", ".1f", 6),
    ("wait", "Timing/wait_share", ".0%", 4),
    ("cpumem", "Resources/cpu_mem_gb", ".1f", 6),
    ("gpumem", "Resources/peak_gpu_mem_gb", ".1f", 0),
    ("reserved", "Resources/peak_gpu_mem_reserved_gb", ".1f", 0),
)


class Watch:
    """Everything that a training tells; for its first process alone, and `with Watch(...) as watch:`.

    run_dir: the run's folder. resumed_kimg: where a run goes on, None for a new one. What stats.jsonl and metrics have
    of later ticks is dropped, as these will come again, and a line that was cut off; log.txt goes on. said: what the
    console has had before, for log.txt. Raises FileExistsError for a new run where there is a stats.jsonl, OSError.
    """

    def __init__(
        self, run_dir: Path, total_kimg: float, console: Console, resumed_kimg: float | None = None,
        said: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._console = console
        self._status = Status(total_kimg)
        self._shown = 0.0
        if resumed_kimg is None and (run_dir / STATS).exists():
            raise FileExistsError(f"{run_dir / STATS}: there is one, and resumed_kimg is None, as of a new run")
        dropped = [] if resumed_kimg is None else later.cut(run_dir, resumed_kimg)
        self._stats, self._log = Lines(run_dir / STATS), Lines(run_dir / LOG)
        self._log_failed = False
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(self._status, console=console, refresh_per_second=_REFRESHES, transient=True)
        for text in said:
            self._note(text)
        if resumed_kimg is not None:
            told = ", ".join(f"of {name} dropped: {count}" for name, count in dropped)
            self.say(f"resumed at kimg {resumed_kimg:.1f}; lines {told}")
        self._events = self._tensorboard(run_dir, resumed_kimg)

    def __enter__(self) -> Watch:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Leaves the terminal as it was; log.txt gets to know of an error."""
        try:
            if self._live:
                self._live.stop()
        finally:
            if isinstance(error, Exception):
                self._note("".join(traceback.format_exception(error)).rstrip())
            elif error is not None:
                self._note(f"stopped by {type(error).__name__}")
            for file in (self._stats, self._log, self._events):
                if file is not None:
                    file.close()

    def due(self) -> bool:
        """Whether `progress` would be seen now: ask before a loss is read from a device, which synchronises."""
        return self._live is not None and time.monotonic() - self._shown >= 1 / _REFRESHES

    def progress(
        self, kimg: float, resolution: int, alpha: float, batch: int, losses: Mapping[str, float],
        sec_per_kimg: float, waiting: float, eta_s: float,
    ) -> None:  # fmt: skip
        """Show on a terminal where the training is; nothing elsewhere.

        waiting: share of the time that was spent waiting for data, 0 to 1. What is not known yet may be NaN.
        """
        if not self._live:
            return
        self._shown = time.monotonic()
        now, used = self._status, memory()
        now.kimg, now.resolution, now.alpha, now.batch, now.losses = kimg, resolution, alpha, batch, dict(losses)
        now.sec_per_kimg, now.waiting, now.eta_s = sec_per_kimg, waiting, eta_s
        now.memory = {"cpu": used["cpu_mem_gb"]}
        if gpu := used["peak_gpu_mem_gb"]:
            now.memory = {**now.memory, "gpu": gpu}

    def tick(self, record: Mapping[str, Moments | float]) -> None:
        """Write down what happened since the last tick: the status line, a line of stats.jsonl, TensorBoard's events.

        record: by name, moments as `Collector.collect` has them, or numbers. All that the status line shows must be
        there, less Resources/, which are measured here, of this process, unless given. Numbers that are not finite
        become null in stats.jsonl, and are warned of. Raises ValueError for a missing name; OSError where stats.jsonl
        cannot be written, which then has no part of the line, and the status line was said.
        """
        known = {name: [gb] if math.isfinite(gb) else [] for name, gb in memory(reset=True).items()}
        used = {f"Resources/{name}": moments(gb) for name, gb in known.items()}
        stats = {name: v if isinstance(v, Mapping) else moments([v]) for name, v in {**used, **record}.items()}
        if missing := [name for _, name, *_ in _STATUS if name not in stats]:
            raise ValueError(f"record: expected {', '.join(missing)} too, got {', '.join(record)}")
        now = time.time()
        self.say(status_line({name: each["mean"] for name, each in stats.items()}))
        if wrong := [name for name, each in stats.items() if each["num"] and not math.isfinite(each["mean"])]:
            self.say(f"warning: not finite: {', '.join(wrong)}")
        self._write_stats(stats, now)
        if self._events is not None:
            step = round(1000 * stats["Progress/kimg"]["mean"])
            for name, each in stats.items():
                if each["num"]:
                    self._events.add_scalar(name, each["mean"], global_step=step, walltime=now)
            self._events.flush()

    def say(self, text: str) -> None:
        """A line for the console and log.txt; where log.txt cannot be written, for the console."""
        self._print(text)
        self._note(text)

    def _note(self, text: str) -> None:
        """A line of log.txt; what goes wrong with that is no reason to stop a training, and is said once."""
        try:
            self._log.write(text)
            self._log_failed = False
        except OSError as error:
            if not self._log_failed:
                self._print(f"cannot write {LOG}: {error.strerror or error}")
            self._log_failed = True

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def _write_stats(self, stats: Mapping[str, Moments], now: float) -> None:
        line = {name: {k: x if math.isfinite(x) else None for k, x in each.items()} for name, each in stats.items()}
        self._stats.write(json.dumps({**line, "timestamp": now}, allow_nan=False))

    def _tensorboard(self, run_dir: Path, resumed_kimg: float | None) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            self._note(f"no TensorBoard events; pip install 'pggan-fast[train]' would change that: {error}")
            return None
        purge = None if resumed_kimg is None else round(1000 * resumed_kimg) + 1  # events from there come again
        return SummaryWriter(str(run_dir), purge_step=purge)


def status_line(means: Mapping[str, float]) -> str:
    """`tick 12    kimg 48.0 ...` of the means of a tick."""
    parts = []
    for name, stat, form, width in _STATUS:
        value = duration(means[stat]) if name == "time" else format(means[stat], form)
        parts.append(f"{name} {value:<{width}}")
    return " ".join(parts).rstrip()


def memory(reset: bool = False) -> dict[str, float]:
    """Of this process now, and of its CUDA device at its peak since the last reset, in GB of 2^30 bytes; NaN where the
    system does not say."""
    resident = system.resident_memory()
    allocated = reserved = 0
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        if reset:
            torch.cuda.reset_peak_memory_stats()
    return {
        "cpu_mem_gb": math.nan if resident is None else resident / _GB,
        "peak_gpu_mem_gb": allocated / _GB,
        "peak_gpu_mem_reserved_gb": reserved / _GB,
    }
