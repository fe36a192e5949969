"""`pggan-fast bench`."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.files import check_writable
from pggan_fast.cli.options import Flag, option
from pggan_fast.errors import few

if TYPE_CHECKING:
    from pggan_fast.benchmarks.providers import Provider
    from pggan_fast.benchmarks.schema import Report
    from pggan_fast.benchmarks.suite import Plan

ProviderName = Literal[
    "auto", "eager", "eager_channels_last", "best_eager", "compile", "compile_max_autotune", "aten", "cpu", "triton",
    "cuda",
]  # fmt: skip
DEFAULT_PROVIDERS: tuple[ProviderName, ...] = ("auto", "eager", "eager_channels_last", "compile")
MOST_SEED = 2**63 - 16
INTERRUPTED = 130


@dataclass
class Command:
    """Measure ops, layers, networks and whole WGAN-GP training steps against plain PyTorch, side by side in one run.

    Every provider holds the same weights and must agree with a float64 reference before anything is timed; where one
    does not, its case gets no times and the exit status is 1. Providers are timed in turns, and ratios are within the
    run. The default aims at less than three minutes on two idle CPU cores. Of files that runs have left, `pggan-fast
    bench report` makes tables, pictures and a page, and `pggan-fast bench compare` says what differs between two.
    """

    preset: Literal["quick", "full", "layers", "growth", "peers"] = "quick"
    """What is measured, at which sizes: --list tells. full may take hours."""
    cases: Annotated[tuple[str, ...] | None, option("CASE")] = None
    """Only these cases, or those that match, as '*.block.*'; --list shows all."""
    resolution: Annotated[tuple[int, ...] | None, option("R")] = None
    """Powers of two from 4 to 1024, instead of the preset's."""
    batch: Annotated[tuple[int, ...] | None, option("N")] = None
    """Images per batch, instead of the preset's."""
    providers: Annotated[tuple[ProviderName, ...], tyro.conf.arg(aliases=["--provider"])] = DEFAULT_PROVIDERS
    """auto: this library, choosing its backends; aten to cuda: one of its backends; the others: plain PyTorch."""
    backend: Annotated[Literal["aten", "cpu", "triton", "cuda"] | None, option("{aten,cpu,triton,cuda}")] = None
    """The backend that "auto" uses instead of its own choice."""
    device: Annotated[str | None, option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Half dtypes cast the modules, and are autocast's in training steps."""
    threads: Annotated[tuple[int, ...] | None, option("N")] = None
    """CPU threads, several one after the other; torch's own choice, if not given."""
    repeats: Annotated[int | None, option("N")] = None
    """Timed rounds, at least 3; as many as fit in the budget (3 to 30), if not given."""
    budget: Annotated[float | None, option("SECONDS")] = None
    """What the run aims at: 165 for quick and 3600 for full, if not given."""
    compile_mode: Literal["auto", "default", "max-autotune"] = "auto"
    """Mode of the provider "compile". auto: default in quick, max-autotune in others."""
    seed: int = 0
    """Of weights and inputs."""
    out: Annotated[Path | None, option("FILE.jsonl")] = None
    """Keep every finished case here, as the run goes on."""
    resume: Flag = False
    """Go on with the run of --out: measure what it has not."""
    json: Annotated[Path | None, option("FILE")] = None
    """Write every sample here at the end, as one object."""
    plot: Annotated[Path | None, option("FILE.png")] = None
    """Draw the results here; needs matplotlib."""
    show: Annotated[bool, option(name="list")] = False
    """Show the presets, cases and providers, and measure nothing."""

    model: Annotated[
        Literal["h100", "h200", "a100", "l4", "b200", "rtx4090", "here"] | None, option("{h100,h200,...,here}")
    ] = None
    """Measure nothing: predict the layers of G and D, or of --cases, on this chip, beside what --out has measured."""

    def run(self) -> int:
        if self.show:
            return _list()
        self._check_numbers()
        if self.model:
            return self._predict(self.model)
        self._check_files()
        shown = False
        try:
            from pggan_fast.benchmarks import plot, schema, table
            from pggan_fast.benchmarks.progress import Progress

            screen = table.console()
            with Progress(table.console(stderr=True)) as progress:
                report, told = self._measure(progress)
            if report.results:
                screen.print(table.render(report, screen.is_terminal))
                shown = True
            for text in told:
                screen.print(text, markup=False, highlight=False, soft_wrap=True)
            if self.json:
                schema.write_atomically(self.json, schema.dumps(report))
            if self.plot and any(row.median_s is not None for row in report.results):
                plot.draw(report, self.plot)
            if report.interrupted:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print(self._interrupted(shown))
            return INTERRUPTED
        return 1 if report.red else 0

    def _interrupted(self, shown: bool) -> str:
        """What is left of a run, whenever it was stopped, and how to go on."""
        if self.out is not None and self.out.exists():
            return f"interrupted: what was finished is kept in {self.out}; with --resume it goes on"
        if shown:
            return "interrupted: what was finished is above; --out FILE.jsonl keeps it, and --resume goes on with that"
        return "interrupted: nothing was finished, and nothing is kept; the same command begins again"

    def _measure(self, progress: Any) -> tuple[Report, list[str]]:
        """The run, and lines that are to be told of it."""
        from pggan_fast.benchmarks import ceilings, suite
        from pggan_fast.benchmarks.runfile import RunFile, remaining

        plan, told = self._plan()
        plan.say = progress
        device, dtype = plan.units[0][0].device, plan.units[0][0].dtype
        file = None if self.out is None else RunFile(self.out)
        try:
            begun = None if file is None else file.begun(suite.empty_report(plan, device), self.resume)
        except (ValueError, OSError) as error:
            raise UsageError(f"--out: {error}") from None
        if begun is None:
            progress("the machine's ceilings")
            plan.ceilings = ceilings.measure(device, dtype)
        else:
            plan.ceilings = ceilings.Ceilings.from_dict(begun.machine["ceilings"])
            plan.units = remaining(plan.units, suite.lanes_of(plan), begun.results)
            if not plan.units:
                told.append(f"{self.out} has all of this already: nothing was left to measure")
        if file is not None:
            plan.keep = file.keep
            if begun is None:
                file.start(suite.empty_report(plan, device))
        report = suite.run(plan, device)
        told += filter(None, [suite.overrun(plan, report)])
        if begun is not None:
            report.results = [*begun.results, *report.results]
            report.elapsed_s = (begun.elapsed_s or 0.0) + (report.elapsed_s or 0.0)
        if file is not None:
            file.close(report)
        return report, told

    def _predict(self, chip: str) -> int:
        import torch

        from pggan_fast.benchmarks import model, table
        from pggan_fast.cli.bench_files import read_run

        for name in ("resume", "json", "plot"):
            if getattr(self, name):
                raise UsageError(f"--{name}: is of measurements; --model measures nothing")
        cases = [name for name in self._names() if name in model.CASES]
        if self.cases and not cases:
            raise UsageError(f"--cases: --model predicts {', '.join(model.CASES)}; got none of them")
        measured = None if self.out is None else read_run(self.out, "--out")
        dtype, screen = getattr(torch, self.dtype), table.console()
        described = model.chip_of(chip, parse_device(self.device), dtype)
        sizes = itertools.product(self.resolution or (128,), self.batch or (4,), model.NETWORKS)
        tables = [model.render(described, name, r, n, dtype, measured, cases) for r, n, name in sizes]
        if not any(tables):
            raise UsageError(f"--cases: G and D have no layer of {', '.join(cases)} at these resolutions")
        for drawn in filter(None, tables):
            screen.print(drawn)
        return 0

    def _names(self) -> list[str]:
        """The cases of --cases; none where it was not given."""
        from pggan_fast.benchmarks.cases import matching

        try:
            return matching(self.cases or ())
        except ValueError as error:
            raise UsageError(f"--cases: {error}") from None

    def _check_files(self) -> None:
        """Everything that could fail after minutes of timing, before them."""
        for name, path in (("--out", self.out), ("--json", self.json), ("--plot", self.plot)):
            if path is not None:
                check_writable(name, path)
        if self.plot is not None:
            from pggan_fast import drawing

            if self.plot.suffix.lower() != ".png":
                raise UsageError(f"--plot: got {self.plot.name}, expected a name that ends in .png")
            if not drawing.available():
                raise UsageError(f"--plot: {drawing.MISSING}")
        if self.resume and self.out is None:
            raise UsageError("--resume: goes on with a file; --out names it")

    def _check_numbers(self) -> None:
        for name in ("cases", "resolution", "batch", "threads", "providers"):
            if getattr(self, name) == ():
                expected = f"some of {', '.join(get_args(ProviderName))}" if name == "providers" else "one at least"
                raise UsageError(f"--{name}: got none, expected {expected}")
        if self.repeats is not None and self.repeats < 3:
            raise UsageError(f"--repeats: got {self.repeats}, expected at least 3: fewer show no spread")
        if self.budget is not None and not 0 < self.budget < math.inf:  # NaN fails too
            raise UsageError(f"--budget: got {self.budget}, expected a positive number")
        _within("--seed", [self.seed], 0, MOST_SEED)
        _within("--batch", self.batch or (), 1, 65536)
        _within("--threads", self.threads or (), 1, os.cpu_count() or 1, "as many as there are cores at most")
        bad = [r for r in self.resolution or () if r not in [2**i for i in range(2, 11)]]
        if bad:
            raise UsageError(f"--resolution: got {bad[0]}, expected a power of two from 4 to 1024")

    def _plan(self) -> tuple[Plan, list[str]]:
        """What is to be measured, and lines on what of --cases is not."""
        import torch

        from pggan_fast.benchmarks.cases import BUDGETS, candidates, left_out
        from pggan_fast.benchmarks.suite import Plan

        device = parse_device(self.device)
        names = self._names()
        try:
            found = candidates(
                self.preset,
                device,
                getattr(torch, self.dtype),
                names=names,
                resolutions=self.resolution or (),
                batches=self.batch or (),
                threads=self.threads or (),
            )
        except ValueError as error:
            raise UsageError(f"--cases: {error}") from None
        chosen = [unit for unit, reason in found.items() if reason is None]
        if not chosen:
            raise UsageError(f"{'--cases' if names else '--preset'}: {few(left_out(found))}")
        told = [f"left out: {text}" for text in left_out(found)] if names else []
        plan = Plan(
            units=chosen,
            providers=self._providers(),
            seed=self.seed,
            repeats=self.repeats,
            budget_s=self.budget or BUDGETS[self.preset],
            preset=self.preset,
            compile_steps=self.preset != "quick",
            noise_s=0.6 if self.preset == "quick" else 2.0,  # of its budget more is wanted for torch.compile
        )
        return plan, told

    def _providers(self) -> list[Provider]:
        from pggan_fast.backends import report
        from pggan_fast.benchmarks.providers import provider

        if self.backend is not None and (reason := report.backends()[self.backend]["reason"]):
            raise UsageError(f"--backend {self.backend}: {reason}")
        mode = self.compile_mode
        if mode == "auto":
            mode = "default" if self.preset == "quick" else "max-autotune"
        return [provider(name, mode, self.backend) for name in dict.fromkeys(self.providers)]


def _within(option: str, values: Iterable[int], least: int, most: int, why: str = "") -> None:
    for value in values:
        if not least <= value <= most:
            raise UsageError(f"{option}: got {value}, expected {least} to {most}{f', {why}' if why else ''}")


def _list() -> int:
    from rich import box
    from rich.table import Table

    from pggan_fast.benchmarks.cases import BUDGETS, CASES, MODES, PRESETS
    from pggan_fast.benchmarks.peers.training import PEERS, origin
    from pggan_fast.benchmarks.providers import PROVIDERS
    from pggan_fast.benchmarks.subjects import SUBJECTS
    from pggan_fast.benchmarks.table import console

    screen = console()
    presets = {name: f"{made.__doc__ or ''} (aims at {BUDGETS[name]:.0f} s)" for name, made in PRESETS.items()}
    elsewhere = {
        f"python -m pggan_fast.benchmarks.{module}": text
        for module, text in (
            ("training", "the BENCHMARK preset: whole trainings, every phase"),
            ("loader", "images a second of the loader, against the training step's"),
            ("metrics", "SWD, MS-SSIM and others"),
            ("overhead", "host microseconds of a layer call"),
            ("roofline", "products and bytes counted as the kernels make them, against the machine's ceilings"),
        )
    }
    providers = {name: p.text for name, p in PROVIDERS.items()}
    cases = {f"{name}.{{{','.join(MODES)}}}": subject.text for name, subject in SUBJECTS.items()}
    cases |= {name: text for name, text in CASES.items() if not name.endswith(tuple(f".{mode}" for mode in MODES))}
    cases |= {f"{peer}.{{G,D}}.forward": f"the networks of {peer}, {origin(peer)}" for peer in PEERS}
    modes = {f".{name}": text for name, text in MODES.items()}
    tables = {"preset": presets, "case": cases, "mode": modes, "provider": providers, "command": elsewhere}
    for title, entries in tables.items():
        shown = Table(title, "what it measures", box=box.SIMPLE_HEAVY if screen.is_terminal else box.ASCII2)
        shown.columns[0].no_wrap = True
        for name, text in entries.items():
            shown.add_row(name, text)
        screen.print(shown)
    return 0
