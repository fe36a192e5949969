"""`pggan-fast bench report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.options import option


@dataclass
class Command:
    """Make tables, pictures and one page, report.html, of the files that `pggan-fast bench` wrote (.json or .jsonl).

    The page needs no other file. Runs of the same commit on the same machine are shown as one, so that files of
    several numbers of threads make one curve. Pictures need matplotlib: pip install 'pggan-fast[bench]'.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, option("FILE ...")]
    """One run or more, as `bench --out` and `bench --json` write them."""
    out: Annotated[Path, option("DIR")]
    """The folder for report.html and the pictures; it is made."""

    def run(self) -> int:
        from pggan_fast import drawing
        from pggan_fast.benchmarks import growth, page, table
        from pggan_fast.benchmarks.progress import Progress
        from pggan_fast.benchmarks.schema import write_atomically
        from pggan_fast.cli.bench_files import read_run

        if not self.files:
            raise UsageError("FILE: got none, expected files that `pggan-fast bench` wrote")
        named = [(path.name, read_run(path)) for path in self.files]
        self._make_folder()
        with Progress(table.console(stderr=True)) as progress:
            sections = page.sections(named, progress)
        screen = table.console()
        for section in sections:
            screen.print(section.name, highlight=False, markup=False)
            screen.print(table.render(section.report, screen.is_terminal))
            if section.growths:
                screen.print(growth.render(section.growths, screen.is_terminal))
        try:
            for name, data in page.files(sections).items():
                write_atomically(self.out / name, data)
                screen.print(str(self.out / name), highlight=False, markup=False, soft_wrap=True)
        except OSError as error:
            raise UsageError(f"--out: cannot write {error.filename}: {error.strerror or error}") from None
        if not drawing.available():
            screen.print(drawing.MISSING, highlight=False, markup=False, soft_wrap=True)
        return 0

    def _make_folder(self) -> None:
        """Before anything is drawn."""
        from pggan_fast.cli.files import check_writable

        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out: cannot make the folder {self.out}: {error.strerror or error}") from None
        check_writable("--out", self.out / "report.html")
