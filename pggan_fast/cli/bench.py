"""`pggan-fast bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pggan_fast.cli import UsageError

if TYPE_CHECKING:
    import torch

    from pggan_fast.benchmarks.providers import Provider
    from pggan_fast.benchmarks.suite import Plan

ProviderName = Literal["auto", "eager", "eager_channels_last", "compile", "aten", "cpu", "triton", "cuda"]
CaseName = Literal["G.forward", "D.forward", "D.step", "G.step"]
DEFAULT_PROVIDERS: tuple[ProviderName, ...] = ("auto", "eager", "eager_channels_last", "compile")


@dataclass
class Command:
    """Measure whole networks and whole WGAN-GP training steps against plain PyTorch, side by side in one run.

    Every provider holds the same weights and must agree with a float64 reference before anything is timed; where one
    does not, its case gets no times and the exit status is 1. Providers are timed in turns, and ratios are within the
    run. The default takes under three minutes on two CPU cores.
    """

    preset: Literal["quick", "full"] = "quick"
    """quick: training step at 32x32, forwards at 32x32 and 128x128, batch 4. full: forwards at 4x4 to 1024x1024 too, a
    training step at 64x64, peak memory of a G step at 128x128; up to an hour."""
    cases: tuple[CaseName, ...] = ()
    """Only these cases of the preset."""
    resolution: tuple[int, ...] = ()
    """Run the cases at these resolutions, powers of two from 4 to 1024, instead of the preset's."""
    batch: int | None = None
    """Images per batch instead of the preset's."""
    providers: Annotated[tuple[ProviderName, ...], tyro.conf.arg(aliases=["--provider"])] = DEFAULT_PROVIDERS
    """Who to measure. auto: this library, choosing its own backends; a backend's name: that backend only; the others:
    plain PyTorch. eager always runs: ratios are to it."""
    backend: Literal["aten", "cpu", "triton", "cuda"] | None = None
    """The backend that "auto" uses instead of its own choice."""
    device: str | None = None
    """cpu, cuda or cuda:N. Default: cuda where there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Half dtypes cast the networks for forwards and use autocast for training steps."""
    threads: int | None = None
    """CPU threads. Default: torch's own choice."""
    repeats: int | None = None
    """Timed rounds, at least 3. Default: as many as fit in the budget, 3 to 30."""
    budget: float | None = None
    """Seconds that the run aims at. Default: 165 for quick, 3600 for full."""
    compile_mode: Literal["auto", "default", "max-autotune"] = "auto"
    """Mode of torch.compile. auto: default in quick, max-autotune in full."""
    seed: int = 0
    """Of weights and inputs."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write every sample here."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
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
            if path is not None and not path.parent.is_dir():
                raise UsageError(f"{name}: the folder {path.parent} does not exist")
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
            if value is not None and value <= 0:
                raise UsageError(f"--{option}: got {value}, expected a positive number")
        bad = [r for r in self.resolution if r not in [2**i for i in range(2, 11)]]
        if bad:
            raise UsageError(f"--resolution: got {bad[0]}, expected a power of two from 4 to 1024")

    def _plan(self) -> Plan:
        import torch

        from pggan_fast.benchmarks.cases import BUDGETS, units
        from pggan_fast.benchmarks.suite import Plan

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        device = self._device()
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

    def _device(self) -> torch.device:
        import torch

        from pggan_fast.backends import report

        if self.device is None:
            return report.default_device()
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise UsageError(f"--device: got {self.device!r}, expected cpu, cuda or cuda:N") from None
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"--device: got {self.device!r}, expected cpu, cuda or cuda:N")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device: got {self.device!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
        return device

    def _providers(self) -> list[Provider]:
        from pggan_fast.backends import report
        from pggan_fast.benchmarks.providers import provider

        if self.backend is not None and (reason := report.backends()[self.backend]["reason"]):
            raise UsageError(f"--backend {self.backend}: {reason}")
        mode = self.compile_mode
        if mode == "auto":
            mode = "max-autotune" if self.preset == "full" else "default"
        return [provider(name, mode, self.backend) for name in dict.fromkeys(self.providers)]
