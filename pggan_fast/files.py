"""How files are written: whole, or not at all; and opened, under names that can be guessed, in folders of others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pggan_fast import system


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place: a reader sees the old file or the whole new."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """So that the new name outlives a power failure, where folders can be opened."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(folder)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(folder)


def no_link(name: str, flags: int) -> int:
    """For `open(..., opener=no_link)`: what a link points to is left alone (OSError), a pipe does not block, and a file
    that is made is this user's alone."""
    return os.open(name, flags | system.NOFOLLOW | system.NONBLOCK, 0o600)
