"""`pggan-fast report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pggan_fast.cli import UsageError


@dataclass
class Command:
    """Make a page of a training run, report.html, and its curves as a picture, report.png, in the run's folder.

    Works while the run goes on. The page needs no other file. Curves need matplotlib: pip install 'pggan-fast[bench]'.
    """

    run_dir: Annotated[Path, tyro.conf.Positional]
    """The folder of a run, with its stats.jsonl."""

    def run(self) -> int:
        from pggan_fast import drawing
        from pggan_fast.benchmarks.table import console
        from pggan_fast.cli.bar import Bar
        from pggan_fast.training import report

        try:
            with Bar(console(stderr=True), "pictures") as bar:
                made = report.make(self.run_dir, bar)
        except ValueError as error:
            raise UsageError(str(error)) from None
        except OSError as error:
            raise UsageError(f"run_dir: cannot use {error.filename}: {error.strerror or error}") from None
        for path in made:
            print(path)
        if not drawing.available():
            print(drawing.MISSING)
        return 0
