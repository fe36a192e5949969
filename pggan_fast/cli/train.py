"""`pggan-fast train`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from pggan_fast import system
from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.options import Flag, option

if TYPE_CHECKING:
    from rich.console import Console

    from pggan_fast.data import Dataset
    from pggan_fast.training.config import Config
    from pggan_fast.training.distributed import World
    from pggan_fast.training.loop import Run, Settings
    from pggan_fast.training.resume import Found

Preset = Literal[
    "demo",
    "overnight",
    "v2-1gpu",
    "v2-2gpus",
    "v2-4gpus",
    "v2-8gpus",
    "v1-1gpu",
    "table1-f",
    "table1-g",
    "table1-h",
    "BENCHMARK",
]


@dataclass
class Command:
    """Train a progressive GAN, from 4x4 up.

    The same command goes on where it was stopped: with the newest run in --outdir that has the same options. Ctrl-C,
    SIGTERM and SIGUSR1 save first. Under torchrun, or with --gpus, processes share each minibatch.

    Of --cfg, v2-* are official, v1-1gpu is the paper's, table1-* are rows of its table 1; demo takes half an hour on a
    CPU, for 32x32; overnight is wider, 8 hours by an estimate, for 32x32 or 64x64; BENCHMARK has 3 kimg of each phase.
    """

    data: Annotated[Path, option("FILE")]
    """The images: a ZIP of `data convert`, a folder, or anything that it reads; the word faces: the embedded ones."""
    outdir: Annotated[Path, option("DIR")] = Path("training-runs")
    """Where runs have their folders."""
    cfg: Annotated[Preset | None, option(f"{{{','.join(get_args(Preset))}}}")] = None
    """Schedule and networks; if not given, the official ones for as many GPUs, on a CPU the demo."""
    gpus: Annotated[int | None, option("N")] = None
    """Processes on this machine, started here; without a GPU they share the CPU's cores."""
    batch: Annotated[int | None, option("N")] = None
    """Images in a minibatch of all processes, at every resolution in place of the preset's."""
    batch_gpu: Annotated[int | None, option("N")] = None
    """The most images of a process at a time, for D as many fakes too; gradients of more are added up."""
    resolution: Annotated[int | None, option("R")] = None
    """The last one; that of the images, if not given, and at most 32 for demo, 64 for overnight."""
    kimg: Annotated[float | None, option("KIMG")] = None
    """Thousands of images to train on in all."""
    phase_kimg: Annotated[float | None, option("KIMG")] = None
    """Of each level to fade in, and again to train once it has."""
    tick: Annotated[float | None, option("KIMG")] = None
    """From one status line, picture and checkpoint to the next; by resolution, if not given."""
    snap: Annotated[int, option("TICKS")] = 10
    """From one network file to the next; there is one at the end, too."""
    keep: Annotated[int, option("N")] = 2
    """Checkpoints that stay."""
    metrics: Annotated[str, tyro.conf.arg(metavar="A,B,...|none")] = "none"
    """At each network file of the full resolution; see `pggan-fast metrics`."""
    mirror: Flag = False
    """Flip half of the images from left to right."""
    labels: Literal["auto", "folders", "none"] = "auto"
    """auto: train with the labels that the images have."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """What the networks compute in; parameters, losses and the penalty stay fp32."""
    loss: Literal["wgan-gp", "lsgan", "nonsaturating-r1"] = "wgan-gp"
    """What the networks learn by; wgan-gp is the paper's."""
    lr: Annotated[float | None, option("RATE")] = None
    """Adam's, at every resolution in place of the preset's."""
    cbase: Annotated[int | None, option("N")] = None
    """Feature maps, times the resolution / 4 (fmap_base); 8192 in the official networks."""
    cmax: Annotated[int | None, option("N")] = None
    """The most feature maps of a layer (fmap_max); 512 in the official networks."""
    mbstd_group: Annotated[int | None, option("N")] = None
    """Images in a group of the minibatch deviation."""
    seed: int = 0
    """Of weights, latents and the order of the images."""
    backend: Annotated[str | None, option("NAME")] = None
    """Of all layers, for comparison: reference is plain PyTorch; see PGGAN_FAST_BACKEND."""
    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    workers: Annotated[int, option("N")] = 2
    """Threads that read images ahead, where the set does not fit into memory."""
    cache: Literal["auto", "always", "never"] = "auto"
    """Keep the whole set on the device; auto: where it fits."""
    graphs: Literal["auto", "always", "never"] = "auto"
    """Take steps as CUDA graphs, each checked before it is used; auto: on one CUDA device, but not in fp16."""
    resume: Annotated[Path | None, option("PATH")] = None
    """Go on with the run in this folder, or with this training-state-*.pt."""
    new: Flag = False
    """Start a new run, even where one could be gone on with."""
    desc: Annotated[str | None, option("TEXT")] = None
    """A word for the folder's name."""
    dry_run: Annotated[bool, option(None, None, "-n")] = False
    """Print options and schedule, and stop."""

    def run(self) -> int:
        try:
            return self._run()
        except UsageError:
            if os.environ.get("LOCAL_RANK", "0") != "0":
                return 2  # the first process of this machine says it
            raise

    def _run(self) -> int:
        self._check()
        if (self.gpus or 1) > 1 and "WORLD_SIZE" not in os.environ:
            return _spawn(self.gpus or 1)
        from pggan_fast.benchmarks.table import console
        from pggan_fast.data.errors import DataError
        from pggan_fast.training.distributed import joined

        device = None if self.device is None else parse_device(self.device)
        try:
            with joined(device) as world:
                self.cfg = self.cfg or _preset(world)
                dataset = self._dataset()
                config = self._config(dataset, world)
                if self.dry_run:
                    if world.rank == 0:
                        from pggan_fast.cli import train_table

                        said = train_table.notes(config, dataset.native, self.resolution is not None)
                        train_table.show(console(), config, world.size, said)
                    return 0
                return self._train(config, dataset, world, console())
        except DataError as error:
            raise UsageError(" ".join(str(error).split())) from None
        except ValueError as error:
            raise UsageError(_with_options(" ".join(str(error).split()))) from None
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror or error}") from None

    def _check(self) -> None:
        for name in ("gpus", "batch", "batch_gpu", "snap", "keep", "cbase", "cmax"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')}: got {value}, expected at least 1")
        if self.resume is not None and self.new:
            raise UsageError("--resume and --new: expected one of them, got both")
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"--seed: got {self.seed}, expected 0 to 2^63 - 1")
        for name in self._metrics():
            from pggan_fast.metrics.names import parse

            try:
                parse(name)
            except ValueError as error:
                raise UsageError(f"--metrics: {error}") from None

    def _metrics(self) -> tuple[str, ...]:
        return () if self.metrics == "none" else tuple(name.strip() for name in self.metrics.split(","))

    def _dataset(self) -> Dataset:
        from pggan_fast.data import open_dataset
        from pggan_fast.training.presets import PRESETS

        dataset = open_dataset(self.data, resolution=self.resolution, labels=self.labels)
        most = PRESETS[str(self.cfg)].resolution
        if self.resolution is None and most is not None and dataset.resolution > most:
            return open_dataset(self.data, resolution=most, labels=self.labels)
        return dataset

    def _config(self, dataset: Dataset, world: World) -> Config:
        from pggan_fast.training.config import configure

        schedule: dict[str, Any] = {}
        if self.kimg is not None:
            schedule["total_kimg"] = self.kimg
        if self.phase_kimg is not None:
            schedule |= {"training_kimg": self.phase_kimg, "transition_kimg": self.phase_kimg}
        if self.batch is not None:
            schedule |= {"minibatch_base": self.batch, "minibatch": {}, "minibatch_gpu": {}}
        if self.tick is not None:
            schedule |= {"tick_kimg_base": self.tick, "tick_kimg": {}}
        if self.lr is not None:
            schedule |= {"lr_base": self.lr, "lr": {}}
        networks = {"fmap_base": self.cbase, "fmap_max": self.cmax}
        config = configure(
            dataset,
            os.path.abspath(self.data) if self.data.exists() else str(self.data),  # or the word faces
            str(self.cfg),
            networks={name: value for name, value in networks.items() if value is not None},
            discriminator={} if self.mbstd_group is None else {"stddev_group": self.mbstd_group},
            schedule=schedule,
            loss=self.loss,
            precision=self.precision,
            mirror=self.mirror,
            seed=self.seed,
        )
        config.check_batches(world.size, self.batch_gpu)
        return config

    def _settings(self) -> Settings:
        from pggan_fast.training.loop import Settings

        return Settings(
            self.snap,
            self.keep,
            self._metrics(),
            self.backend,
            self.batch_gpu,
            self.cache,
            self.workers,
            graphs={"auto": None, "always": True, "never": False}[self.graphs],
        )

    def _train(self, config: Config, dataset: Dataset, world: World, console: Console) -> int:
        from pggan_fast.training import distributed, run_dir
        from pggan_fast.training.loop import Run

        found = distributed.shared(world, lambda: self._found(config))
        if found is not None and found.state["images"] >= 1000 * config.schedule.total_kimg:
            if world.rank == 0:
                done = f"{found.state['images'] / 1000:.1f} kimg"
                told = f"{found.folder} is done, at {done}: more --kimg goes on, --new starts another"
                console.print(told, markup=False)
            return 0
        name = "-".join(filter(None, [self.cfg, Path(config.data["path"]).stem, f"gpus{world.size}", self.desc]))
        with ExitStack() as stack:

            def claimed() -> Path:
                folder = run_dir.create(self.outdir, name) if found is None else found.folder
                stack.enter_context(run_dir.held(folder))
                return folder

            folder = distributed.shared(world, claimed)
            try:
                run = Run(config, dataset, folder, world, self._settings(), console)
            except Exception:
                if found is None and world.rank == 0:
                    folder.rmdir()  # nothing is in it yet
                raise
            return self._go(run, found, dataset.native)

    def _go(self, run: Run, found: Found | None, native: int) -> int:
        from pggan_fast.cli import train_table
        from pggan_fast.training.trainer import OutOfMemory

        folder = run.folder
        run.say(f"{folder}: {'a new run' if found is None else 'going on'}")
        if found is None:
            for note in train_table.notes(run.config, native, self.resolution is not None):
                run.say(note)
        if found is not None:
            for text in found.said:
                run.say(f"{text}; the one before is taken")
            found.restore(run.load_state_dict)
        try:
            return run.run()
        except OutOfMemory as error:  # of any process
            print(f"process {run.world.rank}: {error}", file=sys.stderr)
            return 1

    def _found(self, config: Config) -> Found | None:
        from pggan_fast.training import resume

        if self.resume is not None:
            return resume.of(self.resume, config)
        return None if self.new else resume.find(self.outdir, config)


