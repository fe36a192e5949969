"""What this machine can do at best: matrix products, copies and launches; and the least time of a case under them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from pggan_fast.benchmarks import timing
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.work import Part, Work, is_counted, work

from pggan_fast.backends import precision

CPU = torch.device("cpu")
ROUNDS = 7
MOST_S = 1.0  # of one matrix product, whose size halves until it is below
LAUNCHES = 1000
BOUNDS = ("products", "memory", "launch")
PHASES = ("aten", "best_eager", "triton", "cuda")  # providers; ours else choose the device's best, others are plain
OURS = ("auto", "cpu")


@dataclass(frozen=True)
class Ceilings:
    """Rates of one device and dtype; `to_dict` is what stands in a report's machine["ceilings"]."""

    flops: float  # FLOP/s of a matrix product
    bytes: float  # bytes per second, read and written, of a copy
    launch_s: float  # seconds of one more op or kernel that does nothing to speak of

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ceilings:
        """Raises ValueError where one is missing or is no positive number."""
        names = [field.name for field in fields(cls)]
        bad = [n for n in names if not isinstance(data.get(n), (int, float)) or not data[n] > 0]
        if bad:
            raise ValueError(f"ceilings: expected positive numbers {', '.join(names)}, got {dict(data)!r}")
        return cls(*(float(data[name]) for name in names))

    def seconds(self, part: Part) -> dict[str, float]:
        """By bound."""
        times = part.flops / self.flops, part.bytes / self.bytes, part.launches * self.launch_s
        return dict(zip(BOUNDS, times, strict=True))


def measure(device: torch.device, dtype: torch.dtype = torch.float32) -> Ceilings:
    """The ceilings of a device for features of `dtype`, within seconds.

    On a CPU half types may be multiplied in float32, as the native kernels do, so the faster of both counts. On CUDA
    float32 products are those that convolutions may use: TF32, as torch has it if not told otherwise.
    """
    dtypes = {dtype, torch.float32} if device.type == "cpu" and dtype != torch.float64 else {dtype}
    flops = max(product_ceiling(device, each) for each in dtypes)
    return Ceilings(flops, memory_ceiling(device), launch_ceiling(device))


def product_ceiling(device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of torch's product of two matrices of a side of 2048, on CUDA 8192; smaller where that takes long."""
    with _as_convolutions(device, dtype):
        side = 128
        while True:
            a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
            took = fastest(lambda a=a, b=b: a @ b, device, rounds=2 if side < 2048 else ROUNDS)  # type: ignore[misc]
            if side == (8192 if device.type == "cuda" else 2048) or 8.0 * took > MOST_S:
                return 2.0 * side**3 / took
            side *= 2


def memory_ceiling(device: torch.device = CPU) -> float:
    """Bytes per second, read and written, of a copy of 256 MB."""
    a, b = (torch.zeros(64 << 20, device=device) for _ in range(2))
    return 8.0 * a.numel() / fastest(lambda: b.copy_(a), device)


def launch_ceiling(device: torch.device = CPU) -> float:
    """Seconds of one of many ops on one element; on CUDA of the kernel alone, launched by a graph."""
    x = torch.zeros(1, device=device)

    def many() -> None:
        for _ in range(LAUNCHES):
            x.add_(1)

    if device.type != "cuda":
        return fastest(many, device) / LAUNCHES
    many()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        many()
    return fastest(graph.replay, device) / LAUNCHES


def fastest(run: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    """Seconds of the fastest call: a ceiling is what the machine can do, whatever else it did meanwhile."""
    run()
    return min(timing.timed(run, device) for _ in range(rounds))


@contextlib.contextmanager
def _as_convolutions(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """float32 products on CUDA by what convolutions may use there: TF32, where torch's default for matrices is not."""
    matmul: Any = torch.backends.cuda.matmul
    before, wanted = matmul.fp32_precision, precision.conv_fp32()
    if device.type != "cuda" or dtype != torch.float32 or wanted == precision.matmul_fp32():
        yield
        return
    matmul.fp32_precision = wanted
    try:
        yield
    finally:
        matmul.fp32_precision = before


def floor(work: Work, ceilings: Ceilings) -> tuple[float, str]:
    """(seconds, bound): the least time of kernels that run one after the other, and what most of it goes to.

    A kernel takes at least as long as its products, its bytes and its launch each take, so at least the longest of the
    three; where the next one starts when it has ended, the times add up. A sum over the whole case of each first would
    let one layer's products hide another's bytes, which only kernels that run side by side could.
    Left out, so that a measured time may be below: kernels that hold several layers (a stage of G without gradients),
    features and weights that are still in a cache, processors that start a kernel before the last has ended, forms of
    fewer products (cuDNN's own Winograd). Left out the other way, so that no kernel reaches it: transforms and
    epilogues, tiles that are not full, products that run below the rate of a large matrix.
    """
    total, by_bound = 0.0, dict.fromkeys(BOUNDS, 0.0)
    for part in work.parts:
        times = ceilings.seconds(part)
        bound = max(times, key=lambda name: times[name])
        by_bound[bound] += times[bound]
        total += times[bound]
    return total, max(by_bound, key=lambda name: by_bound[name])


def least_form(device: str) -> str:
    """The form of fewest products that a backend of this device type has, as this process allows it to round."""
    if device != "cpu":
        return "phases"
    return "tiles" if precision.exact_matmul() else "large_tiles"


def form_of(provider: str, device: str) -> str:
    """The form that a provider multiplies in."""
    return "phases" if provider in PHASES else least_form(device) if provider in OURS else "plain"


def attach(rows: Iterable[Row], ceilings: Ceilings) -> None:
    """Fill in flops, min_bytes, floor_s and bound of rows of cases that `work` counts; others keep None.

    flops are those of the provider's own form. The floor is the same for all providers of a case, by the least form.
    """
    for row in rows:
        device = row.device.partition(":")[0]
        if not is_counted(row.case, row.resolution):
            continue
        case = row.case, row.resolution, row.batch, getattr(torch, row.dtype)
        least = work(*case, form=least_form(device))
        row.flops = work(*case, form=form_of(row.provider, device)).flops
        row.min_bytes = round(least.bytes)
        row.floor_s, row.bound = floor(least, ceilings)
