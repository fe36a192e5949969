"""The base of the adapters' forwards, and what they ask of a network and of the arguments of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeGuard, TypeVar

import torch
from torch import Tensor

from pggan_fast.swap.chain import Chain, chain
from pggan_fast.swap.families.plan import Discriminator, Generator
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.read import Reading, Unreadable, hooked, left_alone, read
from pggan_fast.swap.steps import Act, Call, Conv, NotAsRecorded, Stddev, Step

LARGEST = 5e8  # products per image
_UNLIKE = (AttributeError, LookupError, StopIteration, TypeError, ValueError)  # what other structures raise when read
Plan = TypeVar("Plan", bound=Generator | Discriminator)


class Network(Forward, Generic[Plan]):
    """The new forward of a whole network: `read` makes its plan, `run` turns a call's arguments into level and weight.

    What its modules do is read anew; numbers of modules `apart` are read by `run` at every call.
    """

    net: Plan
    any_level = False  # whether a call chooses the level; else it is the highest

    def __init__(self, model: torch.nn.Module) -> None:
        self._found: dict[tuple[torch.nn.Module, str], float] = {}
        self._called: list[Call] = []
        below = list(model.modules())[1:]
        for m in below:
            reason = left_alone(m) or hooked(m)
            if reason is not None:
                raise Unreadable(f"{type(m).__name__} inside of it: {reason}")
        try:
            self.read(model)
            apart = self.apart(model)
            super().__init__(model, [m for m in below if m not in apart], self._found)
            self.examples(torch.empty(0, device="meta"))
        except _UNLIKE as error:
            raise Unreadable(f"a {self.pattern}? {type(error).__name__}: {error}") from error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Scores are the caller's own, who may overwrite them: an op of ours may have kept them for its gradient."""
        y = super().__call__(*args, **kwargs)
        return y.clone() if isinstance(y, Tensor) and y.ndim <= 2 and y.requires_grad else y

    def read(self, m: Any) -> None:
        raise NotImplementedError

    def apart(self, m: Any) -> Sequence[torch.nn.Module]:
        return ()

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        """Arguments of a call for `n` samples."""
        raise NotImplementedError

    def state(self, level: int, alpha: float | None) -> AbstractContextManager[Any]:
        """Within it, the network shows that level: for what is an attribute of the network and no argument."""
        return nullcontext()

    def steps(self, child: torch.nn.Module, rank: int = 4) -> tuple[Step, ...]:
        """What a child does; one Call of it where it is no chain."""
        if type(child) is torch.nn.LeakyReLU:  # perhaps in place: alone it is no step, after a layer it is
            return (Act(child.negative_slope),)
        try:
            reading = read(child, rank)
        except Unreadable as unreadable:
            reading = Reading((Call(child, str(unreadable)),), [], {}, [])
        self._found.update(reading.numbers)
        self._called += [step for step in reading.steps if isinstance(step, Call)]
        return reading.steps

    def chain(self, *children: torch.nn.Module) -> Chain:
        return chain(self.applied(children))

    def applied(self, layers: Iterable[torch.nn.Module], *after: Step) -> list[Step]:
        """Each layer's steps, and `after` after each."""
        return [step for layer in layers for step in (*self.steps(layer), *after)]

    @property
    def calls(self) -> list[Call]:
        return self._called

    @property
    def cases(self) -> list[tuple[int, int, float | None]]:
        """Samples, level and weight of the calls that the probe makes. Weights are exact in every dtype."""
        return [*self._telling, *self._others]

    @property
    def _telling(self) -> list[tuple[int, int, float | None]]:
        """The calls whose derivatives are compared too, the most telling first."""
        levels = sorted({0, min(1, self.top), min(2, self.top), self.top}) if self.any_level else [self.top]
        grouped = any(type(step) is Stddev for step in self.net.chains[0].steps)  # else any batch does
        calls: list[tuple[int, int, float | None]] = [(4, level, 0.25) for level in reversed(levels) if level]
        calls.append((8, levels[0], None))
        if not self._large(self.top):
            calls.append((4 if grouped else 6, self.top, None))
        return sorted(calls, key=lambda call: self._large(call[1]))

    @property
    def _others(self) -> list[tuple[int, int, float | None]]:
        """Every level and either end of its fade, whose outputs have to agree: a copy may do something else there."""
        levels = range(1, self.top + 1) if self.any_level else range(self.top, self.top + 1)
        every = [(4, level, alpha) for level in levels if level for alpha in (0.0, 0.25, 1.0)]
        return [call for call in every if call not in self._telling]

    @property
    def top(self) -> int:
        return len(self.net.chains) - 1

    def examples(self, like: Tensor) -> list[tuple[Any, ...]]:
        return [self.arguments(like, 2 if self._large(k) else n, k, alpha) for n, k, alpha in self.cases]

    def large_example(self, like: Tensor) -> tuple[Any, ...]:
        return self.arguments(like, 4, self.top, None)

    @contextmanager
    def setting(self, case: int | None) -> Iterator[None]:
        level, alpha = (self.top, None) if case is None else self.cases[case][1:]
        outputs_alone = self._large(level) or (case is not None and case >= len(self._telling))
        with self.state(level, alpha), torch.set_grad_enabled(torch.is_grad_enabled() and not outputs_alone):
            yield

    def _large(self, level: int) -> bool:
        """Where derivatives in float64 would take long: outputs alone are compared."""
        products = 0
        for k, features in enumerate(self.net.chains[: level + 1]):
            sizes = [step.weight().numel() for step in features.steps if isinstance(step, Conv)]
            products += sum(sizes) << 2 * (k + 2)
        return products > LARGEST


