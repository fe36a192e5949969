"""Who runs a call, and why nobody else does: `print(pggan_fast.explain(ops.pixel_norm, x))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pggan_fast.backends import recording, registry, signature


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

    __repr__ = __str__


def explain(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run `function(*args, **kwargs)`, an op, a module or any function of them, and say who computed each op of it and
    why no other did.

    Where the result requires grad the backward pass is run and explained too, to all leaves of its graph; `.grad` is
    left alone. Numbers do not matter, so random inputs of the right sizes, dtypes and strides do. Raises TypeError
    where `function` cannot be called, and what the call raises.
    """
    if not callable(function):
        raise TypeError(f"function: expected an op, a module or a function, got {type(function).__name__}")
    seen: dict[tuple[str, str], tuple[str, str | None, tuple[Any, ...]]] = {}
    counts: dict[tuple[str, str], int] = {}

    def note(op: str, backend: str | None, values: tuple[Any, ...]) -> None:
        key = signature.bucket(op, registry.names_of(op), values), backend or ""
        seen.setdefault(key, (op, backend, _forms(values)))
        counts[key] = counts.get(key, 0) + 1

    with recording.recorded(note):
        result = function(*args, **kwargs)
        _backward(result)
    return Explanation(_choice(name, counts[name, b], *seen[name, b]) for name, b in seen)


def _backward(result: Any) -> None:
    outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.grad_fn is not None]
    if outputs and (leaves := _leaves([t.grad_fn for t in outputs])):
        torch.autograd.grad(outputs, leaves, [torch.ones_like(t) for t in outputs], allow_unused=True)


def _leaves(nodes: list[Any]) -> list[Tensor]:
    """The tensors whose `.grad` a backward pass from these nodes of the graph would add to."""
    seen, found = set(nodes), {}
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        nodes += new
    return list(found.values())


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


LEGEND = (
    "C@P: C channels, P pixels of all images up to a power of two; HxW: of small maps; nchw: planes, else channels_last"
)


def _lines(choices: tuple[Choice, ...]) -> Iterator[str]:
    if len(choices) > 1:
        counts: dict[str, int] = {}
        for choice in choices:
            counts[choice.way] = counts.get(choice.way, 0) + choice.calls
        ways = ", ".join(f"{way} {count}" for way, count in sorted(counts.items(), key=lambda item: -item[1]))
        yield f"{sum(counts.values())} calls: {ways}"
        yield LEGEND
    width = max((len(way) for choice in choices for way in choice.reasons), default=0)
    for choice in choices:
        yield choice.call + (f"  ({choice.calls} times)" if choice.calls > 1 else "")
        if choice.way == "parts":
            yield f"  {'parts':<{width}}  runs: its layers one by one"
        for way, reason in choice.reasons.items():
            yield f"  {way:<{width}}  " + ("runs" if reason is None else f"does not: {reason}")
