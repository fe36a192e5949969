"""`pggan-fast bench`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.devices import parse_device
from pggan_fast.cli.files import check_writable

if TYPE_CHECKING:
    from pggan_fast.benchmarks.providers import Provider
    from pggan_fast.benchmarks.suite import Plan

ProviderName = Literal["auto", "eager", "eager_channels_last", "compile", "aten", "cpu", "triton", "cuda"]
CaseName = Literal["G.forward", "D.forward", "D.step", "G.step", "G.sample"]
DEFAULT_PROVIDERS: tuple[ProviderName, ...] = ("auto", "eager", "eager_channels_last", "compile")


def _option(metavar: str | None = None) -> Any:
    """An option without a default to show."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass
class Command:
    """Measure whole networks and whole WGAN-GP training steps against plain PyTorch, side by side in one run.

    Every provider holds the same weights and must agree with a float64 reference before anything is timed; where one
    does not, its case gets no times and the exit status is 1. Providers are timed in turns, and ratios are within the
    run. The default aims at less than three minutes on two idle CPU cores.
    """

    preset: Literal["quick", "full"] = "quick"
    """full adds forwards from 4x4 to 1024x1024, a step at 64x64, a G step at 128x128; it may take an hour."""
    cases: Annotated[tuple[CaseName, ...], _option()] = ()
    """Only these cases of the preset; G.sample (latents to bytes, ours by inference.Sampler) runs only if named."""
    resolution: Annotated[tuple[int, ...], _option("R")] = ()
    """Powers of two from 4 to 1024, instead of the preset's."""
    batch: Annotated[int | None, _option("N")] = None
    """Images per batch, instead of the preset's."""
    providers: Annotated[tuple[ProviderName, ...], tyro.conf.arg(aliases=["--provider"])] = DEFAULT_PROVIDERS
    """auto: this library, choosing its backends; aten to cuda: one of its backends; the others: plain PyTorch."""
    backend: Annotated[Literal["aten", "cpu", "triton", "cuda"] | None, _option("{aten,cpu,triton,cuda}")] = None
    """The backend that "auto" uses instead of its own choice."""
    device: Annotated[str | None, _option("DEVICE")] = None
    """cpu, cuda or cuda:N; cuda where there is one, if not given."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Half dtypes cast the networks for forwards and use autocast for training steps."""
    threads: Annotated[int | None, _option("N")] = None
    """CPU threads; torch's own choice, if not given."""
    repeats: Annotated[int | None, _option("N")] = None
    """Timed rounds, at least 3; as many as fit in the budget (3 to 30), if not given."""
    budget: Annotated[float | None, _option("SECONDS")] = None
    """What the run aims at; 165 for quick and 3600 for full, if not given."""
    compile_mode: Literal["auto", "default", "max-autotune"] = "auto"
    """Mode of torch.compile. auto: default in quick, max-autotune in full."""
    seed: int = 0
    """Of weights and inputs."""
    json: Annotated[Path | None, _option("FILE")] = None
    """Write every sample here."""
    plot: Annotated[Path | None, _option("FILE.png")] = None
    """Draw the results here; needs matplotlib."""

    def run(self) -> int:
        self._check()
        from pggan_fast.benchmarks import plot, schema, suite, table
        from pggan_fast.benchmarks.progress import Progress

        plan = self._plan()
        with Progress(table.console(stderr=True)) as progress:
            plan.say = progress
            report = suite.run(plan)
        screen = table.console()
        screen.print(table.render(report, screen.is_terminal))
        if self.json:
            schema.write_atomically(self.json, schema.dumps(report))
        if self.plot:
            plot.draw(report, self.plot)
        return 1 if report.red else 0

    def _check(self) -> None:
        """Everything that could fail after minutes of timing, before them."""
        for name, path in (("--json", self.json), ("--plot", self.plot)):
            if path is not None:
                check_writable(name, path)
        if self.plot is not None:
            from pggan_fast.benchmarks import plot

            if self.plot.suffix.lower() != ".png":
                raise UsageError(f"--plot: got {self.plot.name}, expected a name that ends in .png")
            if not plot.available():
                raise UsageError(f"--plot: {plot.MISSING}")
        if self.repeats is not None and self.repeats < 3:
            raise UsageError(f"--repeats: got {self.repeats}, expected at least 3: fewer show no spread")
        for option in ("batch", "threads", "budget"):
            value = getattr(self, option)
            if value is not None and not 0 < value < math.inf:  # NaN fails too
                raise UsageError(f"--{option}: got {value}, expected a positive number")
        if not self.providers:
            raise UsageError(f"--providers: got none, expected some of {', '.join(get_args(ProviderName))}")
        bad = [r for r in self.resolution if r not in [2**i for i in range(2, 11)]]
        if bad:
            raise UsageError(f"--resolution: got {bad[0]}, expected a power of two from 4 to 1024")

    def _plan(self) -> Plan:
        import torch

        from pggan_fast.benchmarks.cases import BUDGETS, units
        from pggan_fast.benchmarks.suite import Plan

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = parse_device(self.device)
        chosen = units(
            self.preset,
            device,
            getattr(torch, self.dtype),
            names=self.cases,
            resolutions=self.resolution,
            batch=self.batch,
        )
        return Plan(
            units=chosen,
            providers=self._providers(),
            seed=self.seed,
            repeats=self.repeats,
            budget_s=self.budget or BUDGETS[self.preset],
            preset=self.preset,
            compile_steps=self.preset == "full",
        )

    def _providers(self) -> list[Provider]:
        from pggan_fast.backends import report
        from pggan_fast.benchmarks.providers import provider

        if self.backend is not None and (reason := report.backends()[self.backend]["reason"]):
            raise UsageError(f"--backend {self.backend}: {reason}")
        mode = self.compile_mode
        if mode == "auto":
            mode = "max-autotune" if self.preset == "full" else "default"
        return [provider(name, mode, self.backend) for name in dict.fromkeys(self.providers)]
