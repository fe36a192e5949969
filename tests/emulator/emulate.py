"""`backend="cuda"` on CPU tensors: inside `emulated()` the CUDA kernels run on the host, every access checked.

It runs C++ that g++ compiled. It cannot prove inline PTX and what ptxas makes of it, rounding inside matrix products,
approximate instructions, or that a device's weaker order of memory suffices; and it has no time.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))
import grid
from allocators import is_poisoned, poisoned, wrap_allocators

from pggan_fast.backends import cuda, registry
from pggan_fast.backends.launch import addresses

FIFO, LIFO, RANDOM = range(3)  # the order in which threads and blocks run
CPU = torch.device("cpu")


class Fault(AssertionError):
    """The emulator saw a kernel do what it must not."""


@functools.cache
def module() -> Any:
    """The emulator's `_cuda`, built if need be. Raises BuildError where it cannot be."""
    import compiled

    return compiled.load(compiled.build())


def why_missing() -> str | None:
    """Why the emulator cannot be built here: no CUDA toolkit, whose headers it takes. A kernel that does not compile
    is no reason, but an error."""
    import compiled

    try:
        compiled.cuda_headers()
    except compiled.recipe.BuildError as error:
        return str(error)
    module()
    return None


class Emulator:
    """What the kernels have done since `emulated()` began."""

    def traffic(self) -> list[dict[str, Any]]:
        """With `stats`: modelled traffic by place and space, what weighs most first.

        `at` is file:line; `bytes` is what lanes asked for, in `requests` of a warp; these took `sectors` of 32 bytes of
        device memory or `wavefronts` of shared memory's banks, where `ideal` of them could have done.
        """
        places = module().emulator.traffic()
        names = sources(place["site"] for place in places)
        for place in places:
            place["at"] = names[place.pop("site")]
        return sorted(places, key=lambda place: -max(place["sectors"], place["wavefronts"]))

    def counts(self) -> dict[str, int]:
        """accesses, switches of fibers, threads, mma; with `stats` the different bytes read and written."""
        return dict(module().emulator.counts())

    def launches(self) -> list[dict[str, Any]]:
        """The launches so far: `kernel` with its template arguments; with `stats` the `sectors` of device memory that
        it took, and the different bytes `read` and `written`."""
        launches = list(module().emulator.launches())
        names = kernels(launch["kernel"] for launch in launches)
        return [{**launch, "kernel": names[launch["kernel"]]} for launch in launches]


_lock = threading.Lock()  # the emulator has one machine
_settings: dict[str, Any] = {}  # of the innermost emulated(); empty: the usual ones
_names: dict[int, str] = {}  # of places
_fresh: dict[int, weakref.ref[Tensor]] = {}  # poisoned outputs that no emulated kernel has got yet


def call(name: str, *args: Any) -> Any:
    """Call a function of `_cuda` on CPU tensors, which are device memory for that long; raises Fault."""
    return launch(getattr(module(), name), *args)


def launch(function: Callable[..., Any], *args: Any) -> Any:
    """Call a native function on tensors whose elements, and no byte more, are device memory."""
    native = module().emulator
    tensors = [(i, arg) for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.numel()]
    error = result = None
    with _lock:
        for begin, end, fresh, name in extents(tensors):
            native.add_memory(begin, end - begin, not fresh, name)
        try:
            result = function(0, 0, *addresses(args, CPU))
        except RuntimeError as refused:
            error = refused
        finally:
            native.forget_memory()
            faults = native.take_faults()
    if faults or error:
        raise Fault("\n".join(located(faults)) or str(error)) from error
    if result is None:  # else it only counted, and launched nothing
        for _, t in tensors:
            _fresh.pop(id(t), None)
    return result


