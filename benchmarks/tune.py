"""Measure who is fastest on this device for every internal op of G and D, and keep it: what `pggan-fast tune` does.

The calls come from whole training steps and samplings on meta tensors, so that they are those that users make. Each way
that can run one must agree with torch's own before it is timed, in turns with the others; the result is the device's
table in PGGAN_FAST_CACHE (backends/tables.py), written after every measurement, so that a run that is cut short counts.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pggan_fast.benchmarks import timing
from pggan_fast.benchmarks.cases import default_batch
from pggan_fast.benchmarks.subjects import Widths
from pggan_fast.benchmarks.tune_plans import tune_plans
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pggan_fast import ops, use_backend
from pggan_fast.backends import layout, registry, selfcheck, signature, tables
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import g_loss, wgan_gp_d_loss

# Six roundings of the products' type, TF32's being float16's: how far a way may be from torch's own result
GROSS = {torch.float32: 6e-3, torch.float16: 6e-3, torch.bfloat16: 5e-2}
# Of the seconds of the static rule's choice: within it, that stays, as calls in a network find other caches
CLEARLY = 0.92
CALL_SECONDS = 0.4  # spent on one call at most, but for three rounds
PLANNED = ("conv", "conv_weight_grad", "scaled_conv2d_forward")  # by Triton, in tiles of several sizes
PARTS = "parts"  # the way of an op of several layers that runs them one by one


class Call(NamedTuple):
    """One call of an internal op: its arguments in size only, on the meta device."""

    op: str
    args: tuple[Any, ...]

    def bucket(self, device: torch.device) -> str:
        return signature.bucket(self.op, registry.names_of(self.op), self.args, device)

    def work(self) -> int:
        """Products, about: what is most worth measuring."""
        images = [t for t in self.args if isinstance(t, Tensor) and t.ndim == 4]
        return max(t.numel() for t in images) * max(t.shape[1] for t in images)


class Change(NamedTuple):
    """What one measurement found: who ran before, who runs from now on, and everybody's seconds."""

    name: str
    before: str
    best: str
    seconds: dict[str, float]

    @property
    def gain(self) -> float:
        """How many times faster; 1 where the earlier way was not measured, being wrong."""
        return self.seconds.get(self.before, self.seconds[self.best]) / self.seconds[self.best]


@dataclass
class Tuning:
    """`say` is told what is measured now, and how many of how many are done."""

    device: torch.device
    dtypes: Sequence[torch.dtype]
    resolutions: Sequence[int]
    batch: int | None = None
    budget_s: float = 300.0
    again: bool = False
    say: Callable[[str, int, int], None] = lambda text, done, total: None
    changes: list[Change] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    known: int = 0  # had a measurement
    single: int = 0  # have one way only
    left: int = 0  # were not reached

    def run(self) -> None:
        """Measure what has no measurement yet, the most work first, until the budget is spent."""
        with use_backend(None):
            self._run()

    def _run(self) -> None:
        found = self._calls()
        end = time.perf_counter() + self.budget_s
        measured = set() if self.again else set(tables.table(self.device)["ways"])
        todo = {name: call for name, call in found.items() if name not in measured}
        self.known = len(found) - len(todo)
        for done, (name, call) in enumerate(sorted(todo.items(), key=lambda item: -item[1].work())):
            if done and time.perf_counter() > end:
                self.left = len(todo) - done
                break
            self.say(name, done, len(todo))
            self._measure(name, call)
        registry.forget()

    def _calls(self) -> dict[str, Call]:
        found: dict[str, Call] = {}
        for resolution in self.resolutions:
            for dtype in self.dtypes:
                batch = self.batch or default_batch(resolution, self.device)
                for call in calls(resolution, batch, dtype):
                    found.setdefault(call.bucket(self.device), call)
        return found

    def _measure(self, name: str, call: Call) -> None:
        args = _drawn(call.args, self.device)
        runs = ways(call.op, args)
        plain = _floats((runs[PARTS] if PARTS in runs else registry._TABLE["aten", call.op].run)(*args))
        if "triton" in runs and call.op in PLANNED:
            self._tune_plans(call.op, args, runs["triton"], plain)
        for way in list(runs):
            off = _distance(_floats(runs[way](*args)), plain)
            if not off <= GROSS[args[0].dtype]:
                self.wrong.append(f"{way} {name}: off by {off:.2g}")
                del runs[way]
        usual = usual_way(call.op, args)
        before = (registry.measured(call.op, args) or {"best": usual})["best"]
        if len(runs) == 1:
            self.single += 1
            return
        seconds = _seconds(runs, args, self.device)
        best = min(seconds, key=lambda way: seconds[way])
        if usual in seconds and seconds[best] > CLEARLY * seconds[usual]:
            best = usual
        tables.add(self.device, "ways", {name: {"best": best, "seconds": seconds}})
        self.changes.append(Change(name, before, best, seconds))

    def _tune_plans(self, op: str, args: tuple[Any, ...], run: Callable[..., Any], plain: list[Tensor]) -> None:
        def timed(f: Callable[[], Any]) -> float:
            return on_device(f) if self.device.type == "cuda" else _seconds({"": lambda *_: f()}, args, self.device)[""]

        tune_plans(
            op, args, lambda: _floats(run(*args)), plain, GROSS[args[0].dtype], _distance, timed, self.wrong.append
        )


