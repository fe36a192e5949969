"""PREDICTED times of every layer of G and D on a chip: plain PyTorch op by op against one fused kernel a layer.

No measurement: each kernel takes the longest of its products, its bytes and its launch (ceilings.floor) at rates that
are assumed shares of the chip's data sheet. It says where a fused layer can win, and on what it will hang.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from pggan_fast.benchmarks import runs
from pggan_fast.benchmarks.ceilings import Ceilings, floor, least_form, measure
from pggan_fast.benchmarks.schema import Report, Row
from pggan_fast.benchmarks.table import seconds
from pggan_fast.benchmarks.work import Layer, Part, Work, chain_of, work
from rich import box
from rich.table import Table

NETWORKS = ("G", "D")
HERE = "here"  # this machine, its ceilings measured
# Assumed of all chips below. Convolutions of cuDNN and of generated kernels have been seen at 0.35 to 0.6 of the peak
# from 128 channels on (and far lower at few), copies at 0.8 to 0.93 of the bandwidth.
PRODUCTS_SHARE, MEMORY_SHARE = 0.5, 0.85
# Assumed, of torch's ops and ours alike: one issued from Python, the device waiting for it. A graph needs less, the
# checks of an op of ours more.
LAUNCH_S = 5e-6


@dataclass(frozen=True)
class Chip:
    """Peak rates, and the shares of them that kernels are assumed to reach."""

    name: str
    title: str
    flops: dict[torch.dtype, float]  # FLOP/s without sparsity, sums in float32
    bytes: float  # bytes per second
    launch_s: float = LAUNCH_S
    products_share: float = PRODUCTS_SHARE
    memory_share: float = MEMORY_SHARE
    form: str = "phases"  # of our products: see work.TAPS
    bias_apart: bool = True  # torch adds a convolution's bias in a pass of its own; not on a CPU

    def ceilings(self, dtype: torch.dtype) -> Ceilings:
        """Raises ValueError for a dtype without a rate."""
        if dtype not in self.flops:
            raise ValueError(f"dtype: expected one of {', '.join(map(str, self.flops))} on {self.name}, got {dtype}")
        return Ceilings(self.flops[dtype] * self.products_share, self.bytes * self.memory_share, self.launch_s)


def _gpu(name: str, title: str, tf32: float, half: float, terabytes: float) -> Chip:
    """float32 at TF32's rate, which torch's convolutions use if not told otherwise."""
    flops = {torch.float32: tf32 * 1e12, torch.float16: half * 1e12, torch.bfloat16: half * 1e12}
    return Chip(name, title, flops, terabytes * 1e12)


# TFLOP/s dense (half of what data sheets print with sparsity), TB/s.
CHIPS = {
    chip.name: chip
    for chip in (
        _gpu("h100", "NVIDIA H100 SXM", 494.7, 989.4, 3.35),  # NVIDIA H100 Tensor Core GPU data sheet
        _gpu("h200", "NVIDIA H200 SXM", 494.7, 989.4, 4.8),  # NVIDIA H200 Tensor Core GPU data sheet
        _gpu("a100", "NVIDIA A100 SXM 80 GB", 156.0, 312.0, 2.039),  # NVIDIA A100 data sheet
        _gpu("l4", "NVIDIA L4", 60.0, 121.0, 0.3),  # NVIDIA L4 data sheet
        _gpu("b200", "NVIDIA B200, HGX at 1000 W", 1100.0, 2250.0, 8.0),  # NVIDIA Blackwell architecture brief
        _gpu("rtx4090", "NVIDIA GeForce RTX 4090", 82.6, 165.2, 1.008),  # NVIDIA Ada architecture white paper
    )
}


def chip_of(name: str, device: torch.device, dtype: torch.dtype) -> Chip:
    """One of CHIPS, or for "here" `device`, whose ceilings are measured in seconds. Raises ValueError for others."""
    if name == HERE:
        found = measure(device, dtype)
        title = f"this machine ({device.type}), by its measured ceilings"
        form, apart = least_form(device.type), device.type != "cpu"
        return Chip(HERE, title, {dtype: found.flops}, found.bytes, found.launch_s, 1.0, 1.0, form, apart)
    if name not in CHIPS:
        raise ValueError(f"model: expected one of {', '.join((*CHIPS, HERE))}, got {name!r}")
    return CHIPS[name]


@dataclass(frozen=True)
class Prediction:
    """One layer's forward; seconds."""

    layer: str
    plain_s: float  # plain PyTorch, each op a pass over memory
    ours_s: float  # one fused kernel
    bound: str  # of ours: "products", "memory" or "launch"

    @property
    def ratio(self) -> float:
        return self.plain_s / self.ours_s