def extents(tensors: list[tuple[int, Tensor]]) -> list[tuple[int, int, bool, str]]:
    """(begin, end, whether nobody has written there, name) of the tensors' elements; what overlaps is one."""
    found: list[tuple[int, int, bool, str]] = []
    parts = []
    for i, t in tensors:
        begin, *_ = addresses((t,), CPU)
        last = sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
        name = f"argument {i} {str(t.dtype).removeprefix('torch.')}{list(t.shape)}"
        parts.append((begin, begin + (last + 1) * t.itemsize, is_fresh(t), name))
    for begin, end, fresh, name in sorted(parts):
        if found and begin < found[-1][1]:
            first, until, all_fresh, names = found.pop()
            found.append((first, max(end, until), fresh and all_fresh, f"{names} and {name}"))
        else:
            found.append((begin, end, fresh, name))
    return found


def allocated(t: Tensor) -> None:
    """Poison an output and remember that no kernel has written it."""
    key = id(t)
    _fresh[key] = weakref.ref(poisoned(t), lambda _: _fresh.pop(key, None))


def is_fresh(t: Tensor) -> bool:
    """Whether nobody has written to `t` since it was allocated: torch, a kernel of the CPU's own or an emulated one."""
    return id(t) in _fresh and is_poisoned(t)


def sources(sites: Iterable[int]) -> dict[int, str]:
    """Where these places in the module are: file:line, and of what a header has the line of the kernel too."""
    unknown = sorted({site for site in sites if site not in _names})
    if unknown:
        tool = ["addr2line", "-e", module().__spec__.origin, "-a", "-i", *map(hex, unknown)]
        told = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
        for site, answer in zip(unknown, re.split(r"^0x[0-9a-f]+\n", told, flags=re.MULTILINE)[1:], strict=True):
            lines = [line.split(" ")[0].rpartition("/")[2] for line in answer.splitlines()]
            ours = [line for line in lines if ".cu" in line]
            kernels = [line for line in ours if ".cu:" in line]
            _names[site] = " in ".join(dict.fromkeys([*ours[:1], *kernels[:1]])) or lines[0]
    return _names


def kernels(offsets: Iterable[int]) -> dict[int, str]:
    """The functions that begin there in the module, as `blend_same<4, float>`."""
    asked = sorted(set(offsets))
    if not asked:
        return {}
    tool = ["addr2line", "-e", module().__spec__.origin, "-f", "-C", *map(hex, asked)]
    lines = subprocess.run(tool, capture_output=True, text=True, check=True).stdout.splitlines()
    return {offset: kernel_name(symbol) for offset, symbol in zip(asked, lines[::2], strict=True)}


def kernel_name(symbol: str) -> str:
    """Without the result's type, the parameters and our namespace: all of it is in every name."""
    plain = symbol.replace("pggan::cuda::", "").replace("(anonymous namespace)::", "")
    return plain.removeprefix("void ").partition("(")[0]


def located(faults: list[str]) -> list[str]:
    """Messages with file:line in place of addresses."""
    address = re.compile(r"@(0x[0-9a-f]+)")
    names = sources(int(site, 16) for fault in faults for site in address.findall(fault))
    return [address.sub(lambda match: f"at {names[int(match[1], 16)]}", fault) for fault in faults]


@contextmanager
def emulated(
    policy: int = FIFO, seed: int = 1, stats: bool = False, *, multiprocessors: int = 3, shared_limit: int = 227 * 1024
) -> Iterator[Emulator]:
    """Inside, `backend="cuda"` takes CPU tensors; may be nested, with other settings.

    Outputs that the package allocates are uninitialised for the first kernel that gets them.
    """
    global _settings
    native = module().emulator
    mine = {
        "seed": seed, "order": policy, "traffic": stats, "multiprocessors": multiprocessors,
        "shared_limit": shared_limit,
    }  # fmt: skip
    outer, _settings = _settings, mine
    native.configure(**mine)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuda, "emulator", call)
            wrap_allocators(patch, allocated)
            registry.forget()  # what fits the device decides who runs
            yield Emulator()
    finally:
        registry.forget()
        _settings = outer
        native.configure(**outer)


def check(op: str, inputs: Any, options: Any, *, policy: int = FIFO, **judged: Any) -> None:
    """grid.check with backend "cuda", emulated."""
    with emulated(policy):
        grid.check(op, inputs, options, "cuda", **judged)
