"""`pggan-fast metrics`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.files import make_folder
from pggan_fast.cli.generators import Loaded, default_batch, load
from pggan_fast.cli.options import Flag, option
from pggan_fast.metrics.published import DatasetName

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from pggan_fast.metrics.measures import Measure, Settings
    from pggan_fast.metrics.names import Name
    from pggan_fast.metrics.ranks import Ranks
    from pggan_fast.metrics.samples import Reals, Source


@dataclass
class Command:
    """Say how good a generator's images are, beside what reals against other reals give (the floor).

    Without --network and --images the reals alone are measured. Under torchrun the images are shared among the
    processes, and the results are the same. Image number i depends on the seed and i alone.

    swd is the sliced Wasserstein distance, times 1000, fd a feature distance by random features, both of so many images
    (16k: 16 x 1024); msssim20k is the MS-SSIM of 10,000 pairs.
    """

    data: Annotated[Path | None, option("FILE")] = None
    """The reals: anything that `data convert` reads, such as a ZIP or a folder; the word faces: the embedded ones."""
    network: Annotated[Path | None, option("PATH")] = None
    """A network file, or a training's folder, whose newest network-snapshot-*.safetensors it takes: G_ema, else G."""
    images: Annotated[Path | None, option("FILE")] = None
    """Generated images in place of a network, anybody's."""
    metrics: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = "swd16k,msssim20k,fd10k"
    """Kinds, each with how many images it takes; fid50k, fid50k_full, kid10k and is50k need --extractor."""
    extractor: Annotated[Path | None, option("FILE")] = None
    """For FID, KID and IS: a TorchScript file, or the .pth of torch-fidelity's Inception; never downloaded."""
    mirror: Flag = False
    """Flip half of the reals, as training with mirrored images does."""
    seed: int = 0
    """Of latents, of the order of the reals, patches and directions."""
    batch: Annotated[int | None, option("N")] = None
    """Images at a time, an even number; 8192 / resolution, between 4 and 256, if not given."""
    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given, and the process's own under torchrun."""
    outdir: Annotated[Path | None, option("DIR")] = None
    """Add a line to metric-NAME.jsonl there, in StyleGAN's format; made where it does not exist."""
    floor: Flag = True
    """Leave out the floor: the same metrics of reals against other reals, which a perfect generator would have."""
    scratch: Annotated[Path | None, option("DIR")] = None
    """Keep patches in an unnamed file there, where they do not fit into memory (75 kB an image and level)."""
    dataset: Annotated[DatasetName | None, option("NAME")] = None
    """What the reals are (celeba, celebahq, lsun-bedroom, lsun-cat, lsun-church): shows published numbers beside."""

    def run(self) -> int:
        names = self._names()
        self._check()
        with _ranks() as ranks:
            from pggan_fast.benchmarks.table import console
            from pggan_fast.metrics import running

            settings = self._settings(ranks)
            try:
                loaded = None if self.network is None else load(self.network)
                fakes, reals, notes = self._sources(loaded, names, settings)
                wanted = running.measures(names, fakes, reals, settings)
                batch = self.batch or default_batch(wanted[0].size)
                _check_memory(wanted, ranks, self.scratch)
                with _progress(console(stderr=True), ranks) as say:
                    results = running.evaluate(wanted, fakes, reals, batch=batch, ranks=ranks, say=say)
            except ValueError as error:
                raise UsageError(_one_line(error)) from None
            except OSError as error:
                raise UsageError(f"cannot read {error.filename}: {error.strerror or error}") from None
            from pggan_fast.cli import metrics_table

            for result in results:
                result.notes.extend(notes)
                if self.outdir is not None:
                    about = {"data": _text(self.data), "seed": self.seed, "mirror": self.mirror, "batch": batch}
                    about["extractor"] = _text(self.extractor)
                    kimg = None if loaded is None else loaded.source.get("kimg")
                    network = _text(self.images) if loaded is None else running.name_from(self.outdir, loaded.path)
                    record = {**result.as_json(ranks.world, network), **about, "kimg": kimg}
                    running.append(self.outdir, result, record)
            if results:
                metrics_table.show(console(), results, self.dataset, wanted[0].size)
        return 0

    def _names(self) -> list[Name]:
        from pggan_fast.metrics.names import parse

        try:
            names = [parse(text.strip()) for text in self.metrics.split(",")]
        except ValueError as error:
            raise UsageError(f"--metrics: {error}") from None
        return list(dict.fromkeys(names))

    def _check(self) -> None:
        if self.network is not None and self.images is not None:
            raise UsageError("--network and --images: expected one of them, got both")
        if self.data is None and self.network is None and self.images is None:
            raise UsageError("--data, --network, --images: expected one of them at least")
        if self.batch is not None and (self.batch < 2 or self.batch % 2):
            raise UsageError(f"--batch: got {self.batch}, expected an even number, at least 2")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"--seed: got {self.seed}, expected 0 to 2^32 - 1")
        if self.outdir is not None:
            make_folder("--outdir", self.outdir)
        if self.scratch is not None and not self.scratch.is_dir():
            raise UsageError(f"--scratch: {self.scratch} is no folder")

    def _settings(self, ranks: Ranks) -> Settings:
        from pggan_fast.metrics import extractor
        from pggan_fast.metrics.measures import Settings

        device = _device(self.device, ranks)
        try:
            network = None if self.extractor is None else extractor.load(self.extractor, device)
        except extractor.ExtractorError as error:
            raise UsageError(f"--extractor: {error}") from None
        except OSError as error:
            raise UsageError(f"--extractor: cannot read {self.extractor}: {error.strerror}") from None
        return Settings(self.seed, device, self.floor, network, self.scratch)

    def _sources(
        self, loaded: Loaded | None, names: list[Name], settings: Settings
    ) -> tuple[Source | None, Reals | None, list[str]]:
        """Generated images, reals at the network's resolution where the data set has it, and notes on them."""
        from pggan_fast.data import open_dataset
        from pggan_fast.metrics.samples import Generated, Level, Reals, label_rows

        G = None if loaded is None else loaded.G
        dataset, reals, notes = None, None, list[str]()
        if self.data is not None:
            dataset = open_dataset(self.data)
            level = None if G is None or G.levels.resolution not in dataset.resolutions else G.levels.resolution
            if level not in (None, dataset.resolution):
                whole = f"{dataset.resolution}x{dataset.resolution}"
                notes.append(f"reals at {level}x{level}, the network's resolution, made from {whole}")
            reals = Reals(Level(dataset, level), seed=self.seed, mirror=self.mirror, name=str(self.data))
        if self.images is not None:
            return Reals(Level(open_dataset(self.images)), seed=self.seed, name=str(self.images)), reals, notes
        if loaded is None or G is None:
            return None, reals, notes
        count, labels = max(name.count for name in names), label_rows(dataset) if G.label_dim else None
        fakes = Generated(G, count, seed=self.seed, labels=labels, device=settings.device, name=loaded.path.name)
        return fakes, reals, notes


