"""Who runs a call, and why nobody else does: `print(pggan_fast.explain(ops.pixel_norm, x))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pggan_fast.backends import registry, signature


class Choice(NamedTuple):
    """One internal op of a call: its name and sizes, and for each way why it did not run; None for the one that did."""

    call: str
    calls: int
    reasons: dict[str, str | None]

    @property
    def way(self) -> str:
        """Who ran: a backend; "aten+cpu": torch's convolution, cpu's epilogue; "parts": its layers one by one."""
        return next((way for way, reason in self.reasons.items() if reason is None), "parts")


class Explanation(tuple[Choice, ...]):
    """The choices of a call, in the order in which they were made; printed as text."""

    def __str__(self) -> str:
        return "\n".join(_lines(self)) or "no op of pggan_fast ran: plain PyTorch computes this"


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run `function(*args, **kwargs)`, an op or a module, and say who computed each op of it and why no other did.

    Where the result requires grad the backward pass is run and explained too; `.grad` is left alone. Numbers do not
    matter, so small random inputs of the right sizes, dtypes and strides do. Raises what the call raises.
    """
    seen: dict[tuple[str, str], tuple[str, str | None, tuple[Any, ...]]] = {}
    counts: dict[tuple[str, str], int] = {}

    def note(op: str, backend: str | None, values: tuple[Any, ...]) -> None:
        key = signature.bucket(op, registry.names_of(op), values), backend or ""
        seen.setdefault(key, (op, backend, _forms(values)))
        counts[key] = counts.get(key, 0) + 1

    with registry.recording(note):
        result = function(*args, **kwargs)
        _backward(function, result, args, kwargs)
    return Explanation(_choice(name, counts[name, b], *seen[name, b]) for name, b in seen)


def _backward(function: Callable[..., Any], result: Any, args: Any, kwargs: Any) -> None:
    outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.requires_grad]
    inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.requires_grad]
    if isinstance(function, torch.nn.Module):
        inputs += [p for p in function.parameters() if p.requires_grad]
    if outputs and inputs:
        torch.autograd.grad(outputs, inputs, [torch.ones_like(t) for t in outputs], allow_unused=True)


def _forms(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without the graph that the tensors hang on."""
    return tuple(v.detach() if isinstance(v, Tensor) else v for v in values)


def _choice(call: str, calls: int, op: str, backend: str | None, values: tuple[Any, ...]) -> Choice:
    device = values[0].device.type
    reasons = dict(registry.reasons(op, backend, device, values))
    if backend is not None:
        others = [way for way in registry.ways_for(None, device) if way not in reasons]
        reasons |= {way: f"backend={backend!r} was named" for way in others if way in registry.ways_of(op)}
    return Choice(call, calls, reasons)


def _lines(choices: tuple[Choice, ...]) -> Iterator[str]:
    width = max((len(way) for choice in choices for way in choice.reasons), default=0)
    for choice in choices:
        yield choice.call + (f"  ({choice.calls} times)" if choice.calls > 1 else "")
        if choice.way == "parts":
            yield f"  {'parts':<{width}}  runs: its layers one by one"
        for way, reason in choice.reasons.items():
            yield f"  {way:<{width}}  " + ("runs" if reason is None else f"does not: {reason}")
