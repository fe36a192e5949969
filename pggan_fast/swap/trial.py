"""Running somebody's module on inputs of our own without leaving a trace in it."""

from __future__ import annotations

import contextlib
import copy as copies
import random
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
DEPTH = 3  # how far into containers and objects that a module holds, and of how many entries
ENTRIES = 256
LARGEST = 64  # a map's side; whatever needs a larger one is looked at in parts
SIZES = ((4, 6), (8, 8), (4, 4), (16, 16), (32, 32), (LARGEST, LARGEST), (1, 1), (4, 8), (8, 16))


@dataclass(frozen=True)
class Geometry:
    """An input's shape without the batch."""

    shape: tuple[int, ...]

    def input(self, n: int, like: Tensor) -> Tensor:
        return torch.randn((n, *self.shape), dtype=like.dtype, device=like.device)


def geometries(module: torch.nn.Module, rank: int) -> list[Geometry]:
    """Inputs of a rank that the module may take, going by the shapes of its parameters, the likeliest first."""
    weights = [p for p in module.parameters() if p.ndim >= 2]
    channels = [w.shape[1] for w in weights] + [w.shape[0] for w in weights] + [w.shape[1] - 1 for w in weights]
    counts = [c for c in dict.fromkeys(channels) if c > 0][:16] or [6]
    if rank == 2:
        return [Geometry((c,)) for c in counts]
    return [Geometry((c, *size)) for c in counts for size in SIZES]


@contextlib.contextmanager
def own_random_numbers(module: torch.nn.Module) -> Iterator[None]:
    """What is drawn inside, on the CPU, the module's devices, by Python or numpy, is not missing outside."""
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.is_cuda})
    before, numpy = foreign_random_numbers(), sys.modules.get("numpy")
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(before[0])
            if numpy is not None and before[1]:
                kind, key, *rest = before[1]
                numpy.random.set_state((kind, numpy.frombuffer(key, dtype=numpy.uint32), *rest))


def foreign_random_numbers() -> tuple[Any, tuple[Any, ...]]:
    """The states of Python's and numpy's global generators, comparable."""
    numpy = sys.modules.get("numpy")
    state = () if numpy is None else numpy.random.get_state()
    return random.getstate(), tuple(part.tobytes() if hasattr(part, "tobytes") else part for part in state)


