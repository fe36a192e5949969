"""Files that a command is asked to write."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pggan_fast.cli import UsageError


def make_folder(name: str, path: Path) -> None:
    """Make it where it is not there yet; UsageError for one that cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{name}: cannot make {path}: {error.strerror}") from None
    check_writable(name, path / "file")


def check_writable(name: str, path: Path) -> None:
    """Refuse a path that could not be written, before any work is done. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{name}: got the folder {path}, expected a file")
    if not path.parent.is_dir():
        raise UsageError(f"{name}: the folder {path.parent} does not exist")
    try:  # as files are written: beside their place, then in it; mode bits do not tell root or /proc
        tempfile.TemporaryFile(dir=path.parent, prefix=f".{path.name}.").close()
    except OSError as error:
        raise UsageError(f"{name}: cannot write in the folder {path.parent}: {error.strerror}") from None