def predict(chip: Chip, name: str, resolution: int, batch: int, dtype: torch.dtype) -> list[Prediction]:
    """The forward of every layer of `name`, "G" or "D", in order. Raises ValueError for other names."""
    if name not in NETWORKS:
        raise ValueError(f"name: expected G or D, got {name!r}")
    ceilings = chip.ceilings(dtype)
    fused = work(f"{name}.forward", resolution, batch, dtype, form=chip.form).parts
    found = []
    for layer, part in zip(chain_of(name, resolution), fused, strict=True):
        ours_s, bound = floor(Work((part,)), ceilings)
        plain_s, _ = floor(unfused(layer, batch, dtype, chip.bias_apart), ceilings)
        found.append(Prediction(layer.name, plain_s, ours_s, bound))
    return found


def unfused(layer: Layer, batch: int, dtype: torch.dtype, bias_apart: bool) -> Work:
    """The kernels that `pggan_fast.reference` launches for a layer, each with the bytes that it reads and writes."""
    size = dtype.itemsize
    x, y = batch * layer.x, batch * layer.y
    if not layer.weights:
        return Work(tuple(_norm(y, size) if layer.x == layer.y else _deviation(x, y, size)))
    scaled = [_pass("weight", size * 2 * layer.weights), _pass("bias scale", size * 2 * layer.biases)]
    large_x, large_y = x * (4 if layer.resample == "up" else 1), y * (4 if layer.resample == "down" else 1)
    resampled = [_pass("up", size * (x + large_x))] if large_x != x else []
    moved = size * (large_x + layer.weights + large_y)
    products = [Part("products", batch * layer.flops("plain"), moved, 1)]
    if bias_apart or layer.products == layer.weights:  # a matrix's product has no bias there
        products.append(_pass("bias", size * 2 * large_y))
    if large_y != y:
        products.append(_pass("down", size * (large_y + y)))
    act = [_pass("leaky ReLU", size * 2 * y)] if layer.reads_y else []
    return Work((*scaled, *resampled, *products, *act, *(_norm(y, size) if layer.curved else ())))


def _pass(name: str, moved: float, launches: int = 1) -> Part:
    return Part(name, 0.0, float(moved), launches)


def _norm(y: int, size: int) -> Iterator[Part]:
    """x * rsqrt(mean(x^2) + eps), in float32 at least, with casts around it for smaller types."""
    wide = max(4, size)
    yield from _cast(y, size, wide)
    yield _pass("square", 2 * wide * y)
    yield _pass("mean", wide * y)
    yield _pass("factor", 0, launches=2)  # a number per pixel: plus eps, rsqrt
    yield _pass("times factor", 2 * wide * y)
    yield from _cast(y, size, wide)


def _deviation(x: int, y: int, size: int) -> Iterator[Part]:
    """The minibatch deviation, in float32 at least, on 4x4 maps: launches count and hardly bytes."""
    wide = max(4, size)
    yield from _cast(x, size, wide)
    for name, passes in (("mean", 1), ("less mean", 2), ("square", 2), ("sum", 1)):
        yield _pass(name, wide * passes * x)
    yield _pass("deviation", 0, launches=4)  # of a group: by its size, plus eps, root, mean
    yield from _cast(0, size, wide)
    yield _pass("joined", size * (x + y))


def _cast(elements: int, size: int, wide: int) -> list[Part]:
    return [_pass("cast", (size + wide) * elements)] if size < wide else []


