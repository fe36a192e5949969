"""Files of runs that a command is asked to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pggan_fast.cli import UsageError

if TYPE_CHECKING:
    from pggan_fast.benchmarks.schema import Report


def read_run(path: Path, option: str = "") -> Report:
    """A file that `pggan-fast bench` wrote, which `option` names. Raises UsageError."""
    from pggan_fast.benchmarks import schema

    before = f"{option}: " if option else ""
    try:
        return schema.read(path)
    except ValueError as error:
        raise UsageError(f"{before}{error}") from None
    except OSError as error:
        raise UsageError(f"{before}{path}: cannot be read: {error.strerror or error}") from None
