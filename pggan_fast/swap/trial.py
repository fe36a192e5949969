"""Running somebody's module on inputs of our own without leaving a trace in it."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
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
    """What is drawn inside, on the CPU and the module's devices, is not missing outside."""
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        yield


@contextlib.contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Puts back, whatever happens inside: attributes, buffers' and parameters' places, training flags, hooks and
    random numbers. Autocast and inference mode are off inside."""
    modules = list(module.modules())
    saved = [{k: _copied(k, v) for k, v in vars(m).items()} for m in modules]
    with own_random_numbers(module), contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", *(p.device.type for p in module.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        finally:
            for m, state in zip(modules, saved, strict=True):
                _put_back(vars(m), state)


def _copied(key: str, value: Any) -> Any:
    """Of dictionaries (parameters, hooks, children) the contents are kept besides, of lists and sets a copy."""
    return (value, type(value)(value)) if isinstance(value, (dict, list, set)) else (value, None)


def _put_back(attributes: dict[str, Any], state: dict[str, Any]) -> None:
    for key in [k for k in attributes if k not in state]:
        del attributes[key]
    for key, (value, contents) in state.items():
        attributes[key] = value
        if contents is None:
            continue
        if isinstance(value, list):
            value[:] = contents
        else:
            value.clear()
            value.update(contents)


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
