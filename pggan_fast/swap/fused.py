"""What `fuse` puts at `module.forward`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import layout
from pggan_fast.errors import outside as caller
from pggan_fast.swap.chain import Chain
from pggan_fast.swap.guard import Guard
from pggan_fast.swap.read import Reading
from pggan_fast.swap.steps import Call, Conv, NotAsRecorded, Product, Stddev, View
from pggan_fast.swap.trial import LARGEST, REPLACED, Geometry


class Forward:
    """In place of a module's forward, on the instance alone: pickled and copied with it. Subclasses write `run`.

    `run` raises NotAsRecorded for arguments that it cannot take, before anything with an effect was called; then, and
    where the modules have changed since, the class's own forward runs.
    """

    pattern = ""  # what the report says
    strict = False  # raise NotAsRecorded in place of running the original
    varying: tuple[str, ...] = ()  # attributes of the module that `run` reads in each call: they may change
    class_varies = False  # whether `run` reads settings of the module's class too

    def __init__(
        self,
        module: torch.nn.Module,
        modules: Iterable[torch.nn.Module],
        numbers: dict[tuple[torch.nn.Module, str], float] | None = None,
    ) -> None:
        self.module, self._warned = module, False
        self._guard = Guard((module, *modules), numbers, self.varying, self.class_varies)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def examples(self, like: Tensor) -> list[tuple[Any, ...]]:
        """Arguments, random in each call, in dtype and on device of `like`, on which the probe compares `run` with the
        original; they should reach all that `run` does. At least one of them must be taken by both."""
        raise NotImplementedError

    def large_example(self, like: Tensor) -> tuple[Any, ...]:
        """Arguments to measure with, as large as is usual."""
        return max(self.examples(like), key=lambda args: sum(a.numel() for a in args if isinstance(a, Tensor)))

    def setting(self, case: int | None) -> AbstractContextManager[Any]:
        """The state in which the module takes its `case`th example; None: the large example."""
        return nullcontext()

    @property
    def calls(self) -> list[Call]:
        """Modules that `run` calls as they are; parts of them may be fused by themselves."""
        return []

    @property
    def stale(self) -> bool:
        """Whether the module was changed since, so that its own forward runs."""
        return not self._guard.holds()

    def _stale_now(self) -> bool:
        """`stale` when it is compiled; what changes after that, a compiled module does not see."""
        return self.stale

    # As torch.compiler.assume_constant_result marks it, which would import the whole compiler here: 7 s, and a folder
    _stale_now._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def original(self, *args: Any, **kwargs: Any) -> Any:
        """What the class does."""
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self._stale_now() or not self._guard.traced() if torch.compiler.is_compiling() else self.stale):
            try:
                return self.run(*args, **kwargs)
            except NotAsRecorded:
                if self.strict:
                    raise
                return self.original(*args, **kwargs)
        if self.strict:
            raise NotAsRecorded("the module was changed")
        if not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            warnings.warn(
                f"{type(self.module).__name__} was changed after fuse(): its own forward runs; call fuse again "
                "to have it fast",
                stacklevel=caller(),
            )
        return self.original(*args, **kwargs)

    def replica(self) -> torch.nn.Module:
        """torch.nn.DataParallel's copy of the module, which runs its own forward: our steps hold the parameters of the
        module that was copied."""
        copy: torch.nn.Module = type(self.module)._replicate_for_data_parallel(self.module)
        self._remove_from(copy)
        return copy

    def extra_repr(self) -> str:
        """What `print(model)` shows of the module: what it says of itself, and what runs in its place."""
        own = type(self.module).extra_repr(self.module)
        fused = f"fused: {self.pattern}" + (", but changed since: its own forward runs" if self.stale else "")
        return f"{own}, {fused}" if own else fused

    def install(self) -> None:
        vars(self.module).update(forward=self, _replicate_for_data_parallel=self.replica)
        vars(self.module).setdefault("extra_repr", self.extra_repr)  # unless it has one of its own on the instance

    def remove(self) -> None:
        self._remove_from(self.module)

    def _remove_from(self, module: torch.nn.Module) -> None:
        ours = getattr(vars(module).get("extra_repr"), "__self__", None) is self
        for name in REPLACED if ours else REPLACED[:-1]:
            vars(module).pop(name, None)


class Fused(Forward):
    """Of a module that is a chain with one tensor in and one out, for inputs of one or both ranks."""

    def __init__(self, module: torch.nn.Module, readings: dict[int, Reading]) -> None:
        modules = [m for reading in readings.values() for m in reading.modules]
        numbers = {place: number for reading in readings.values() for place, number in reading.numbers.items()}
        super().__init__(module, modules, numbers)
        self.chains = {rank: Chain(reading.steps) for rank, reading in readings.items()}
        self._examples = {rank: reading.shapes for rank, reading in readings.items()}
        self._shapes = {
            rank: {geometry.shape for geometry in reading.shapes} if reading.limited else None
            for rank, reading in readings.items()
        }
        self._alone = {rank: reading.alone for rank, reading in readings.items()}
        self.pattern = " | ".join(dict.fromkeys(map(str, self.chains.values())))

    @property
    def calls(self) -> list[Call]:
        return [call for chain in self.chains.values() for call in chain.calls]

    def examples(self, like: Tensor) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for rank, shapes in self._examples.items():
            batches = (4, 8) if any(isinstance(step, Stddev) for step in self.chains[rank].steps) else (2,)
            found += [(shapes[0].input(n, like),) for n in batches]
            found.append((min(shapes[1:] or shapes, key=lambda g: math.prod(g.shape)).input(3, like),))
        return found

    def large_example(self, like: Tensor) -> tuple[Any, ...]:
        if 4 not in self.chains or self._shapes[4] is not None or not _of_any_size(self.chains[4]):
            return super().large_example(like)
        return (Geometry((self._examples[4][0].shape[0], LARGEST, LARGEST)).input(4, like),)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if len(args) == 1 and not kwargs else None
        chain = self.chains.get(x.ndim) if isinstance(x, Tensor) and x.is_floating_point() else None
        if x is None or chain is None or x.layout is not torch.strided:
            raise NotAsRecorded("not one dense tensor of a known rank")
        shapes = self._shapes[x.ndim]
        if shapes is not None and tuple(x.shape[1:]) not in shapes:
            raise NotAsRecorded("another size")
        if x.shape[0] == 1 and not self._alone[x.ndim]:
            raise NotAsRecorded("a single sample")
        if not torch.is_autocast_enabled(x.device.type) and any(p().dtype != x.dtype for p in chain.weights):
            raise NotAsRecorded("another dtype than that of the parameters")
        copied = chain.wants_rows or (chain.keeps_input and torch.is_grad_enabled())
        u = chain(inside(x, chain.wants_rows) if copied else x)
        y = outside(u, keep=channels_last(x) or chain_channels_last(chain))
        # Our ops keep their output for backward, PyTorch's products, leaky ReLU and norms by hand do not: somebody may
        # overwrite it.
        return y.clone() if y is u and chain.ends_in_op and y.requires_grad else y


def _of_any_size(chain: Chain) -> bool:
    """Whether larger maps fit too: not where a view or a dense layer has the size of the map in it."""
    return not any(isinstance(step, (Call, Product, View)) for step in chain.steps)


def inside(x: Tensor, rows: bool = True) -> Tensor:
    """A 4-D argument as it is inside of a region: in channels_last, or with `rows` false a copy, which outlives what
    is done to x later. Its gradient leaves as the argument came."""
    if x.ndim != 4 or torch._C._are_functorch_transforms_active():
        return x
    if x.is_contiguous() and x.requires_grad and torch.is_grad_enabled():
        mine: Tensor = _Inside.apply(x, rows)
        return mine
    return _inside(x, rows)


def _inside(x: Tensor, rows: bool) -> Tensor:
    return layout.channels_last(x) if rows else x.clone()


class _Inside(torch.autograd.Function):
    """The gradient is plainly contiguous, as penalties on it go on with `.view(n, -1)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: bool) -> Tensor:
        return _inside(x, rows)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g.contiguous(), None


def outside(y: Tensor, keep: bool = False) -> Tensor:
    """A result as the module's own code would give it: contiguous, or channels_last (`keep`) where that went in."""
    if keep or y.is_contiguous() or torch._C._are_functorch_transforms_active():
        return y
    return y.contiguous()


def channels_last(x: Tensor) -> bool:
    """Whether a convolution of x or by x gives channels_last."""
    if x.ndim != 4 or torch._C._are_functorch_transforms_active():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def chain_channels_last(chain: Chain) -> bool:
    """Whether weights are channels_last (`model.to(memory_format=torch.channels_last)`), which convolutions follow."""
    return any(channels_last(step.weight()) for step in chain.steps if isinstance(step, Conv))


def installed(m: torch.nn.Module) -> Forward | None:
    """What `fuse` has put there."""
    forward = vars(m).get("forward")
    return forward if isinstance(forward, Forward) else None
