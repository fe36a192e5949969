"""A clean copy of the sources, to be built from."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = (".git", ".venv", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info", "__pycache__", "*.so")


def copied(folder: Path) -> Path:
    """The copy, in the new `folder`/copy, with links as links and without what is made."""
    return shutil.copytree(
        ROOT, folder / "copy", symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE, "_build.json")
    )
