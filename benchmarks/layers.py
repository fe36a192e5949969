"""Every convolution of the networks by itself: the automatic choice against the backend "aten", torch's convolutions.

    python -m pggan_fast.benchmarks.layers [--resolution R ...] [--batch N] [--rounds N] [--json FILE]

Each layer goes forward without gradients, and backward with all of them, both ways in turns, once their results agree
(without the activation, whose mask turns with a rounding). Layers at which the automatic choice is slower are listed at
the end. float32, on the CUDA device if there is one.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator

import torch
from pggan_fast.benchmarks import command, stats, timing
from pggan_fast.benchmarks.cases import default_batch
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.progress import Progress
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console, seconds
from rich import box
from rich.table import Table
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.models import Discriminator, Generator

LATENT = 512
BACKENDS = {"auto": None, "aten": "aten"}
AGREEMENT = 1e-4  # of the largest element: other orders of summing, not other results
SLOWER = 0.97  # below this ratio of the medians, and below 1 at the 80th percentile of the pairs, a layer is listed


def layers(resolution: int, batch: int) -> Iterator[tuple[nn.ScaledConv2d, torch.Size]]:
    """Every convolution of G and D at `resolution`, with the shape of its input."""
    found: list[tuple[nn.ScaledConv2d, torch.Size]] = []
    with torch.device("meta"), torch.no_grad():
        G, D = Generator(resolution, latent_dim=LATENT), Discriminator(resolution)
        for network in (G, D):
            for module in network.modules():
                if isinstance(module, nn.ScaledConv2d):
                    module.register_forward_pre_hook(lambda layer, args: found.append((layer, args[0].shape)))
        D(G(torch.empty(batch, LATENT)))
    return iter(found)


def name_of(layer: nn.ScaledConv2d) -> str:
    c, cin, k, _ = layer.weight.shape
    return f"{k}x{k} {layer.resample} {cin}->{c}" + (", norm" if layer.pixel_norm != "none" else "")


Kinds = dict[tuple[str, torch.Size], nn.ScaledConv2d]
Runs = dict[str, Callable[[], list[Tensor]]]  # by backend


def kinds(resolutions: list[int], batch: int | None, device: torch.device) -> Kinds:
    """Each kind of layer once, small images first."""
    found: Kinds = {}
    for r in resolutions:
        for layer, shape in layers(r, batch or default_batch(r, device)):
            found.setdefault((name_of(layer), shape), layer)
    return dict(sorted(found.items(), key=lambda item: item[0][1][2]))


def directions(
    layer: nn.ScaledConv2d, shape: torch.Size, device: torch.device, linear: bool
) -> Iterator[tuple[str, Runs]]:
    """What runs each direction on each backend, on the same numbers; `linear`: without the activation."""
    w, b = (
        torch.randn(p.shape, device=device, requires_grad=True) for p in (layer.weight, layer.bias) if p is not None
    )
    x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()

    def forward(backend: str | None) -> Tensor:
        return ops.scaled_conv2d(
            x,
            w,
            b,
            weight_scale=layer.weight_scale,
            resample=layer.resample,
            negative_slope=None if linear else layer.negative_slope,
            pixel_norm=layer.pixel_norm,
            eps=layer.eps,
            backend=backend,
        )

    def without_gradients(backend: str | None) -> list[Tensor]:
        with torch.no_grad():
            return [forward(backend)]

    yield "forward", {name: functools.partial(without_gradients, backend) for name, backend in BACKENDS.items()}
    outputs = {name: forward(backend) for name, backend in BACKENDS.items()}
    dy = torch.randn_like(outputs["aten"])

    def gradients(name: str) -> list[Tensor]:
        return list(torch.autograd.grad(outputs[name], (x, w, b), dy, retain_graph=True))

    yield "backward", {name: functools.partial(gradients, name) for name in BACKENDS}


def disagreement(runs: Runs) -> float:
    """The largest difference of any result, in parts of its largest element."""
    ours, theirs = (runs[name]() for name in BACKENDS)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def measure(case: str, shape: torch.Size, runs: Runs, linear: Runs, rounds: int, device: torch.device) -> list[Row]:
    error = disagreement(linear)

    def row(provider: str) -> Row:
        return Row(case, provider, shape[2], shape[0], "float32", device.type, error=error, error_limit=AGREEMENT)

    ours, theirs = row("auto"), row("aten")
    if not error <= AGREEMENT:
        ours.failed, ours.reason = True, f"differs from aten by {error:.2g}, allowed {AGREEMENT}"
        return [ours]
    samples = timing.interleave(runs, rounds, device)
    for timed in (ours, theirs):
        timed.samples = samples[timed.provider]
        timed.median_s, timed.p20_s, timed.p80_s = stats.spread(timed.samples)
    ours.ratio, ours.ratio_p20, ours.ratio_p80 = stats.speedup(theirs.samples, ours.samples)
    return [ours, theirs]


def is_slower(row: Row) -> bool:
    return row.ratio is not None and row.ratio_p80 is not None and row.ratio < SLOWER and row.ratio_p80 < 1.0


def sweep(found: Kinds, rounds: int, device: torch.device, progress: Progress) -> list[Row]:
    rows: list[Row] = []
    for (name, shape), layer in found.items():
        progress(f"{name}, {shape[2]}x{shape[3]} x{shape[0]}")
        both = (directions(layer, shape, device, linear) for linear in (False, True))
        for (direction, runs), (_, linear) in zip(*both, strict=True):
            rows += measure(f"{name}: {direction}", shape, runs, linear, rounds, device)
    return rows


def table(rows: list[Row]) -> Table:
    """One line a layer and direction: x aten above 1 is faster than torch's own convolutions."""
    drawn = Table("layer", "image", "aten", "auto", "x aten", "p20..p80", box=box.ASCII2, pad_edge=False)
    aten = {(row.case, row.resolution, row.batch): row for row in rows if row.provider == "aten"}
    for row in (row for row in rows if row.provider == "auto"):
        image = f"{row.resolution}x{row.resolution} x{row.batch}"
        if row.median_s is None or row.ratio is None:
            drawn.add_row(row.case, image, "", "", row.reason, "")
            continue
        theirs = aten[row.case, row.resolution, row.batch].median_s
        assert theirs is not None
        spread = f"{row.ratio_p20:.2f}..{row.ratio_p80:.2f}"
        drawn.add_row(row.case, image, seconds(theirs), seconds(row.median_s), f"{row.ratio:.2f}", spread)
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("layers", __doc__)
    sizes = [2**i for i in range(2, 11)]
    told = "of the networks, whose layers are taken at all their own; default: every power of two from 4 to 1024"
    parser.add_argument("--resolution", type=int, nargs="+", default=sizes, choices=sizes, metavar="R", help=told)
    told = "of every image; default: what training takes, an eighth on a CPU"
    parser.add_argument("--batch", type=positive, metavar="N", help=told)
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="samples of each, in turns")
    options = command.parsed(parser, arguments)
    started, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    screen = console()
    with Progress(console(stderr=True)) as progress:
        rows = sweep(kinds(options.resolution, options.batch, device), options.rounds, device, progress)
    screen.print(table(rows))
    bad = [row for row in rows if row.failed or is_slower(row)]
    for row in bad:
        what = f"wrong, {row.reason}" if row.failed else f"slower, {row.ratio:.2f} of aten's speed"
        screen.print(f"{row.case}, {row.resolution}x{row.resolution} x{row.batch}: {what}")
    command.save(options.json, rows, device, started)
    return any(row.failed for row in rows)


if __name__ == "__main__":
    sys.exit(main())