def ways(op: str, args: tuple[Any, ...]) -> dict[str, Callable[..., Any]]:
    """What can run the call here and has agreed with the reference, one way per function."""
    runs: dict[str, Callable[..., Any]] = {}
    if op in registry.PARTS:
        runs[PARTS] = functools.partial(registry.PARTS[op], backend=None)
    for candidate in registry.ranked(op, None, args[0].device.type, args):
        way, run = candidate.way, candidate.found.run
        if candidate.reason is not None or run in runs.values():
            continue
        if way == "aten" or selfcheck.failure(way, op, run, args) is None:
            runs[way] = run
    return runs


def usual_way(op: str, args: tuple[Any, ...]) -> str:
    """Who runs where nothing was measured."""
    possible = {c.way: c.found for c in registry.ranked(op, None, args[0].device.type, args) if c.reason is None}
    order = registry.ways_for(None, args[0].device.type)
    return next((way for way in order if way in possible and possible[way].rule(*args) is None), PARTS)


# The calls


def calls(resolution: int, batch: int, dtype: torch.dtype) -> Iterator[Call]:
    """Every internal op of training steps and samplings, fading in and not, half activations beside float32 weights."""
    with torch.device("meta"):
        G, D = Generator(resolution, latent_dim=Widths().latent), Discriminator(resolution)
        z = torch.empty(batch, Widths().latent, dtype=dtype)
        reals, alpha = torch.empty(batch, 3, resolution, resolution, dtype=dtype), torch.empty(())
    recorder = _Recorder()
    for fading in (1.0, alpha):
        with recorder:
            with torch.no_grad():
                fakes = G(z, alpha=fading)
                D(fakes, alpha=fading)
            wgan_gp_d_loss(D, ops.fade_reals(reals, fading), fakes, None, alpha=fading).backward()
            g_loss(D, G(z, alpha=fading), None, alpha=fading).backward()
    yield from recorder.found
    if resolution > 4:
        yield from _whole_blocks(G, D, batch, dtype, alpha)


class _Recorder(TorchDispatchMode):
    """Notes the internal ops that pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "pggan_fast":
            self.found.append(Call(func._opname, selfcheck.mapped(tuple(args[:-1]), lambda t: t.detach())))
        return func(*args, **(kwargs or {}))


def _whole_blocks(G: Generator, D: Discriminator, batch: int, dtype: torch.dtype, alpha: Tensor) -> Iterator[Call]:
    """The ops of several layers: G's blocks, the last with its image, and D's first two layers."""
    for level in G.levels.resolutions[1:]:
        block = G.blocks[f"{level}x{level}"]
        conv_up, conv = block["conv_up"], block["conv"]  # type: ignore[index]
        c = conv_up.weight.shape[1]
        x = _rows((batch, c, level // 2, level // 2), dtype)
        epilogue = tuple(conv.epilogue.values())
        shows: list[tuple[Any, Any, Any]] = [(None, None, None)]
        if level == G.levels.resolution:
            high, low = (G.to_rgb[f"{r}x{r}"].scaled for r in (level, level // 2))
            shows = [(high, None, None), (high, low, alpha)]
        for show in shows:
            yield Call("generator_stage", (x, conv_up.scaled, conv.scaled, *show, *epilogue))
    name = f"{D.levels.resolution}x{D.levels.resolution}"
    from_rgb, conv = D.from_rgb[name], D.blocks[name]["conv"]  # type: ignore[index]
    image = _rows((batch, 3, D.levels.resolution, D.levels.resolution), dtype)
    yield Call("discriminator_stem", (image, from_rgb.scaled, conv.scaled, conv.negative_slope))


def _rows(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=torch.channels_last)


# Running them


def _drawn(args: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """Random numbers in the form of each tensor; never zero, as some of them divide."""

    def draw(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return torch.randint(256, t.shape, dtype=t.dtype, device=device)
        numbers = torch.randn(t.shape, device=device)
        numbers = numbers.abs().add_(0.5) if (t.ndim == 4 and t.shape[1] == 1) or not t.ndim else numbers
        channels_last = t.ndim == 4 and layout.is_channels_last(t)
        return numbers.to(t.dtype).contiguous(memory_format=layout.memory_format(channels_last))

    return tuple(selfcheck.mapped(args, draw))


def _floats(results: Any) -> list[Tensor]:
    outputs = results if isinstance(results, tuple) else (results,)
    return [t for t in outputs if t is not None and t.is_floating_point()]


def _distance(got: list[Tensor], want: list[Tensor]) -> float:
    """The largest of all results, each on the scale of its largest element; NaN where one is NaN."""
    found = [
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
        for a, b in zip(got, want, strict=True)
        if b.numel()
    ]
    return max(found, default=0.0, key=lambda d: d if d == d else float("inf"))


def _seconds(runs: dict[str, Callable[..., Any]], args: tuple[Any, ...], device: torch.device) -> dict[str, float]:
    """The median of each, in turns; on a GPU what is longer, the device's or the host's part of a call: the other one
    is hidden behind it in a row of calls."""
    calls = {way: (lambda run=run: run(*args)) for way, run in runs.items()}
    if device.type == "cuda":
        return {way: max(on_device(call), on_host(call)) for way, call in calls.items()}
    once = sum(statistics.median(s) for s in timing.interleave(calls, 1, device).values())
    rounds = min(31, max(3, int(CALL_SECONDS / max(once, 1e-6))))
    return {way: statistics.median(s) for way, s in timing.interleave(calls, rounds, device).items()}


def on_device(call: Callable[[], Any]) -> float:
    """The GPU's seconds for a call that finds nothing in its cache."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=10, rep=40, return_mode="median")) / 1e3


def on_host(call: Callable[[], Any], calls: int = 10, rounds: int = 5) -> float:
    """Seconds until a call returns, of so many that no queue is full of them."""
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)