_BY_GPUS: tuple[tuple[int, Preset], ...] = ((8, "v2-8gpus"), (4, "v2-4gpus"), (2, "v2-2gpus"), (1, "v2-1gpu"))


# What messages about a configuration call things -> the option that sets them
_OPTIONS = {
    "total_kimg": "--kimg",
    "training_kimg": "--phase-kimg",
    "transition_kimg": "--phase-kimg",
    "tick_kimg_base": "--tick",
    "minibatch_base": "--batch",
    "batch_gpu": "--batch-gpu",
    "lr_base": "--lr",
    "fmap_base": "--cbase",
    "fmap_max": "--cmax",
    "stddev_group": "--mbstd-group",
}
_NAMES = re.compile(rf"(?<![/\w-])({'|'.join(_OPTIONS)})(?![/\w-])")


def _with_options(text: str) -> str:
    """An error's text, where each name that is not an option's is followed by that."""
    return _NAMES.sub(lambda name: f"{name[0]} ({_OPTIONS[name[0]]})", text)


def _preset(world: World) -> Preset:
    if world.device.type == "cpu":
        return "demo"
    return next(name for least, name in _BY_GPUS if world.size >= least)


def _spawn(count: int) -> int:
    """The same command in `count` processes of torchrun's, with a share of the cores each.

    In a session of its own, so that a signal comes to it once, from here: torchrun hands on SIGINT and SIGTERM alone,
    and waits for its processes to save.
    """
    from pggan_fast.training.stopping import Stop

    threads = str(max(1, system.cores() // count))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = [*torchrun, "-m", "pggan_fast.cli", *sys.argv[1:]]
    handed_on = not system.POSIX  # elsewhere a console's Ctrl-C comes to every process by itself
    with Stop() as stop:
        process = subprocess.Popen(command, env={"OMP_NUM_THREADS": threads, **os.environ}, start_new_session=True)
        while True:
            try:
                status = process.wait(0.2)
                break
            except subprocess.TimeoutExpired:
                if stop.signal is not None and not handed_on:
                    process.send_signal(signal.SIGINT if stop.signal == "SIGINT" else signal.SIGTERM)
                    handed_on = True
            except KeyboardInterrupt:  # a second one: the processes are saving already
                continue
    return stop.status or status
