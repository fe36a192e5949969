"""A training from its first image, or the last checkpoint, to the end: ticks, pictures, snapshots, checkpoints."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from pggan_fast import networks
from pggan_fast.backends import report, tables
from pggan_fast.data import DataError, Dataset
from pggan_fast.errors import line
from pggan_fast.files import write_atomically
from pggan_fast.training import checkpoint, evaluation, later
from pggan_fast.training.config import Config
from pggan_fast.training.distributed import World
from pggan_fast.training.gallery import Gallery
from pggan_fast.training.schedule import Stage
from pggan_fast.training.stats import Collector
from pggan_fast.training.stopping import Stop
from pggan_fast.training.trainer import Trainer
from pggan_fast.training.watch import Watch

OPTIONS = "training_options.json"


@dataclass(frozen=True)
class Settings:
    """What does not change the result. snap: ticks from one network file to the next; keep: training states that stay;
    metrics: names, measured at each network file of the full resolution. Others: see `Trainer`."""

    snap: int = 10
    keep: int = 2
    metrics: tuple[str, ...] = ()
    backend: str | None = None
    batch_gpu: int | None = None
    cache: Literal["auto", "always", "never"] = "auto"
    workers: int = 2
    graphs: bool | None = None


class Run:
    """One training in its folder. `run()` gives the exit status: 0 done, 1 not all could be written, 128 + the number
    of the signal that stopped it."""

    def __init__(
        self, config: Config, dataset: Dataset, folder: Path, world: World, settings: Settings, console: Console
    ) -> None:
        self.config, self.folder, self.world, self.settings, self.console = config, folder, world, settings, console
        self._watch: Watch | None = None
        self._said: list[str] = []  # before there was a log for it
        self.trainer = Trainer(
            config,
            dataset,
            world,
            backend=settings.backend,
            batch_gpu=settings.batch_gpu,
            cache=settings.cache,
            workers=settings.workers,
            graphs=settings.graphs,
            say=self.say,
        )
        self._collector = Collector(world.device)
        self._tick, self._seconds = 0, 0.0
        self._failed: set[str] = set()  # kinds of files whose last could not be written
        self._gallery = Gallery(self.trainer, folder)
        self._saved_s = 0.0  # that the last state took to be written
        evaluation.check(settings.metrics, self.trainer)
        self._resumed: float | None = None

    @property
    def first(self) -> bool:
        return self.world.rank == 0

    def say(self, text: str) -> None:
        if self._watch is not None:
            self._watch.say(text)
        elif self.first:
            self._said.append(text)
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run of this configuration was; its versions are compared aloud. Raises ValueError."""
        self.trainer.load_state_dict(state)
        self._tick, self._seconds = int(state["tick"]), float(state["seconds"])
        self._resumed = self.trainer.images / 1000
        if self.first and (found := later.files(self.folder, self.trainer.images)):  # others may not have the folder
            self.say(f"the folder has {', '.join(found)} of later, to be replaced as the run gets there")
        now = report.versions()
        for name, version in state["versions"].items():
            if now.get(name) != version:
                was = f"{line(name)} was {line(version)}"
                self.say(f"{was} and is {now.get(name)}: results may differ in their last bits")
        if state["kernels"] != tables.fingerprint(self.world.device):
            self.say(
                "the choice of kernels for this device is not the one before: results may differ in their last bits"
            )

    def run(self) -> int:
        total, trainer = self.config.schedule.total_kimg, self.trainer
        watch = Watch(self.folder, total, self.console, self._resumed, self._said) if self.first else None
        with watch or nullcontext(), Stop() as stop:
            self._watch = watch
            try:
                self.world.broadcast(trainer.G, trainer.D, trainer.G_ema)
                if self.first:
                    checkpoint.clear_halves(self.folder)
                if self._resumed is None:
                    self._write("options", self._options)
                    self._write("pictures", self._first_pictures)
                asked = False  # all processes leave together, whenever a signal came to one of them
                while not (trainer.done or asked):
                    asked = self._until_tick(stop)
                if asked:
                    self.say(f"stopped by {stop.signal} at kimg {trainer.images / 1000:.1f}; the same command goes on")
                elif "networks" not in self._failed:
                    self.say(f"done: {self.folder / networks.snapshot_name(trainer.images // 1000)}")
                trainer.loader.close()
            finally:
                self._watch = None
        return (asked and stop.status) or int(bool(self._failed))

    def _options(self) -> None:
        program, *arguments = sys.argv
        if Path(program).name == "__main__.py":  # of the processes of --gpus and torchrun
            program = "pggan-fast"
        command = shlex.join([program, *arguments])  # nothing reads it but people
        options = {"command": command, "config": self.config.as_json(), "versions": report.versions()}
        text = json.dumps(options, indent=2).encode()
        write_atomically(self.folder / OPTIONS, lambda file: file.write(text))

    def _first_pictures(self) -> None:
        self._gallery.reals()
        self._gallery.fakes("fakes_init.png", self.trainer.stage)

    def _until_tick(self, stop: Stop) -> bool:
        """Iterations up to the next tick, and what is due at it. Whether a signal asked for an end.

        The state is written last: what is killed before comes to this tick again, and writes its line again.
        """
        trainer = self.trainer
        began, images, waited = time.monotonic(), trainer.images, trainer.loader.waited_s
        while True:
            stage = trainer.iteration(self._collector.report)
            asked = self.world.any(stop.signal is not None)
            if asked and stop.signal is None:
                stop.signal = "SIGTERM"  # it came to another process
            if trainer.done or asked or trainer.images >= images + 1000 * stage.tick_kimg:
                break
            self._show(stage, began, images, waited)
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)  # steps as graphs are far ahead of the device
        ended = time.monotonic()
        self._tick += 1
        self._seconds += ended - began
        record = self._record(stage, ended - began, images, waited)
        last = trainer.done or asked
        if self.first:
            self._write("pictures", lambda: self._gallery.fakes(f"fakes{trainer.images // 1000:06d}.png", stage))
        if self._tick % self.settings.snap == 0 or last:
            self._snapshot(stage)
        maintenance = time.monotonic() - ended + self._saved_s
        self._seconds += maintenance
        if self._watch is not None:
            record |= {"Timing/maintenance_sec": maintenance, "Timing/total_sec": self._seconds}
            self._write("statistics", lambda: self._watch.tick(record))  # type: ignore[union-attr]
        began = time.monotonic()
        self._save_state()
        self._saved_s = time.monotonic() - began
        return asked

    def _record(self, stage: Stage, seconds: float, images: int, waited: float) -> dict[str, Any]:
        kimg = (self.trainer.images - images) / 1000
        return {
            "Progress/tick": self._tick,
            "Progress/kimg": self.trainer.images / 1000,
            "Progress/lod": stage.lod,
            "Progress/alpha": stage.alpha,
            "Progress/resolution": stage.resolution,
            "Progress/minibatch": stage.minibatch,
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / kimg,
            "Timing/wait_share": (self.trainer.loader.waited_s - waited) / seconds,
            **self._collector.collect(),
        }

    def _show(self, stage: Stage, began: float, images: int, waited: float) -> None:
        if self._watch is None or not self._watch.due():
            return
        losses = {name.removeprefix("Loss/"): value for name, value in self._collector.latest("Loss/").items()}
        seconds, trainer = time.monotonic() - began, self.trainer
        per_kimg = 1000 * seconds / (trainer.images - images)
        left = self.config.schedule.total_kimg - trainer.images / 1000
        self._watch.progress(
            trainer.images / 1000,
            stage.resolution,
            stage.alpha,
            stage.minibatch,
            losses,
            per_kimg,
            (trainer.loader.waited_s - waited) / seconds,
            per_kimg * left,
        )

    def _snapshot(self, stage: Stage) -> None:
        """The networks, which must be the same everywhere, and what the metrics say of them."""
        trainer = self.trainer
        self.world.check_equal(G=trainer.G, D=trainer.D, G_ema=trainer.G_ema)
        path = self.folder / networks.snapshot_name(trainer.images // 1000)
        source = {"run": self.folder.name, "kimg": trainer.images / 1000, "resolution": stage.resolution,
                  "alpha": stage.alpha}  # fmt: skip
        if self.first:
            self._write("networks", lambda: networks.save(path, trainer.networks(**source)))
        # by the first alone, while the others wait for it in their next collective (`distributed.TIMEOUT`): were they
        # shared, a process that fails, by a broken image or a full disk, would leave the others in the midst of a turn
        if self.first and self.settings.metrics and stage.lod == 0:
            self._write("metrics", lambda: self._measure(path.name))

    def _measure(self, snapshot: str) -> None:
        self.trainer.forget_graphs()  # whose memory nobody else can have
        try:
            for text in evaluation.evaluate(self.settings.metrics, self.trainer, snapshot, self.folder):
                self.say(text)
        except DataError as error:  # of an image for which another stands in when training
            self.say(f"no metrics of {snapshot}: {line(error)}; training goes on")

    def _save_state(self) -> None:
        if self.first:
            state = {**self.trainer.state_dict(), "tick": self._tick, "seconds": self._seconds}
            if "options" in self._failed:  # without them nobody goes on with this run
                self._write("options", self._options)
            self._write("states", lambda: checkpoint.save(self.folder, state, self.settings.keep))

    def _write(self, kind: str, write: Callable[[], object]) -> None:
        """Training outlives a full disk: what could not be written is told, and what was there before is whole."""
        if not self.first:
            return
        try:
            write()
            self._failed.discard(kind)
        except OSError as error:
            self._failed.add(kind)
            self.say(f"cannot write {error.filename or self.folder}: {error.strerror or error}; training goes on")