@contextmanager
def _ranks() -> Iterator[Ranks]:
    """The processes of a torchrun, which hand their shares over through the CPU; alone without one."""
    from pggan_fast.metrics.ranks import Ranks

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        yield Ranks.current()
    finally:
        dist.destroy_process_group()


def _device(name: str | None, ranks: Ranks) -> torch.device:
    device = parse_device(name)
    if device.type == "cuda" and ranks.world > 1 and name in (None, "cuda"):
        return parse_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return device


def _check_memory(wanted: list[Measure], ranks: Ranks, scratch: Path | None) -> None:
    """What the metrics keep, before an hour of work and not after it."""
    import torch

    from pggan_fast.benchmarks.table import size
    from pggan_fast.benchmarks.timing import available_bytes

    needed, there = sum(measure.bytes_kept() for measure in wanted), available_bytes(torch.device("cpu"))
    if ranks.rank == 0 and scratch is None and there is not None and needed > there:
        raise UsageError(f"--metrics: patches need {size(needed)} of memory, {size(there)} are free; see --scratch")


@contextmanager
def _progress(screen: Console, ranks: Ranks) -> Iterator[Callable[[str, int, int], None]]:
    """A live line on a terminal, a line for each tenth elsewhere; the first process alone tells."""
    from pggan_fast.benchmarks.progress import Progress

    if ranks.rank:
        yield lambda text, done, total: None
        return
    told: set[tuple[str, int]] = set()
    with Progress(screen) as progress:

        def say(text: str, done: int, total: int) -> None:
            tenth = text, 10 * done // max(1, total)
            if progress.live or tenth not in told:
                told.add(tenth)
                progress(f"{text}: {done:,} of {total:,}")

        yield say


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
