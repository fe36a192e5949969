"""Host microseconds of a layer call: ours against the chain of torch ops it stands for, on the smallest maps.

    python -m pggan_fast.benchmarks.overhead [--rounds N] [--calls N] [--only NAME ...] [--compile] [--json FILE]

Each row is one layer in one mode: without gradients, a forward pass that records them, forward and backward, and the
gradient of a gradient (WGAN-GP's penalty). All columns are timed in turns, after their results agree. "eager" is the
chain as users write it, plain torch ops, the weight scaled in every call; for whole networks it is our modules on
backend "reference", and times are per layer called. --compile adds torch.compile of both for the first layer, "graph"
are replays of CUDA graphs where there is a device: eager / ours. float32, one thread.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pggan_fast.benchmarks import command, stats, timing
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.progress import Progress
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console
from rich import box
from rich.table import Table
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import wgan_gp_d_loss

MODES = ("no grad", "forward", "forward+backward", "penalty")
EAGER, OURS = "eager", "ours"
AGREEMENT = 1e-4  # of the largest element: other orders of summing, not other results
SLOPE, EPS, ALPHA, CHANNELS, SIZE = 0.2, 1e-8, 0.3, 8, 4
LATENT, RESOLUTION = 8, 16

Call = Callable[..., Tensor]
Results = Sequence[Tensor | None]
Run = Callable[[], Results]


@dataclass(frozen=True)
class Layer:
    """A layer and the chain that it stands for, both functions of `tensors`, all of which want gradients."""

    name: str
    ours: Call
    eager: Call
    tensors: list[Tensor]


def _pixel_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + EPS)


def _conv(x: Tensor, w: Tensor, b: Tensor, scale: float) -> Tensor:
    return F.conv2d(x, w * scale, b, padding=w.shape[2] // 2)


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def _stddev(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.view(4, n // 4, c, h, w)
    y = y - y.mean(dim=0)
    y = (y.square().mean(dim=0) + EPS).sqrt().mean(dim=(1, 2, 3), keepdim=True)
    return torch.cat([x, y.repeat(4, 1, h, w)], dim=1)


def _tensors(device: torch.device, *shapes: tuple[int, ...], rows: bool = False) -> list[Tensor]:
    """rows: the first is channels_last."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=generator).to(device) for s in shapes]
    if rows:
        drawn[0] = drawn[0].contiguous(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in drawn]


