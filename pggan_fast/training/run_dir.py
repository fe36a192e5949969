"""The folder of a training run: `OUTDIR/00007-DESCRIPTION/`, as StyleGAN names it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

from pggan_fast import system

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


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder is this process's inside the block: two trainings in one would write over each other's files.

    The system lets go of it when the process ends, however it does. Where the system or the file system knows no locks
    on folders nothing is held. Raises ValueError where another process holds it, OSError.
    """
    if not system.has_locks():  # nor would Windows open a folder
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            system.lock(handle)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is training in it; --new starts another run") from None
        except OSError as error:  # NFS wants a file that can be written
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(handle)


def _numbers(outdir: Path) -> list[int]:
    return [int(m[1]) for path in outdir.iterdir() if (m := _RUN.match(path.name))]
