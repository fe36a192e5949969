"""Files of runs that a command is asked to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pggan_fast.cli import UsageError

if TYPE_CHECKING:
    from pggan_fast.benchmarks.schema import Report


def read_run(path: Path) -> Report:
    """A file that `pggan-fast bench` wrote. Raises UsageError."""
    from pggan_fast.benchmarks import schema

    try:
        return schema.read(path)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