@contextlib.contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Puts back, whatever happens inside: attributes and what is in them, settings of their classes, values of tensors
    that are no parameters, training flags, hooks and random numbers. Autocast and inference mode are off inside."""
    with own_random_numbers(module), contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", *(p.device.type for p in module.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        for m in module.modules():
            stack.callback(_restoring_class(m))
            stack.callback(_restoring(vars(m), DEPTH + 1, {id(vars(m))}))
        yield


def _restoring(value: Any, depth: int, seen: set[int]) -> Callable[[], None]:
    """Puts a container, object or tensor back into its state of now."""
    if isinstance(value, Tensor):
        return _restoring_tensor(value)
    attributes = _attributes(value)
    container = value if attributes is None else attributes
    if not isinstance(container, (dict, list, set)) or not depth:
        return lambda: None
    kept = copies.copy(container)
    inner = [v for v in (container.values() if isinstance(container, dict) else container) if id(v) not in seen]
    seen.update(map(id, inner))
    below = [_restoring(v, depth - 1, seen) for v in inner]

    def restore() -> None:
        if isinstance(container, list):
            container[:] = kept
        else:
            container.clear()
            container.update(kept)
        for each in below:
            each()

    return restore


def _restoring_tensor(t: Tensor) -> Callable[[], None]:
    """But for parameters, in whose place others stand."""
    if isinstance(t, torch.nn.Parameter) or t.is_meta or t.is_inference() or t.layout is not torch.strided:
        return lambda: None
    version, kept = t._version, t.detach().clone()

    def restore() -> None:
        if t._version != version:
            with torch.no_grad():
                t.copy_(kept)

    return restore


def _restoring_class(m: torch.nn.Module) -> Callable[[], None]:
    kept = [(c, k, v) for c in _classes(m) for k, v in vars(c).items() if _setting(k, v)]

    def restore() -> None:
        for c, key, value in kept:
            if vars(c).get(key) is not value:
                setattr(c, key, value)

    return restore


def own_attributes(m: torch.nn.Module) -> dict[str, Any]:
    """What a module's code has set on the instance, but for tensors and modules and torch's own bookkeeping."""
    return {k: v for k, v in vars(m).items() if k not in _TORCHS and not isinstance(v, (Tensor, torch.nn.Module))}


REPLACED = ("forward", "_replicate_for_data_parallel", "extra_repr")  # by `fuse`, on the instance
_TORCHS = frozenset({*vars(torch.nn.Module()), "_reversed_padding_repeated_twice", *REPLACED})


def class_settings(m: torch.nn.Module) -> dict[str, Any]:
    """Numbers and flags that its class holds, and not the instance."""
    return {k: getattr(m, k) for c in _classes(m) for k, v in vars(c).items() if _setting(k, v) and k not in vars(m)}


def plain(value: Any) -> bool:
    """Whether a value cannot be changed and compares by what it is."""
    if isinstance(value, tuple):
        return all(map(plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def _setting(key: str, value: Any) -> bool:
    return plain(value) and not key.startswith("__")


def _classes(m: torch.nn.Module) -> list[type]:
    return [c for c in type(m).__mro__ if not c.__module__.startswith("torch.") and c is not object]


def contents(value: Any, depth: int = DEPTH) -> Any:
    """Something that compares equal as long as what is in a container or simple object stays; None for others."""
    if plain(value):
        return value
    attributes = _attributes(value)
    value = value if attributes is None else attributes
    if not isinstance(value, (dict, list, tuple, set)) or len(value) > ENTRIES or not depth:
        return None
    if isinstance(value, dict):
        return tuple([(str(k), contents(v, depth - 1)) for k, v in value.items()])
    if isinstance(value, set):
        return frozenset(filter(plain, value))
    return tuple([contents(v, depth - 1) for v in value])


def _attributes(value: Any) -> dict[str, Any] | None:
    """Of an object that may hold settings: one of somebody's own class, or a namespace."""
    home = type(value).__module__.partition(".")[0]
    known = home == "torch" or (home in sys.stdlib_module_names and home not in ("types", "argparse", "__main__"))
    if known or isinstance(value, (type, Tensor, torch.nn.Module)):
        return None
    found = getattr(value, "__dict__", None)
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Warnings that running the module on our inputs causes are not shown, nor used up: those that torch gives once in
    a process will come when the module runs. Our own pass."""
    always = torch.is_warn_always_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?!pggan_fast)")
        torch.set_warn_always(True)
        try:
            yield
        finally:
            torch.set_warn_always(always)


@contextlib.contextmanager
def muted(module: torch.nn.Module) -> Iterator[None]:
    """Hooks of others do not run, but for those that compute a weight; within `undisturbed`."""
    for m in module.modules():
        computing = [(key, hook) for key, hook in m._forward_pre_hooks.items() if may_compute_weight(m, hook)]
        for name in HOOKS:
            setattr(m, name, OrderedDict(computing if name == "_forward_pre_hooks" else ()))
    yield


def may_compute_weight(module: torch.nn.Module, hook: Any) -> bool:
    """Whether a pre-hook looks as if it made the weight of a parameter of another name (weight_orig, weight_v): an
    object of a class for that, or a function in which a weight occurs."""
    if all(name in ("weight", "bias") for name in module._parameters):
        return False
    code = getattr(hook, "__code__", None)
    if code is None:
        return True
    words = (*code.co_names, *code.co_freevars, *(c for c in code.co_consts if isinstance(c, str)))
    return any("weight" in word for word in words)


def lively(p: Tensor, dtype: torch.dtype) -> Tensor:
    """The values, or random ones where all are the same: a bias of zeros hides what is done with it."""
    values = p.detach().to(dtype)
    if p.numel() <= 1 or bool((values == values.flatten()[0]).all()):
        return torch.randn_like(values)
    return values.clone()
