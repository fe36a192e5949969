"""`pggan-fast generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.files import make_folder
from pggan_fast.cli.generators import Drawing, Drawn, not_written, parse_seeds
from pggan_fast.cli.options import Flag, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class Command(Drawing):
    """Draw images of a trained network by seed: seed0000.png and so on, and grid.png with all of them.

    A seed's latents depend on it alone. Its image has the same bits for the same number of images at a time, so that
    --batch 1 is exact whatever the other seeds are; otherwise a byte in thousands may differ by 1 in float32, by a
    kernel's rounding. Files of these names are replaced.
    """

    outdir: Annotated[Path, option("DIR")]
    """Where the files go; made if it does not exist."""
    seeds: Annotated[str, tyro.conf.arg(metavar="A,B-C,...")] = "0-63"
    """Numbers and ranges below 2^32."""
    grid: Flag = False
    """All images in one picture too, grid.png, in the order of the seeds."""
    columns: Annotated[int | None, option("N")] = None
    """Of the grid; about as many as rows, if not given."""
    images: Flag = True
    """Leave out the file of each seed."""

    def run(self) -> int:
        seeds = parse_seeds(self.seeds)
        self._check()
        drawn = self.opened(seeds)
        if self.grid:
            _check_memory(drawn, len(seeds))
        make_folder("--outdir", self.outdir)
        from pggan_fast.benchmarks.table import console

        screen = console()
        for line in drawn.about("seed"):
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
        try:
            written = self._draw(drawn, seeds)
        except OSError as error:
            return not_written(self.outdir, error)
        screen.print(f"{self.outdir}: {written}", markup=False, highlight=False, soft_wrap=True)
        return 0

    def _check(self) -> None:
        if self.outdir.exists() and not self.outdir.is_dir():
            raise UsageError(f"--outdir: got the file {self.outdir}, expected a folder")
        if not self.images and not self.grid:
            raise UsageError("--no-images: nothing would be left to write without --grid")
        if self.columns is not None and (self.columns < 1 or not self.grid):
            raise UsageError(f"--columns: got {self.columns}, expected a number >= 1, with --grid")

    def _draw(self, drawn: Drawn, seeds: list[int]) -> str:
        """Write the files; says which."""
        from pggan_fast.benchmarks.table import console
        from pggan_fast.cli.bar import Bar
        from pggan_fast.filetypes import GRID
        from pggan_fast.pictures import grid, save_png
        from pggan_fast.sampling import images

        kept: list[Tensor] = []
        with Bar(console(stderr=True), "drawing") as bar:
            for number, image in enumerate(images(drawn.sampler, len(seeds), drawn.inputs, drawn.batch)):
                if self.images:
                    save_png(self.outdir / _name(seeds[number]), grid([image]))
                if self.grid:
                    kept.append(image)
                bar(number + 1, len(seeds))
        written = [] if not self.images else [_name(seeds[0])] if len(seeds) == 1 else [_files(seeds)]
        if self.grid:
            picture = grid(kept, self.columns)
            save_png(self.outdir / GRID, picture)
            written.append(f"{GRID} of {picture.width}x{picture.height}")
        return ", ".join(written)


def _name(seed: int) -> str:
    return f"seed{seed:04}.png"


def _files(seeds: list[int]) -> str:
    return f"{_name(seeds[0])} to {_name(seeds[-1])} ({len(set(seeds))} files)"


def _check_memory(drawn: Drawn, count: int) -> None:
    """Of the images and the picture of them all, before the work and not after it."""
    import torch

    from pggan_fast.benchmarks import timing
    from pggan_fast.benchmarks.table import size

    height, width = drawn.size
    needed, there = 2 * count * height * width * drawn.loaded.G.channels, timing.available_bytes(torch.device("cpu"))
    if there is not None and needed > there:
        raise UsageError(f"--grid: {count:,} images need {size(needed)} of memory, {size(there)} are free")