def latent(z: object, features: int | None = None, rank: int = 2) -> Tensor:
    """A dense [N, features], or with rank 4 [N, features, 1, 1]; NotAsRecorded for all else."""
    if _dense(z, rank) and (features is None or z.shape[1] == features) and z.shape[2:] == (1, 1)[: rank - 2]:
        return z
    raise NotAsRecorded("another latent")


def image(x: object, level: int, levels: int) -> Tensor:
    """Images of one of the levels; NotAsRecorded for all else."""
    if isinstance(level, int) and 0 <= level < levels and _dense(x, 4) and x.shape[2:] == (4 << level, 4 << level):
        return x
    raise NotAsRecorded("another level or size")


def kernel(m: torch.nn.Module) -> tuple[int, ...]:
    """The shape of the first convolution's weight within a module."""
    return tuple(next(p.shape for p in m.parameters() if p.ndim == 4))


def widened(y: Tensor, m: torch.nn.Module) -> Tensor:
    """Of networks that add their biases by hand: under autocast what they give has the parameters' dtype."""
    return y.to(torch.promote_types(y.dtype, next(m.parameters()).dtype))


def random_latent(like: Tensor, n: int, features: int) -> Tensor:
    return torch.randn(n, features, dtype=like.dtype, device=like.device)


def random_image(like: Tensor, n: int, channels: int, level: int) -> Tensor:
    return torch.randn(n, channels, 4 << level, 4 << level, dtype=like.dtype, device=like.device)


@contextmanager
def attribute(m: Any, name: str, value: Any) -> Iterator[None]:
    """Within it, m.name is another one."""
    before = getattr(m, name)
    setattr(m, name, value)
    try:
        yield
    finally:
        setattr(m, name, before)


def _dense(x: object, rank: int) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.ndim == rank and x.is_floating_point() and x.layout is torch.strided


def has(m: object, *names: str) -> bool:
    """Whether a module has all of these attributes."""
    return all(hasattr(m, name) for name in names)


def expect(condition: bool, otherwise: str) -> None:
    """Raises Unreadable where a network of the family is not as the adapter knows it."""
    if not condition:
        raise Unreadable(otherwise)


def number(value: object) -> float:
    """A scale that a module holds."""
    expect(isinstance(value, (int, float)), f"a scale that is no number but {type(value).__name__}")
    return float(value)  # type: ignore[arg-type]
