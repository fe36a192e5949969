"""`pggan-fast video`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.files import check_writable
from pggan_fast.cli.generators import Drawing, Drawn, not_written, parse_seeds, told
from pggan_fast.cli.options import option

if TYPE_CHECKING:
    from PIL import Image

    from pggan_fast.sampling import Loop


@dataclass(kw_only=True)
class Command(Drawing):
    """Make a video that goes from seed to seed and back to the first: an animated GIF, WebP or APNG, or an MP4.

    Latents move on the hypersphere between key frames, which are the images of the seeds. Each cell of the grid takes
    as many seeds in a row as it has key frames. A batch of images is in memory at a time. The file is replaced in one
    go, or left as it was.
    """

    output: Annotated[Path, option("FILE")]
    """Ends in .gif (256 colours a frame), .webp, .apng (exact) or .mp4 (needs imageio-ffmpeg, the extra "video")."""
    seeds: Annotated[str, tyro.conf.arg(metavar="A,B-C,...")] = "0-7"
    """Numbers and ranges below 2^32."""
    grid: Annotated[str, tyro.conf.arg(metavar="WxH")] = "1x1"
    """Images beside and below each other."""
    num_keyframes: Annotated[int | None, option("N")] = None
    """Of each cell; seeds / cells, if not given. Where more seeds are needed than given, they start again."""
    w_frames: Annotated[int, tyro.conf.arg(metavar="N")] = 120
    """Frames from one key frame to the next."""
    fps: Annotated[int, tyro.conf.arg(metavar="N")] = 30
    """Frames per second; a GIF has at most 50."""

    def run(self) -> int:
        from pggan_fast import videos

        seeds, (columns, rows) = parse_seeds(self.seeds), _cells(self.grid)
        keys = self._keys(len(seeds), columns * rows)
        if self.w_frames < 1:
            raise UsageError(f"--w-frames: got {self.w_frames}, expected a number >= 1")
        told(lambda: videos.check(self.output, self.fps))
        check_writable("--output", self.output)
        drawn = self.opened([seeds[i % len(seeds)] for i in range(columns * rows * keys)])
        size = columns * drawn.size[1], rows * drawn.size[0]
        told(lambda: videos.check(self.output, self.fps, size), size="grid")
        from pggan_fast.benchmarks.table import console
        from pggan_fast.errors import file_size

        screen, loop = console(), told(lambda: _loop(drawn, columns * rows, keys, self.w_frames), a="seeds")
        for line in drawn.about("cell"):
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
        try:
            videos.save(self.output, self._frames(drawn, loop, columns), loop.frames, fps=self.fps)
        except OSError as error:
            return not_written(self.output, error)
        text = f"{loop.frames} frames of {size[0]}x{size[1]}, {loop.frames / self.fps:.1f} s"
        text = f"{self.output}: {text}, {file_size(self.output.stat().st_size)}"
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
        return 0

    def _keys(self, seeds: int, cells: int) -> int:
        keys = self.num_keyframes
        if keys is None:
            keys, left = divmod(seeds, cells)
            if left or keys < 2:
                raise UsageError(
                    f"--seeds: got {seeds} for {cells} cells, expected 2 or more for each: {2 * cells}, {3 * cells} "
                    "and so on; --num-keyframes N takes any number, again and again"
                )
        if keys < 2:
            raise UsageError(f"--num-keyframes: got {keys}, expected a number >= 2")
        return keys

    def _frames(self, drawn: Drawn, loop: Loop, columns: int) -> Iterator[Image.Image]:
        from pggan_fast.benchmarks.table import console
        from pggan_fast.cli.bar import Bar
        from pggan_fast.pictures import grid
        from pggan_fast.sampling import images

        made = images(drawn.sampler, loop.frames * loop.cells, loop, drawn.batch)
        with Bar(console(stderr=True), "frames") as bar:
            for number in range(loop.frames):
                yield grid(list(islice(made, loop.cells)), columns)
                bar(number + 1, loop.frames)


def _cells(text: str) -> tuple[int, int]:
    """(columns, rows) of "WxH"."""
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text, re.ASCII)
    if match is None:
        raise UsageError(f"--grid: got {text!r}, expected columns and rows, such as 4x3")
    return int(match[1]), int(match[2])


def _loop(drawn: Drawn, cells: int, keys: int, steps: int) -> Loop:
    """Each cell's key frames are seeds in a row; its class is that of its first seed throughout."""
    from pggan_fast.sampling import Loop

    z, labels = drawn.inputs(range(cells * keys))
    return Loop(z.view(cells, keys, -1), steps, None if labels is None else labels[::keys])
