"""What bounds the CPU: products and memory traffic of whole networks and steps against the machine's own ceilings.

    python -m pggan_fast.benchmarks.roofline [--rounds N] [--json FILE]

Ceilings are measured first (ceilings.py): a 2048-cube float32 matrix product of torch's, and a copy of 256 MB. Then
every case is run once with its kernels watched: products are what the forms really multiply (csrc/cpu/forms.h), not
what a direct convolution would; bytes are what each kernel has to read and write once, features that stay in cache not
among them. The floor is what the structure of the network asks for at those ceilings (work.py), without a look at what
ran. Last, how long the weights' transforms take: the same forward with weights that are frozen (pggan_fast.frozen).
The file has the rows of the suite's reports, and `counted_flops` and `counted_bytes`, what was watched.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pggan_fast.benchmarks import command, stats, timing
from pggan_fast.benchmarks.ceilings import CPU, Ceilings, attach, measure
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.table import console, seconds
from pggan_fast.benchmarks.work import TAPS
from rich import box
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import pggan_fast
from pggan_fast.backends import cpu, cpu_stage, registry, tiled
from pggan_fast.errors import counted
from pggan_fast.models import Discriminator, Generator
from pggan_fast.ops import _register
from pggan_fast.training.step import d_step, g_step

# Products of one pixel of x and one pair of channels, by resampling; `up` has four pixels of y for one of x.
PRODUCTS = {**TAPS["tiles"], "up": 4.0 * TAPS["tiles"]["up"]}


@dataclass
class Counted:
    flops: float = 0.0
    bytes: float = 0.0


@contextlib.contextmanager
def watched() -> Iterator[Counted]:
    """Counts the native kernels' products and bytes."""
    counted, undo = Counted(), []

    def watch(module: Any) -> None:
        real = module.launch

        def launch(function: Callable[..., Any], *args: Any) -> Any:
            counted.bytes += sum(a.numel() * a.element_size() for a in args if isinstance(a, Tensor))
            counted.flops += _flops(function.__name__, args)
            return real(function, *args)

        module.launch = launch
        undo.append(lambda: setattr(module, "launch", real))

    for module in (cpu, cpu_stage, tiled):
        watch(module)
    try:
        yield counted
    finally:
        for restore in undo:
            restore()


class _TorchsProducts(TorchDispatchMode):
    """FlopCounterMode's counts, also of what an op of ours calls: those run with the mode still on."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == _register.NAMESPACE:
            name, backend = function.name().partition("::")[2], args[-1] or None
            with self:
                return registry.choose(name, backend, CPU.type, args[:-1]).run(*args[:-1])
        formula = flop_registry.get(function._overloadpacket)
        if formula is None:
            with self:  # a convolution is a composite there, whose parts have the formulas
                out = function.decompose(*args, **(kwargs or {}))
            return function(*args, **(kwargs or {})) if out is NotImplemented else out
        out = function(*args, **(kwargs or {}))
        self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def torchs_flops(run: Callable[[], Any]) -> float:
    """Of torch's own convolutions and matrices in a forward pass without gradients, those inside ops of ours too.

    It runs twice: watched, a stage runs as its parts, whose self-checks in the first call are none of its products.
    """
    with _TorchsProducts() as counter, torch.no_grad():
        run()
        counter.flops = 0.0
        run()
    return counter.flops


def _flops(kernel: str, args: tuple[Any, ...]) -> float:
    """Twice the products of a call of a native kernel."""
    if kernel == "tiled_conv":
        return _conv_flops(args[0], args[1].shape[2], *args[4].shape[1:])
    if kernel == "tiled_conv_weight_grad":
        return _conv_flops(args[0], args[2].shape[2], *args[1].shape[1:])
    if kernel == "tiled_layer_backward":
        x, weight, (dx, dw) = args[4], args[5], args[7:9]
        *_, c, h, w = args[12:19]  # x's shape, and du's less the batch
        return _conv_flops(x, weight.shape[2], c, h, w) * sum(made is not None for made in (dx, dw))
    if kernel == "tiled_stage":
        x, up = args[:2]
        c = up.shape[0]
        features = x.new_empty(0, c, 1, 1)
        return 2.0 * x.numel() * c * PRODUCTS["up"] + 8.0 * x.numel() / x.shape[1] * c * c * _plain(features, c)
    return 0.0


def _conv_flops(x: Tensor, k: int, c: int, h: int, w: int) -> float:
    """Of x to [N, C, H, W], or one of its gradients."""
    if k == 1:
        return 2.0 * x.numel() * c
    resample = {1: "none", 4: "up"}.get(h * w // (x.shape[2] * x.shape[3]), "down")
    return 2.0 * x.numel() * c * (_plain(x, c) if resample == "none" else PRODUCTS[resample])


def _plain(x: Tensor, c: int) -> float:
    return TAPS["large_tiles"]["none"] if tiled.large_tiles(x, c) else PRODUCTS["none"]


@dataclass
class CountedRow(Row):
    """A row, and what its kernels multiplied and moved."""

    counted_flops: float = 0.0
    counted_bytes: float = 0.0


@dataclass(frozen=True)
class Watched:
    """A case of the suite, the network to freeze or None, and what runs it."""

    case: str
    resolution: int
    batch: int
    network: torch.nn.Module | None
    run: Callable[[], Any]


def cases() -> Iterator[Watched]:
    for resolution, batch in ((128, 4), (1024, 1)):
        torch.manual_seed(0)
        G, D = Generator(resolution), Discriminator(resolution)
        z, image = torch.randn(batch, 512), torch.randn(batch, 3, resolution, resolution)
        yield Watched("G.forward", resolution, batch, G, torch.no_grad()(lambda G=G, z=z: G(z)))
        yield Watched("D.forward", resolution, batch, D, torch.no_grad()(lambda D=D, i=image: D(i)))
    yield step(32, 4)


def step(resolution: int, batch: int) -> Watched:
    """Both steps of a round of WGAN-GP."""
    G, D = Generator(resolution), Discriminator(resolution)
    adam = {net: torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99)) for net in (G, D)}
    z, reals = torch.randn(batch, 512), torch.randn(batch, 3, resolution, resolution)
    run = lambda: (d_step(G, D, adam[D], reals, z), g_step(G, D, adam[G], z))  # noqa: E731
    return Watched("step", resolution, batch, None, run)


def measured(case: Watched, rounds: int, ceilings: Ceilings) -> CountedRow:
    """The case run once watched, once by torch's counter, and `rounds` times for its time."""
    case.run()
    with watched() as counted:
        case.run()
    if case.network is not None:
        counted.flops += torchs_flops(case.run)
    row = CountedRow(
        case.case,
        "auto",
        case.resolution,
        case.batch,
        "float32",
        "cpu",
        threads=torch.get_num_threads(),
        counted_flops=counted.flops,
        counted_bytes=counted.bytes,
    )
    row.samples = [timing.timed(case.run, CPU) for _ in range(rounds)]
    row.median_s, row.p20_s, row.p80_s = stats.spread(row.samples)
    attach([row], ceilings)
    return row


