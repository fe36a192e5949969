"""`pggan-fast bench compare`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.options import option

if TYPE_CHECKING:
    from pggan_fast.benchmarks.compare import Change

# Passed on to each commit's own `pggan-fast bench`, which knows what they may be.
PASSED = ("preset", "cases", "resolution", "batch", "providers", "device", "dtype", "threads", "repeats", "budget")


@dataclass
class Command:
    """Say what became faster or slower from A to B: files of two runs, or two commits of this checkout.

    Compared are the ratios to plain PyTorch within each run, against the noise of both. A commit is checked out into a
    temporary folder and measured by its own code, in turns with the other: bench compare HEAD~1 HEAD --cases G.forward
    --resolution 32. The options from --preset on are for that: they are handed on to `pggan-fast bench`.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """What it was: a file (.json or .jsonl) or a commit."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """What it is."""
    fail_below: Annotated[float | None, option("TIMES")] = None
    """Exit with 1 where a ratio fell below this part of A's (0.7, say) and by more than the noise, or B is wrong."""
    turns: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Of commits: runs of each, A B A B; how far they are apart counts as noise."""
    preset: Annotated[Literal["quick", "full", "layers", "growth", "peers"] | None, option("PRESET")] = None
    """Of commits: what is measured, at which sizes; quick, if not given."""
    cases: Annotated[tuple[str, ...], option("CASE")] = ()
    """Of commits: only these cases, or those that match, as '*.block.*'."""
    resolution: Annotated[tuple[int, ...], option("R")] = ()
    """Powers of two from 4 to 1024, instead of the preset's."""
    batch: Annotated[tuple[int, ...], option("N")] = ()
    """Images per batch, instead of the preset's."""
    providers: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME", aliases=["--provider"])] = ("auto",)
    """Who is compared with plain PyTorch; auto: this library, choosing its backends."""
    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    dtype: Annotated[str | None, option("DTYPE")] = None
    """float32, float16 or bfloat16; float32, if not given."""
    threads: Annotated[tuple[int, ...], option("N")] = ()
    """CPU threads, several one after the other; torch's own choice, if not given."""
    repeats: Annotated[int | None, option("N")] = None
    """Timed rounds, at least 3; as many as fit in the budget, if not given."""
    budget: Annotated[float | None, option("SECONDS")] = None
    """What each run aims at; as long as `bench` takes, if not given."""

    def run(self) -> int:
        self._check()
        from pggan_fast.benchmarks import compare, table

        are_files = [_is_file(name) for name in (self.a, self.b)]
        if are_files[0] != are_files[1]:
            raise UsageError("A and B: got a file and a commit, expected two files or two commits")
        found, titles, notes = self._files() if all(are_files) else self._commits()
        screen = table.console()
        screen.print(compare.render(found, titles, notes, screen.is_terminal), soft_wrap=not screen.is_terminal)
        return self._status(found)

    def _check(self) -> None:
        if self.fail_below is not None and not 0 < self.fail_below < math.inf:  # NaN fails too
            raise UsageError(f"--fail-below: got {self.fail_below}, expected a positive number")
        if self.turns < 1:
            raise UsageError(f"--turns: got {self.turns}, expected at least 1")

    def _files(self) -> tuple[list[Change], tuple[str, str], list[str]]:
        from pggan_fast.benchmarks import compare
        from pggan_fast.cli.bench_files import read_run

        if self._passed(defaults=False):
            raise UsageError(f"{self._passed(defaults=False)[0]}: is for commits; A and B are files")
        a, b = (read_run(Path(name)) for name in (self.a, self.b))
        titles = (compare.title(a, self.a), compare.title(b, self.b))
        return compare.reports(a, b), titles, compare.differences(a, b)

    def _commits(self) -> tuple[list[Change], tuple[str, str], list[str]]:
        from pggan_fast.benchmarks import commits, compare, runs
        from pggan_fast.benchmarks.table import console

        screen = console(stderr=True)

        def say(text: str) -> None:  # plain lines, since each run draws its own progress between them
            screen.print(text, markup=False, highlight=False, soft_wrap=True)

        try:
            turns_a, turns_b = commits.measure((self.a, self.b), self._passed(), self.turns, say)
        except commits.CommitError as error:
            raise UsageError(str(error)) from None
        threads = runs.crowded((*turns_a, *turns_b))
        sides = [compare.together([compare.measured(run, threads) for run in turns]) for turns in (turns_a, turns_b)]
        titles = (compare.title(turns_a[0], self.a), compare.title(turns_b[0], self.b))
        note = f"measured in turns, {self.turns} runs of each; files that are not committed are in neither"
        return compare.changes(*sides), titles, [*compare.differences(turns_a[0], turns_b[0]), note]

    def _passed(self, defaults: bool = True) -> list[str]:
        """The options for `pggan-fast bench`; without `defaults` only those that were given."""
        arguments: list[str] = []
        for name in PASSED:
            value = getattr(self, name)
            if value in (None, ()) or (not defaults and value == getattr(type(self), name)):
                continue
            arguments += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return arguments

    def _status(self, found: list[Change]) -> int:
        """1 where --fail-below was asked for and something fell below it, or there was nothing to hold it to."""
        from pggan_fast.benchmarks import compare
        from pggan_fast.benchmarks.table import console

        if self.fail_below is None:
            return 0
        failed, screen = compare.below(found, self.fail_below), console(stderr=True)
        lines = [f"below {self.fail_below:g}: {compare.named(change)}" for change in failed]
        if all(change.times is None for change in found):
            lines.append("no case was measured in both: nothing was compared")
        for text in lines:
            screen.print(text, markup=False, highlight=False, soft_wrap=True)
        return 1 if lines else 0


def _is_file(name: str) -> bool:
    return Path(name).is_file() or name.endswith((".json", ".jsonl"))
