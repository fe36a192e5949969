"""Interleaved timing and peak memory. Times are wall-clock seconds of one call, the device idle before and after."""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from pggan_fast import system

Key = TypeVar("Key")
Result = TypeVar("Result")

MIN_ROUNDS = 3
MAX_ROUNDS = 30
MOST_COPIES = 64
SAMPLE_S = 2e-3  # of a sample, at least
WARM_UP_S, STABLE = 0.5, 0.05


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, from an idle device to an idle device."""
    synchronize(device)
    start = time.perf_counter()
    result = run()
    synchronize(device)
    seconds = time.perf_counter() - start
    del result  # freeing it is not part of the call
    return seconds


def interleave(
    runs: Mapping[Key, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    calls: Mapping[Key, int] | None = None,
) -> dict[Key, list[float]]:
    """`rounds` samples of each, in turns A B C A B C, so that a slow phase of the machine holds all of them.

    A sample is the mean of that many `calls` in a row: 1 where it does not say.
    """
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            count = (calls or {}).get(key, 1)
            samples[key].append(timed(run if count == 1 else repeated(run, count), device) / count)
    return samples


def repeated(run: Callable[[], Any], calls: int) -> Callable[[], None]:
    def many() -> None:
        for _ in range(calls):
            run()

    return many


def calls_for(seconds: float) -> int:
    """How many calls of so many seconds make a sample that the clock and the scheduler do not blur."""
    return max(1, min(1000, math.ceil(SAMPLE_S / max(seconds, 1e-7))))


def warm_up(run: Callable[[], Any], device: torch.device) -> float:
    """Run until a call takes no longer than the one before (within STABLE), for WARM_UP_S at most; the last's seconds.

    Frequencies rise, allocators and autotuners settle. A call that itself takes longer than WARM_UP_S is not repeated.
    """
    started = time.perf_counter()
    before = timed(run, device)
    while time.perf_counter() - started < WARM_UP_S:
        last = timed(run, device)
        if last >= before * (1.0 - STABLE):
            return last
        before = last
    return before


def captured(run: Callable[[], Result]) -> Callable[[], Result]:
    """A replay of `run` captured as a CUDA graph, after three runs on a side stream; it returns what was captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def cold_copies(call_bytes: int, device: torch.device) -> int | None:
    """Of how many calls with inputs and weights of their own none finds its own in the L2 cache, when they take turns;
    None where there are no graphs to hold so many."""
    if device.type != "cuda":
        return None
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(MOST_COPIES, math.ceil(3 * cache / max(call_bytes, 1))))


def rounds_for(seconds: float, round_seconds: float) -> int:
    """As many rounds as fit in `seconds`, between MIN_ROUNDS (a spread needs as many) and MAX_ROUNDS."""
    fitting = math.floor(seconds / max(round_seconds, 1e-6))
    return max(MIN_ROUNDS, min(MAX_ROUNDS, fitting))


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """Peak memory of one call above what is held before it; None where the system cannot tell.

    After a first call the parameters, gradients and optimiser state are there before the call, so they do not count;
    a step drops and remakes the gradients, which evens out. CUDA: the caching allocator's own figures. Linux CPU: the
    peak of the process's resident memory, reset for the call, so that scratch memory counts that torch's allocator
    never sees (oneDNN's, and the kernels' own); free heap pages are handed back first, or they would hide some.
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _trim()
    if not _reset_high_water_mark():
        return None
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def available_bytes(device: torch.device) -> int | None:
    """Memory that a case may use now; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return system.available_memory()


def _trim() -> None:
    """Hand free heap pages back to the system (glibc; other libcs have no such call and keep fewer)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if system.POSIX else None
    if trim is not None:
        trim(0)


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)
