"""The folder of a training run: `OUTDIR/00007-DESCRIPTION/`, as StyleGAN names it."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

_RUN = re.compile(r"(\d+)(-|$)")


def create(outdir: Path, description: str) -> Path:
    """A new folder in `outdir`, which is made too; its number is the largest there and one, and no other run's.

    Safe where several processes and machines make theirs at once. Raises ValueError for a description that is no part
    of a file's name, OSError.
    """
    if not description or not description.isprintable() or "/" in description or "\\" in description:
        raise ValueError(f"description: expected a part of a file's name, got {description!r}")
    outdir.mkdir(parents=True, exist_ok=True)
    while True:
        number = 1 + max(_numbers(outdir), default=-1)
        path = outdir / f"{number:05d}-{description}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        # Of two that took a number under two descriptions at least the later one sees both. Who does, gives it back.
        if _numbers(outdir).count(number) == 1:
            return path
        path.rmdir()
        time.sleep(random.uniform(0, 0.05))


def _numbers(outdir: Path) -> list[int]:
    return [int(m[1]) for path in outdir.iterdir() if (m := _RUN.match(path.name))]