def layers(device: torch.device) -> list[Layer]:
    """The kinds of layers, on 4x4 maps of 8 channels; a network's trunk also as it runs itself, channels_last."""
    tensors = functools.partial(_tensors, device)
    c, s = CHANNELS, 0.1
    x, b = (1, c, SIZE, SIZE), (c,)
    conv = functools.partial(ops.scaled_conv2d, weight_scale=s)
    trunk = [
        (
            "G layer",
            functools.partial(conv, negative_slope=SLOPE, pixel_norm="after_act", eps=EPS),
            lambda x, w, b: _pixel_norm(_lrelu(_conv(x, w, b, s))),
        ),
        (
            "D layer, down",
            functools.partial(conv, negative_slope=SLOPE, resample="down"),
            lambda x, w, b: _lrelu(F.avg_pool2d(_conv(x, w, b, s), 2)),
        ),
    ]
    formats = (("", False), (", channels_last", True))
    return [
        *(
            Layer(f"{name}{suffix}", ours, eager, tensors(x, (c, c, 3, 3), b, rows=rows))
            for name, ours, eager in trunk
            for suffix, rows in formats
        ),
        Layer("to_rgb", conv, lambda x, w, b: _conv(x, w, b, s), tensors(x, (3, c, 1, 1), (3,))),
        Layer(
            "bias_act",
            functools.partial(ops.bias_act, negative_slope=SLOPE),
            lambda x, b: _lrelu(x + b.view(1, -1, 1, 1)),
            tensors(x, b),
        ),
        Layer("pixel_norm", functools.partial(ops.pixel_norm, eps=EPS), _pixel_norm, tensors(x)),
        Layer(
            "fade_in",
            functools.partial(ops.fade_in, alpha=ALPHA),
            lambda low, high: (1 - ALPHA) * F.interpolate(low, scale_factor=2) + ALPHA * high,
            tensors((1, 3, SIZE // 2, SIZE // 2), (1, 3, SIZE, SIZE)),
        ),
        Layer("minibatch_stddev", ops.minibatch_stddev, _stddev, tensors((4, c, SIZE, SIZE))),
        Layer(
            "scaled_linear",
            functools.partial(ops.scaled_linear, weight_scale=s, negative_slope=SLOPE),
            lambda x, w, b: _lrelu(F.linear(x, w * s, b)),
            tensors((1, c), (c, c), b),
        ),
    ]


def in_mode(mode: str, f: Call, tensors: Sequence[Tensor]) -> Run:
    """One call of f in this mode: its output, or the gradients that it leaves."""

    def no_grad() -> Results:
        with torch.no_grad():
            return [f(*tensors)]

    if mode == "no grad":
        return no_grad
    if mode == "forward":
        return lambda: [f(*tensors)]
    with torch.no_grad():
        y = f(*tensors)
    first = tensors[0]
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device)

    def backward() -> Results:
        f(*tensors).backward(dy)
        return _taken(tensors)

    if mode == "forward+backward":
        return backward
    direction = torch.randn(first.shape, generator=torch.Generator().manual_seed(2)).to(y.device)
    dy.requires_grad_()  # so that linear layers have a second derivative too

    def penalty() -> Results:
        (g,) = torch.autograd.grad(f(*tensors), first, dy, create_graph=True)
        g.backward(direction)
        return _taken([dy, *tensors])

    return penalty


def _taken(tensors: Sequence[Tensor]) -> Results:
    """The gradients, which leave the tensors as a training step does."""
    grads = [t.grad for t in tensors]
    for t in tensors:
        t.grad = None
    return grads


@dataclass(frozen=True)
class Subject:
    """One row: who runs it, by provider, and the layers called in one run."""

    name: str
    mode: str
    runs: Mapping[str, Run]
    layers: int = 1


def subjects(device: torch.device, names: Sequence[str], compiled: bool) -> list[Subject]:
    """Every layer in every mode, then the networks; `names` keeps those whose names hold one of them."""
    rows = []
    for i, layer in enumerate(layers(device)):
        calls = {EAGER: layer.eager, OURS: layer.ours}
        if compiled and i == 0:
            calls |= {f"{name} compiled": torch.compile(call, fullgraph=True) for name, call in calls.items()}
        for mode in MODES:
            # torch differentiates no compiled function twice
            allowed = {k: f for k, f in calls.items() if mode != "penalty" or "compiled" not in k}
            runs = {name: in_mode(mode, call, layer.tensors) for name, call in allowed.items()}
            rows.append(Subject(layer.name, mode, runs))
    return [row for row in [*rows, *networks(device)] if not names or any(name in row.name for name in names)]


def networks(device: torch.device) -> list[Subject]:
    """Narrow networks, ours and on backend "reference": G forward with and without gradients, and D's loss."""
    runs: dict[str, tuple[Run, ...]] = {}
    counts = [0, 0]
    for provider, backend in ((EAGER, "reference"), (OURS, None)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            G = Generator(RESOLUTION, latent_dim=LATENT, fmap_max=CHANNELS, backend=backend).to(device)
            D = Discriminator(RESOLUTION, fmap_max=CHANNELS, backend=backend).to(device)
            z = torch.randn(4, LATENT).to(device)
            reals = torch.randn(4, 3, RESOLUTION, RESOLUTION).to(device)
            u = torch.rand(4, 1, 1, 1).to(device)
        generate = functools.partial(in_mode, f=G, tensors=[z])
        loss = functools.partial(_d_loss, G, D, z, reals, u)
        runs[provider] = generate("no grad"), generate("forward"), loss
        if backend == "reference":
            counts = [layer_calls([G], runs[provider][0]), layer_calls([G, D], loss)]
    kinds = (
        ("G to 16x16", "no grad", counts[0]),
        ("G to 16x16", "forward", counts[0]),
        ("D to 16x16", "step", counts[1]),
    )
    return [Subject(kind[0], kind[1], {p: r[i] for p, r in runs.items()}, kind[2]) for i, kind in enumerate(kinds)]


def _d_loss(G: Generator, D: Discriminator, z: Tensor, reals: Tensor, u: Tensor) -> Results:
    """What a step of D does before its optimizer."""
    with torch.no_grad():
        fakes = G(z)
    wgan_gp_d_loss(D.__call__, reals, fakes, u=u).backward()  # a bare function: as many calls of layers for both
    return _taken(list(D.parameters()))


def layer_calls(modules: Sequence[torch.nn.Module], run: Run) -> int:
    """How many layers of `pggan_fast.nn` these networks call in one run."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    kinds = (nn._Scaled, nn.MinibatchStdDev)
    handles = [m.register_forward_pre_hook(count) for net in modules for m in net.modules() if isinstance(m, kinds)]
    run()
    for handle in handles:
        handle.remove()
    return calls[0]


def disagreement(got: Results, want: Results) -> float:
    """The largest difference of any result, in parts of its largest element; a gradient that is None is zero."""
    errors = [0.0]
    for a, b in zip(got, want, strict=True):
        if a is not None and b is not None:
            errors.append(float(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).detach()))
        elif any(t is not None and t.any() for t in (a, b)):
            errors.append(float("inf"))
    return max(errors, key=lambda error: float("inf") if error != error else error)  # NaN is the largest


def measure(subject: Subject, rounds: int, calls: int, device: torch.device) -> list[Row]:
    """A row per provider, in seconds per layer; where results disagree one failed row, and nothing is timed."""
    runs = dict(subject.runs)
    if device.type == "cuda" and subject.mode != "penalty":
        runs |= {f"{name} graph": timing.captured(runs[name]) for name in (EAGER, OURS)}
    want = runs[EAGER]()
    case = f"{subject.name}: {subject.mode}"
    rows = []
    for name, run in runs.items():
        error = disagreement(run(), want)
        row = Row(case, name, SIZE, 1, "float32", device.type, error=error, error_limit=AGREEMENT, threads=1)
        if not error <= AGREEMENT:
            row.failed, row.reason = True, f"differs from eager by {error:.2g}, allowed {AGREEMENT}"
            return [row]
        rows.append(row)

    samples = timing.interleave(runs, rounds, device, dict.fromkeys(runs, calls))
    for row in rows:
        row.samples = [s / subject.layers for s in samples[row.provider]]
        row.median_s, row.p20_s, row.p80_s = stats.spread(row.samples)
    ours, eager = (next(row for row in rows if row.provider == name) for name in (OURS, EAGER))
    ours.ratio, ours.ratio_p20, ours.ratio_p80 = stats.speedup(eager.samples, ours.samples)
    return rows


def table(rows: Sequence[Row]) -> Table:
    """One line a layer and mode, microseconds of a call: median (p20..p80). x eager above 1: ours takes less."""
    names = ("layer", "mode", EAGER, OURS, "x eager", "compiled", "graph")
    drawn = Table(*names, box=box.ASCII2, pad_edge=False)
    for column in drawn.columns[2:]:
        column.justify = "right"
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.provider] = row
    before = ""
    for case, by in cases.items():
        layer, _, mode = case.partition(": ")
        ours = by.get(OURS)
        ratio = "-" if ours is None else _interval(ours.ratio, ours.ratio_p20, ours.ratio_p80, 2)
        cells = [_microseconds(by.get(name)) for name in (EAGER, OURS)]
        pairs = [[by.get(f"{name} {how}") for name in (EAGER, OURS)] for how in ("compiled", "graph")]
        cells += [ratio, *(_pair(*pair) for pair in pairs)]
        drawn.add_row("" if layer == before else layer, mode, *cells)
        before = layer
    return drawn


def _pair(*rows: Row | None) -> str:
    medians = [row.median_s for row in rows if row is not None and row.median_s is not None]
    return " / ".join(f"{m * 1e6:.1f}" for m in medians) or "-"


def _microseconds(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.median_s is None or row.p20_s is None or row.p80_s is None:
        return "wrong"
    return _interval(row.median_s * 1e6, row.p20_s * 1e6, row.p80_s * 1e6, 0)


def _interval(median: float | None, p20: float | None, p80: float | None, digits: int) -> str:
    if median is None:
        return "-"
    return f"{median:.{max(digits, 1)}f} ({p20:.{digits}f}..{p80:.{digits}f})"


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("overhead", __doc__)
    parser.add_argument("--rounds", type=positive, default=31, metavar="N", help="samples of each, in turns")
    parser.add_argument("--calls", type=positive, default=20, metavar="N", help="calls in a sample")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="rows whose names hold one of these")
    parser.add_argument("--compile", action="store_true", help="torch.compile the first layer too: a minute or two")
    options = command.parsed(parser, arguments)
    started, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = subjects(device, options.only, options.compile)
    if not chosen:
        parser.error(f"--only: no row's name holds any of {', '.join(options.only)}")
    screen, rows, threads = console(), [], torch.get_num_threads()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # both as exact as float32 is
    try:
        with Progress(console(stderr=True)) as progress:
            for subject in chosen:
                progress(f"{subject.name}, {subject.mode}")
                rows += measure(subject, options.rounds, options.calls, device)
    finally:
        torch.set_num_threads(threads)
    screen.print(table(rows))
    return command.finished(screen, options.json, rows, device, started, lambda row: row.case)


if __name__ == "__main__":
    sys.exit(main())
