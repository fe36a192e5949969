"""The trained generator that a command is asked to use, and the options of those that draw images by seed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pggan_fast.inference import Sampler
    from pggan_fast.models import Generator

T = TypeVar("T")
MOST_SEEDS = 1_000_000


@dataclass(kw_only=True)
class Loaded:
    """A generator, where it is from, and what the file tells of it."""

    G: Generator
    path: Path
    name: str  # G_ema or G
    source: dict[str, Any]

    @property
    def text(self) -> str:
        return f"{self.name} of {self.path}"


def load(path: Path) -> Loaded:
    """G_ema, else G, of a network file or of the newest snapshot in the folder of a training. Raises UsageError."""
    from pggan_fast import networks

    try:
        if path.is_dir():
            newest = networks.newest_snapshot(path)
            if newest is None:
                name = networks.snapshot_name(0).replace("0" * 6, "*")
                runs = sorted(folder for folder in path.iterdir() if _has_network(folder))
                inside = f", but folders in it have, as {runs[-1]}" if runs else ""
                raise UsageError(f"--network: the folder {path} has no {name}{inside}")
            path = newest
        held = networks.load(path)
    except networks.NetworkFileError as error:
        raise UsageError(f"--network: {error}") from None
    except OSError as error:
        raise UsageError(f"--network: cannot read {error.filename or path}: {error.strerror or error}") from None
    if held.sampled is None:
        raise UsageError(f"--network: {path} has no generator, only {', '.join(held.present())}")
    return Loaded(G=held.sampled[1], path=path, name=held.sampled[0], source=held.source)


def _has_network(folder: Path) -> bool:
    from pggan_fast import networks

    try:
        return networks.newest_snapshot(folder) is not None
    except OSError:  # no folder, or one of somebody else
        return False


def default_batch(size: tuple[int, int]) -> int:
    """Images of this size at a time, an even number."""
    return min(256, max(4, 8192 // max(size))) & ~1


def told(make: Callable[[], T], **options: str) -> T:
    """What `make` gives; a ValueError that starts with an argument's name is one line with the option's.

    options: those that are not named as the argument.
    """
    try:
        return make()
    except ValueError as error:
        name, _, rest = " ".join(str(error).split()).partition(":")
        raise UsageError(f"--{options.get(name, name).replace('_', '-')}:{rest}") from None


def not_written(path: Path, error: OSError) -> int:
    """One line and the exit status for work that failed on its way into a file."""
    print(f"pggan-fast: error: cannot write {path}: {error.strerror or error}", file=sys.stderr)
    return 1


def parse_seeds(text: str) -> list[int]:
    """ "0,1,4-6" as numbers. Raises UsageError."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", part, re.ASCII)
        if match is None:
            raise UsageError(f"--seeds: got {text!r}, expected numbers and ranges, such as 0,1,4-6")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < 1 << 32:
            raise UsageError(f"--seeds: got {part.strip()!r}, expected a range that goes up, below 2^32")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise UsageError(f"--seeds: got {text!r}, expected at most {MOST_SEEDS:,}")
        seeds += range(first, last + 1)
    return seeds


@dataclass(kw_only=True)
class Drawing:
    """Options of every command that draws images by seed."""

    network: Annotated[Path, option("PATH")]
    """A network file, or a training's folder, whose newest network-snapshot-*.safetensors it takes: G_ema, else G."""
    class_: Annotated[int | None, option("N", "class")] = None
    """Images of this class; each seed's own, if not given and the network has classes."""
    trunc: Annotated[float | None, option("PSI")] = None
    """Latents of components within +-PSI, as in BigGAN; not for networks that normalise them, as the official do."""
    resolution: Annotated[int | None, option("R")] = None
    """A lower level of the network; what the snapshot was trained at, if it says so, else all of it."""
    alpha: Annotated[float | None, option("A")] = None
    """Weight of the newest level, 0 to 1, while it fades in; the snapshot's, if it says so, else 1."""
    batch: Annotated[int | None, option("N")] = None
    """Images at a time; 8192 / resolution, between 4 and 256, if not given. Kernels round otherwise by it."""
    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "float64"] | None, option("{float32,float16,bfloat16,float64}")
    ] = None
    """What is computed in; as the file has its weights, if not given."""

    def check(self) -> None:
        """What can be said without the network."""
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch: got {self.batch}, expected a number >= 1")
        if self.alpha is not None and not 0 <= self.alpha <= 1:  # NaN fails too
            raise UsageError(f"--alpha: got {self.alpha}, expected 0 to 1")
        if self.trunc is not None and not 0 < self.trunc < float("inf"):
            raise UsageError(f"--trunc: got {self.trunc}, expected a positive number")

    def opened(self, seeds: list[int]) -> Drawn:
        """The sampler, with latents and labels of the seeds. Raises UsageError."""
        self.check()
        device = parse_device(self.device)
        loaded = load(self.network)
        G = loaded.G
        from pggan_fast import sampling

        if G.channels not in (1, 3):
            raise UsageError(f"--network: {loaded.path} gives images of {G.channels} channels, expected 1 or 3")
        told(lambda: sampling.check_truncation(G, self.trunc), truncation="trunc")
        told(lambda: sampling.labels_of_seeds(G, [], self.class_))
        return Drawn(self, loaded, told(lambda: self._sampler(loaded, device)), seeds)

    def _sampler(self, loaded: Loaded, device: Any) -> Sampler:
        import torch

        from pggan_fast.inference import Sampler

        level = loaded.source if self.resolution is None else {}
        resolution, alpha = level.get("resolution", self.resolution), level.get("alpha", 1.0)
        return Sampler(
            loaded.G,
            device=device,
            dtype=None if self.dtype is None else getattr(torch, self.dtype),
            resolution=resolution,
            alpha=alpha if self.alpha is None else self.alpha,
        )


class Drawn:
    """Images by seed: what `sampling.images` wants, and what is to be told of it."""

    def __init__(self, options: Drawing, loaded: Loaded, sampler: Sampler, seeds: list[int]) -> None:
        self.loaded, self.sampler, self._options, self._seeds = loaded, sampler, options, seeds
        height, width = loaded.G.levels.base_shape
        self.size = height * sampler.resolution // 4, width * sampler.resolution // 4
        self.batch = options.batch or default_batch(self.size)

    def inputs(self, numbers: range) -> tuple[Tensor, Tensor | None]:
        """Latents and labels of seeds by their place."""
        from pggan_fast import sampling

        seeds, G = self._seeds[numbers.start : numbers.stop], self.loaded.G
        z = sampling.latents_of_seeds(seeds, G.latent_dim, truncation=self._options.trunc)
        return z, sampling.labels_of_seeds(G, seeds, self._options.class_)

    def about(self, whose: str) -> list[str]:
        """What was not asked for in so many words; `whose` class is drawn."""
        lines = [f"{self.loaded.text}, {self.sampler!r}"]
        if self.loaded.G.label_dim and self._options.class_ is None:
            lines.append(
                f"{self.loaded.G.label_dim} classes: each {whose} has one of its own, --class N takes one for all"
            )
        return lines
