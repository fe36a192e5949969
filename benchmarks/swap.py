"""Training steps of published progressive GANs, as they are and after `pggan_fast.fuse`.

    python -m pggan_fast.benchmarks.swap [--family NAME ...] [--resolution R ...] [--batch N] [--rounds N] [--json FILE]

Each pair begins with the same weights. The first step's losses and gradients have to agree before anything is timed: D
with the gradient penalty and drift, then G, both with Adam, the last level half faded in. float32, official widths.
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from pggan_fast.benchmarks import command, gate, stats, timing
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.progress import Progress
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console, seconds
from rich import box
from rich.table import Table
from torch import Tensor

import pggan_fast

FAMILIES = ("akanimax", "wsconv", "gan_zoo", "rosinality", "nashory", "gan_lab", "genforce")
RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)
LATENT, ALPHA = 512, 0.5


def family(name: str) -> ModuleType:
    return importlib.import_module(f"pggan_fast.benchmarks.peers.{name}")


def widths(depth: int, most: int = 512) -> list[int]:
    """Channels from 4x4 up, as the paper has them (table 2)."""
    return [min(most, 8192 // 2 ** (level + 1)) for level in range(1, depth + 2)]


class Training:
    """One pair of networks in training, with its own copy of the weights and always the same inputs."""

    def __init__(
        self, peer: ModuleType, networks: Sequence[torch.nn.Module], depth: int, inputs: Sequence[Tensor]
    ) -> None:
        self.peer, self.depth = peer, depth
        self.G, self.D = networks
        self.z, self.reals, self.u = inputs
        options: dict[str, Any] = {"lr": 1e-3, "betas": (0.0, 0.99), "eps": 1e-8}
        self.optimizers = [torch.optim.Adam(m.parameters(), **options) for m in (self.D, self.G)]

    def score(self, images: Tensor) -> Tensor:
        scores = self.peer.score(self.D, images, self.depth, ALPHA)
        return (scores[0] if isinstance(scores, tuple) else scores).flatten()

    def step(self) -> dict[str, Tensor]:
        """D's step, then G's; their losses."""
        on_d, on_g = self.optimizers
        d_loss, g_loss = self.losses()
        on_d.zero_grad()
        d_loss.backward()
        on_d.step()
        on_g.zero_grad()
        g_loss().backward()
        on_g.step()
        return {"loss": d_loss.detach()}

    def losses(self) -> tuple[Tensor, Callable[[], Tensor]]:
        """D's loss, and what makes G's after D's step."""
        fakes = self.peer.generate(self.G, self.z, self.depth, ALPHA)
        mixed = torch.lerp(self.reals, fakes.detach(), self.u).requires_grad_()
        (gradient,) = torch.autograd.grad(self.score(mixed).sum(), mixed, create_graph=True)
        penalty = 10.0 * (gradient.flatten(1).norm(dim=1) - 1.0).square().mean()
        real = self.score(self.reals)
        d_loss = self.score(fakes.detach()).mean() - real.mean() + 1e-3 * real.square().mean() + penalty
        return d_loss, lambda: -self.score(fakes).mean()

    def first(self) -> dict[str, Tensor]:
        """What a first step finds, nothing being updated: losses and gradients, for the gate."""
        d_loss, g_loss = self.losses()
        found = {"loss": d_loss.detach()}
        for net, loss in ((self.D, d_loss), (self.G, g_loss())):
            names, parameters = zip(*net.named_parameters(), strict=True)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            which = "D" if net is self.D else "G"
            used = ((name, g) for name, g in zip(names, gradients, strict=True) if g is not None)
            found |= {f"{gate.GRADIENT}{which}.{name}": g for name, g in used}
        return found


def pair(name: str, resolution: int, batch: int, device: torch.device, most: int = 512) -> dict[str, Training]:
    """A family's training as it is, and fused."""
    peer, depth = family(name), resolution.bit_length() - 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        latent = min(LATENT, most)
        networks = [m.to(device) for m in peer.networks(depth, widths(depth, most), latent)]
        inputs = [torch.randn(batch, latent), torch.rand(batch, 3, resolution, resolution) * 2 - 1]
        inputs = [t.to(device) for t in (*inputs, torch.rand(batch, 1, 1, 1))]
    theirs = Training(peer, networks, depth, inputs)
    ours = Training(peer, copy.deepcopy(networks), depth, inputs)
    for network in (ours.G, ours.D):
        pggan_fast.fuse(network)
    return {"eager": theirs, "fused": ours}


def measure(name: str, resolution: int, batch: int, rounds: int, device: torch.device) -> list[Row]:
    """A row as it is and one fused; where they do not agree, one failed row, and nothing is timed."""
    pairs = pair(name, resolution, batch, device)
    found = gate.errors(pairs["fused"].first(), pairs["eager"].first())
    verdict = gate.judge(found, dict.fromkeys(found, 0.0), torch.float32)
    rows = [Row(f"{name}.step", who, resolution, batch, "float32", device.type) for who in pairs]
    for row in rows:
        row.threads, row.error, row.error_limit = torch.get_num_threads(), verdict.error, verdict.limit
    if verdict.red:
        rows[1].failed, rows[1].reason = True, str(verdict)
        return rows[1:]
    steps: dict[str, Callable[[], Any]] = {who: training.step for who, training in pairs.items()}
    samples = timing.interleave(steps, rounds, device)
    for row in rows:
        row.samples = samples[row.provider]
        row.median_s, row.p20_s, row.p80_s = stats.spread(row.samples)
        row.images_per_s = batch / row.median_s
    rows[1].ratio, rows[1].ratio_p20, rows[1].ratio_p80 = stats.speedup(samples["eager"], samples["fused"])
    return rows


def table(rows: Sequence[Row]) -> Table:
    """One line per family and resolution; x eager above 1: the fused step takes less."""
    drawn = Table("family", "resolution", "batch", "eager", "fused", "x eager", "error", box=box.ASCII2, pad_edge=False)
    for column in drawn.columns[1:]:
        column.justify = "right"
    cases: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault((row.case, row.resolution), {})[row.provider] = row
    for (case, resolution), by in cases.items():
        fused = by["fused"]
        medians = [by[who].median_s if who in by else None for who in ("eager", "fused")]
        times = ["-" if median is None else seconds(median) for median in medians]
        ratio = "wrong" if fused.ratio is None else f"{fused.ratio:.2f} ({fused.ratio_p20:.2f}..{fused.ratio_p80:.2f})"
        drawn.add_row(
            case.removesuffix(".step"), str(resolution), str(fused.batch), *times, ratio, f"{fused.error:.0e}"
        )
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("swap", __doc__)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=["akanimax", "wsconv"], help="whose networks")
    parser.add_argument("--resolution", nargs="+", type=int, choices=RESOLUTIONS, default=[32], help="sides of images")
    parser.add_argument("--batch", type=positive, default=4, metavar="N")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="samples of each, in turns")
    options = command.parsed(parser, arguments)
    started, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    screen, rows = console(), []
    with Progress(console(stderr=True)) as progress:
        for who in options.family:
            for resolution in options.resolution:
                progress(f"{who}, {resolution}x{resolution}")
                rows += measure(who, resolution, options.batch, options.rounds, device)
    screen.print(table(rows))
    for row in (row for row in rows if row.failed):
        screen.print(f"{row.case} at {row.resolution}: wrong, {row.reason}", soft_wrap=True)
    command.save(options.json, rows, device, started)
    return int(any(row.failed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
