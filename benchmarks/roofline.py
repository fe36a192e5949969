"""What bounds the CPU: products and memory traffic of whole networks and steps against the machine's own ceilings.

    python -m pggan_fast.benchmarks.roofline [--rounds N]

Ceilings are measured first: a 2048-cube float32 matrix product of torch's, and a copy of 256 MB. Then every case is run
once with its kernels watched: products are what the forms really multiply (csrc/cpu/forms.h), not what a direct
convolution would; bytes are what each kernel has to read and write once, features that stay in cache not among them.
Last, how long the weights' transforms take: the same forward with weights that are frozen (pggan_fast.frozen).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pggan_fast.benchmarks import timing
from pggan_fast.benchmarks.command import positive
from pggan_fast.benchmarks.table import console, seconds
from rich import box
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pggan_fast
from pggan_fast.backends import cpu, cpu_stage, tiled
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.step import d_step, g_step

CPU = torch.device("cpu")
# Products of one pixel of x and one pair of channels, by resampling; large tiles without one take 36 / 16.
PRODUCTS = {"none": 4.0, "up": 9.0, "down": 9.0 / 4.0}


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


def torchs_flops(run: Callable[[], Any]) -> float:
    """Of torch's own convolutions and matrices in a forward pass: its counter stumbles over gradients of gradients."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def _flops(kernel: str, args: tuple[Any, ...]) -> float:
    """Twice the products of a call of a native kernel."""
    if kernel in ("tiled_conv", "tiled_conv_weight_grad"):
        x, other = args[0], args[4] if kernel == "tiled_conv" else args[1]
        resample = {1: "none", 4: "up"}.get(other.shape[2] * other.shape[3] // (x.shape[2] * x.shape[3]), "down")
        c = other.shape[1]
        return 2.0 * x.numel() * c * (_plain(x, c) if resample == "none" else PRODUCTS[resample])
    if kernel == "tiled_stage":
        x, up = args[:2]
        c = up.shape[0]
        features = x.new_empty(0, c, 1, 1)
        return 2.0 * x.numel() * c * PRODUCTS["up"] + 8.0 * x.numel() / x.shape[1] * c * c * _plain(features, c)
    return 0.0


def _plain(x: Tensor, c: int) -> float:
    return 36.0 / 16.0 if tiled.large_tiles(x, c) else PRODUCTS["none"]


def product_ceiling() -> float:
    """FLOP/s of torch's matrix product."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2.0 * 2048**3 / _median(lambda: a @ b, 7)


def memory_ceiling() -> float:
    """Bytes per second, read and written, of a copy."""
    a, b = torch.zeros(64 << 20), torch.zeros(64 << 20)
    return 8.0 * a.numel() / _median(lambda: b.copy_(a), 7)


def _median(run: Callable[[], Any], rounds: int) -> float:
    run()
    return statistics.median(timing.timed(run, CPU) for _ in range(rounds))


def cases() -> Iterator[tuple[str, torch.nn.Module | None, Callable[[], Any]]]:
    """Name, the network to freeze or None, and what runs it."""
    for resolution, batch in ((128, 4), (1024, 1)):
        torch.manual_seed(0)
        G, D = Generator(resolution), Discriminator(resolution)
        z, image = torch.randn(batch, 512), torch.randn(batch, 3, resolution, resolution)
        yield f"G forward {resolution}x{resolution} x{batch}", G, torch.no_grad()(lambda G=G, z=z: G(z))
        yield f"D forward {resolution}x{resolution} x{batch}", D, torch.no_grad()(lambda D=D, i=image: D(i))
    G, D = Generator(32), Discriminator(32)
    adam = {net: torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99)) for net in (G, D)}
    z, reals = torch.randn(4, 512), torch.randn(4, 3, 32, 32)
    yield "WGAN-GP step 32x32 x4", None, lambda: (d_step(G, D, adam[D], reals, z), g_step(G, D, adam[G], z))


def main(arguments: list[str] | None = None) -> int:
    name, form = "python -m pggan_fast.benchmarks.roofline", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(name, description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="timed calls of each case")
    rounds = parser.parse_args(arguments).rounds
    if cpu.native is None:
        print(cpu.why_missing(), file=sys.stderr)
        return 1
    started = time.perf_counter()
    flops, bandwidth = product_ceiling(), memory_ceiling()
    drawn = Table(
        "case", "median", "GFLOP", "% of GEMM", "MB", "% of copy", "weights' transforms", box=box.ASCII2, pad_edge=False
    )
    for name, network, run in cases():
        run()
        with watched() as counted:
            run()
        counted.flops += 0.0 if network is None else torchs_flops(run)
        took = _median(run, rounds)
        share = ""
        if network is not None:
            with pggan_fast.frozen(network):
                share = f"{100.0 * (1.0 - _median(run, rounds) / took):.0f} %"
        drawn.add_row(
            name, seconds(took), f"{counted.flops / 1e9:.1f}", f"{100.0 * counted.flops / took / flops:.0f} %",
            f"{counted.bytes / 1e6:.0f}", f"{100.0 * counted.bytes / took / bandwidth:.0f} %", share,
        )  # fmt: skip
    screen = console()
    screen.print(drawn)
    screen.print(
        f"ceilings: {flops / 1e9:.0f} GFLOP/s of matrix products, {bandwidth / 1e9:.1f} GB/s of a copy, "
        f"{torch.get_num_threads()} threads; took {time.perf_counter() - started:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