# The suite's cases of layers, by network and kind of layer.
LAYERS = {
    "G": {"conv_up": "up", "conv": "conv", "to_rgb": "to_rgb", "dense": "dense"},
    "D": {"conv_down": "down", "from_rgb": "from_rgb"},
}
CASES = tuple(f"{case}.forward" for case in (*LAYERS, *LAYERS["G"].values(), *LAYERS["D"].values()))


def case_of(name: str, layer: str) -> tuple[str, int] | None:
    """The suite's case of a layer of "G" or "D" and its resolution; None where it has none."""
    level, _, kind = layer.partition(".")
    case = LAYERS[name].get(kind)
    return None if case is None else (f"{case}.forward", int(level.partition("x")[0]))


def asked(name: str, layer: str, cases: Collection[str]) -> bool:
    """Whether a layer of "G" or "D" is in one of `cases` of CASES, networks or layers; without any all are."""
    case = case_of(name, layer)
    return not cases or f"{name}.forward" in cases or (case is not None and case[0] in cases)


def render(
    chip: Chip,
    name: str,
    resolution: int,
    batch: int,
    dtype: torch.dtype,
    measured: Report | None = None,
    cases: Collection[str] = (),
) -> Table | None:
    """The predictions as a table whose title begins with PREDICTED; None where the network has no layer of `cases`.

    measured: a run, whose layer cases of this batch and dtype, providers eager and auto, are set beside; of several
    numbers of threads the largest. The title names its machine.
    """
    found = [row for row in predict(chip, name, resolution, batch, dtype) if asked(name, row.layer, cases)]
    if not found:
        return None
    of = str(dtype).removeprefix("torch.")
    title = f"PREDICTED, not measured: {name} forward {resolution}x{resolution} x{batch} {of}, {chip.title}"
    beside: tuple[str, ...] = ()
    rows: list[Row] = []
    if measured is not None:
        beside = ("measured plain", "measured ours", "measured x")
        rows = [row for row in measured.results if (row.batch, row.dtype) == (batch, of)]
        threads = max((row.threads for row in rows if row.threads), default=None)
        rows = [row for row in rows if row.threads == threads]
        title += f"; beside it MEASURED on {runs.where(measured, threads)}"
        if not rows:
            title += f", which has no row of batch {batch} in {of}"
    drawn = Table(title=title, caption=_assumptions(chip), box=box.ASCII2, pad_edge=False)
    for column in ("layer", "plain", "ours", "x plain", "bound", *beside):
        drawn.add_column(column, justify="left" if column in ("layer", "bound") else "right", no_wrap=True)
    medians = {(row.case, row.resolution, row.provider): row.median_s for row in rows}
    for row in found:
        cells = [row.layer, seconds(row.plain_s), seconds(row.ours_s), f"{row.ratio:.2f}", row.bound]
        drawn.add_row(*cells, *(_measured(case_of(name, row.layer), medians) if beside else ()))
    plain, ours = sum(row.plain_s for row in found), sum(row.ours_s for row in found)
    drawn.add_section()
    drawn.add_row(
        "all of these" if cases else "all",
        seconds(plain),
        seconds(ours),
        f"{plain / ours:.2f}",
        "",
        *("" for _ in beside),
    )
    return drawn


def _measured(case: tuple[str, int] | None, medians: dict[tuple[str, int, str], float | None]) -> list[str]:
    plain, ours = (None if case is None else medians.get((*case, provider)) for provider in ("eager", "auto"))
    ratio = "" if plain is None or ours is None else f"{plain / ours:.2f}"
    return ["" if plain is None else seconds(plain), "" if ours is None else seconds(ours), ratio]


def _assumptions(chip: Chip) -> str:
    rates = f"launches of {seconds(chip.launch_s)}; ours multiplies in {chip.form}, one kernel a layer"
    if chip.name != HERE:
        rates = f"assumed {chip.products_share:.0%} of peak products, {chip.memory_share:.0%} of bandwidth, {rates}"
    return rates
