"""Runs a module once under a dispatch mode that follows what becomes of its input, step by step.

Names and classes say nothing here: an operation is known by what aten computes, and where several spellings exist
(nearest neighbours, the mean of four pixels, flattening) by comparing what came out with what should.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pggan_fast import reference
from pggan_fast.swap.operations import HANDLERS
from pggan_fast.swap.steps import Call, Guess, Pool, Ref, Up, joined
from pggan_fast.swap.values import (
    Const,
    Data,
    Derived,
    Expr,
    Fixed,
    Stat,
    Unknown,
    Value,
    close,
    moved_view,
    stddev_candidates,
)

MOVES = frozenset(
    """view _unsafe_view reshape expand permute transpose t unsqueeze squeeze clone contiguous alias detach slice select
    index index_select repeat repeat_interleave cat stack as_strided split split_with_sizes unbind lift_fresh
    upsample_nearest2d _upsample_nearest_exact2d _to_copy gather pixel_shuffle""".split()  # noqa: SIM905
)

# What means of pixels and statistics of batches are made of. Of a clamp, say, small random numbers show nothing.
SMOOTH = MOVES | frozenset(
    """add sub rsub mul div pow square sqrt rsqrt mean sum var std var_mean std_mean avg_pool2d _adaptive_avg_pool2d
    convolution upsample_bilinear2d linalg_vector_norm reciprocal neg""".split()  # noqa: SIM905
)


class Refused(Exception):
    """The module does something that no list of steps can say."""


class Recorder(TorchDispatchMode):
    """Follows values from `x` on. `parameters`: the tensors that stand in for them; `constants`: buffers and other
    tensors that modules hold, by id."""

    def __init__(
        self, x: Tensor, parameters: dict[Ref, Tensor], constants: dict[int, tuple[torch.nn.Module, str]]
    ) -> None:
        super().__init__()
        self.input, self.parameters, self.constants = x, parameters, constants
        self.refs = {id(t): ref for ref, t in parameters.items()}
        self.effects: list[str] = []  # what a list of steps would leave out
        self.fault: Exception | None = None  # what stopped the recording, if it was the recorder itself
        self.largest = 0  # elements of a tensor
        self.operation = ""  # the one that a handler is asked about
        self.numbers: dict[tuple[torch.nn.Module, str], float] = {}  # tensors read as numbers
        self.owners: dict[int, Tensor] = {}  # keeps ids from being used again
        self._values: dict[int, Value] = {}
        self._set(x, Data(()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        try:
            self._note(func, args, kwargs or {}, out)
        except Exception as error:  # not the module's, which may well not take what it was given
            self.fault = error
            raise
        return out

    def _set(self, t: Tensor, value: Value) -> None:
        self.owners[id(t)] = t
        self._values[id(t)] = value

    def value(self, t: Tensor) -> Value:
        """What is known about a tensor."""
        known = self._values.get(id(t))
        if known is not None:
            return known
        if id(t) in self.refs:
            return Expr(self.refs[id(t)])
        place = self.constants.get(id(t))
        if place is None:
            return Unknown("uses a tensor that no module holds")
        if t.numel() != 1:
            return Unknown(f"uses the tensor {place[1]} of {tuple(t.shape)}, which is no parameter")
        self.numbers[place] = float(t)
        return Const(float(t))

    def call(self, child: torch.nn.Module, before: Value, out: Any, opaque: str | None) -> bool:
        """A child has run on a value: where it is not understood, it is one step. Returns whether it is."""
        if not isinstance(out, Tensor):
            return False
        after = self.value(out)
        if opaque is None and isinstance(after, Data):
            return False
        if isinstance(before, Data):
            reason = opaque or (after.reason if isinstance(after, Unknown) else "no chain of known steps")
            self._set(out, Data((*before.steps, Call(child, reason))))
            return True
        if opaque is not None and not isinstance(before, Unknown):
            self._set(out, Unknown(f"{type(child).__name__} {opaque}"))
        return False

    def _note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        name = func.overloadpacket.__name__
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        values = [self.value(t) for t in inputs]
        self.largest = max(self.largest, *(t.numel() for t in outputs), 0)
        if not outputs:
            if inputs and not all(isinstance(v, (Const, Fixed)) for v in values):
                raise Refused(f"decides by values ({name})")
            return
        in_place = func._schema.is_mutable and not name.startswith("_")
        if in_place:
            self._overwrites(args[0] if args else outputs[0])
        result = self._result(func, name.rstrip("_") if in_place else name, args, kwargs, inputs, values, outputs[0])
        for t in outputs:
            if len(outputs) > 1 and isinstance(result, Data):
                result = Unknown(f"{name} gives several tensors")
            self._set(t, result)

    def _overwrites(self, t: Tensor) -> None:
        """An in-place operation: other names of the same memory have changed too."""
        memory = t.untyped_storage()._cdata
        if memory == self.input.untyped_storage()._cdata:
            raise Refused("overwrites its input")
        if id(t) in self.refs or id(t) in self.constants:
            self.effects.append("writes a tensor that a module holds")
        for key, other in self.owners.items():
            if other is not t and other.untyped_storage()._cdata == memory:
                self._values[key] = Unknown("overwritten in place")

    def _result(
        self,
        func: Any,
        name: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        values: list[Value],
        out: Tensor,
    ) -> Value:
        for v in values:
            if isinstance(v, Unknown):
                return v
        if torch.Tag.nondeterministic_seeded in func.tags:
            return Unknown(f"draws random numbers ({name})")
        if all(isinstance(v, (Const, Fixed)) for v in values) or name == "lift_fresh":
            return Const(float(out)) if out.numel() == 1 and not out.is_complex() else Fixed()
        self.operation = name
        handler = HANDLERS.get(name)
        if handler is not None:
            known = handler(self, args, kwargs, out)
            if known is not None:
                return known
        if all(isinstance(v, Expr) for v in values):
            moved = len({*values}) == 1 and name in MOVES
            return values[0] if moved else Unknown(f"computes with parameters alone ({name})")
        return _derived(name, args, inputs, values, out)


def _derived(name: str, args: Sequence[Any], inputs: list[Tensor], values: list[Value], out: Tensor) -> Value:
    """Of one value of the chain alone: perhaps a step all the same."""
    base: Data | None = None
    source: Tensor | None = None
    moved, scalars = name in MOVES, _floats(args)
    for t, v in zip(inputs, values, strict=True):
        if isinstance(v, (Const, Fixed)):
            continue
        own, origin = (v, t) if isinstance(v, Data) else (getattr(v, "base", None), getattr(v, "source", None))
        if own is None or (base is not None and own != base):
            parameters = [v.ref.name for v in values if isinstance(v, Expr)]
            what = f"with the parameter {parameters[0]}" if parameters else "of two tensors"
            return Unknown(f"{name} {what} is none of the known steps")
        base, source = own, origin
        if isinstance(v, Derived):
            moved, scalars = moved and v.moved, (*v.scalars, *scalars)
        elif isinstance(v, Stat):
            moved, scalars = False, (v.eps_in, v.eps_out, *scalars)
    if base is None or source is None:  # parameters and numbers
        return Unknown(f"computes with parameters alone ({name})")
    if name not in SMOOTH:
        return Unknown(f"{name} is none of the known steps")
    step = _step(out, source, moved, scalars)
    if step is not None:
        return base if step == () else Data(joined(base.steps, step))
    return Derived(base, source, moved, scalars)


def _step(out: Tensor, source: Tensor, moved: bool, scalars: tuple[float, ...]) -> Any:
    """The step that turns `source` into `out`; () for none; None where it is not known."""
    if moved and out.shape == source.shape and torch.equal(out, source):
        return ()
    if source.ndim == 4 and out.ndim == 4:
        n, c, h, w = source.shape
        if moved and out.shape == (n, c, 2 * h, 2 * w) and torch.equal(out, reference.up2(source)):
            return Up()
        even = h % 2 == w % 2 == 0
        if even and out.shape == (n, c, h // 2, w // 2) and close(out, reference.down2(source)):
            return Pool()
        if out.shape == (n, c + 1, h, w):
            found = stddev_candidates(out, source, scalars)
            return Guess(tuple(found)) if found else None
    return moved_view(out, source) if moved and out.shape != source.shape else None


def _floats(args: Any) -> tuple[float, ...]:
    return tuple(a for a in tree_leaves(args) if isinstance(a, float))