def transforms(case: Watched, rounds: int, took: float) -> str:
    """The share of `took` that goes when the weights are frozen."""
    if case.network is None:
        return ""
    with pggan_fast.frozen(case.network):
        case.run()
        frozen = stats.spread([timing.timed(case.run, CPU) for _ in range(rounds)]).median
    return f"{100.0 * (1.0 - frozen / took):.0f} %"


def table() -> Table:
    names = "case", "median", "GFLOP", "% of GEMM", "MB", "% of copy", "floor", "bound", "x floor"
    return Table(*names, "weights' transforms", box=box.ASCII2, pad_edge=False)


def cells(row: CountedRow, ceilings: Ceilings) -> list[str]:
    assert row.median_s is not None
    assert row.floor_s is not None
    return [
        f"{row.case} {row.resolution}x{row.resolution} x{row.batch}",
        seconds(row.median_s),
        f"{row.counted_flops / 1e9:.1f}",
        f"{100.0 * row.counted_flops / row.median_s / ceilings.flops:.0f} %",
        f"{row.counted_bytes / 1e6:.0f}",
        f"{100.0 * row.counted_bytes / row.median_s / ceilings.bytes:.0f} %",
        seconds(row.floor_s),
        row.bound or "",
        f"{row.median_s / row.floor_s:.2f}",
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("roofline", __doc__)
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="timed calls of each case")
    options = command.parsed(parser, arguments)
    if cpu.native is None:
        print(cpu.why_missing(), file=sys.stderr)
        return 1
    started = time.perf_counter()
    ceilings, rows, drawn = measure(CPU), [], table()
    for case in cases():
        row = measured(case, options.rounds, ceilings)
        assert row.median_s is not None
        rows.append(row)
        drawn.add_row(*cells(row, ceilings), transforms(case, options.rounds, row.median_s))
    screen = console()
    screen.print(drawn)
    screen.print(
        f"ceilings: {ceilings.flops / 1e9:.0f} GFLOP/s of matrix products, {ceilings.bytes / 1e9:.1f} GB/s of a copy, "
        f"{seconds(ceilings.launch_s)} of an op, {counted(torch.get_num_threads(), 'thread')}; "
        f"took {time.perf_counter() - started:.0f} s"
    )
    command.save(options.json, rows, CPU, started, ceilings.to_dict())
    return 0


if __name__ == "__main__":
    sys.exit(main())
