"""Steps grouped into calls of the fused ops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from pggan_fast import ops
from pggan_fast.backends import layout
from pggan_fast.swap.steps import (
    Act,
    Bias,
    Call,
    Conv,
    Norm,
    NotAsRecorded,
    Pool,
    Product,
    Ref,
    Scale,
    Step,
    Up,
    View,
    joined,
)


@dataclass(frozen=True)
class Epilogue:
    """What may follow a product in one op: an activation and a norm in either order."""

    slope: float | None = None
    norm: str = "none"
    eps: float = 1e-8
    eps_mode: str = "inside"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "negative_slope": self.slope,
            "pixel_norm": self.norm,
            "eps": self.eps,
            "eps_mode": self.eps_mode,
        }

    def __bool__(self) -> bool:
        return self.slope is not None or self.norm != "none"


@dataclass(frozen=True)
class ConvUnit:
    """One call of `ops.scaled_conv2d`."""

    conv: Conv
    resample: str
    epilogue: Epilogue

    def __call__(self, x: Tensor) -> Tensor:
        if self.resample in ("down", "pool"):
            Pool.check(x)
        p = self.conv.scaled
        if p.weight.shape[2:] != (self.conv.kernel, self.conv.kernel):
            raise NotAsRecorded(f"a kernel of {tuple(p.weight.shape[2:])}")
        return ops.scaled_conv2d(
            x,
            p.weight,
            p.bias,
            weight_scale=p.weight_scale,
            bias_scale=p.bias_scale,
            resample=self.resample,
            **self.epilogue.options,
        )


@dataclass(frozen=True)
class EpilogueUnit:
    """PyTorch's own product, or none, and a view of it, then one call of `ops.bias_act`."""

    product: Product | None
    view: View | None
    scale: float
    bias: Bias | None
    epilogue: Epilogue

    def __call__(self, x: Tensor) -> Tensor:
        if self.product is not None:
            x = self.product.product(x)
            x = layout.channels_last(x) if x.ndim == 4 else x
        if self.view is not None:
            x = _viewed(self.view, x)
        bias, bias_scale = (None, 1.0) if self.bias is None else (self.bias.bias().flatten(), self.bias.scale)
        if x.ndim not in (2, 4):
            raise NotAsRecorded(f"a tensor of rank {x.ndim}")
        if bias is None and self.scale == 1.0 and not self.epilogue:
            return x
        return ops.bias_act(x, bias, scale=self.scale, bias_scale=bias_scale, **self.epilogue.options)


@dataclass(frozen=True)
class ViewUnit:
    """A view, whose 4-D result is channels_last as everything inside of a region."""

    view: View

    def __call__(self, x: Tensor) -> Tensor:
        return _viewed(self.view, x)


def _viewed(view: View, x: Tensor) -> Tensor:
    y = view(x)
    return layout.channels_last(y) if y.ndim == 4 else y


@dataclass(frozen=True)
class Chain:
    """A callable of steps: [N, C, H, W] or [N, K] in, one tensor out. Where it `wants_rows`, channels_last has it fast.

    `chain([Up(), *steps_of(conv, x), Act(0.2), Norm()])` makes one. Raises NotAsRecorded for inputs of which the steps
    say nothing (odd sizes before a pool, batches that are no multiple of the group, views of other sizes).
    """

    steps: tuple[Step, ...]
    units: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "units", tuple(_grouped(self.steps)))

    def __call__(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x)
        return x

    def __str__(self) -> str:
        return " ".join(map(str, self.steps))

    @property
    def worth(self) -> bool:
        """Whether some call does more than one thing that PyTorch does one by one."""
        return any(_passes(unit) > 1 for unit in self.units)

    @property
    def wants_rows(self) -> bool:
        """Whether channels_last pays even where the input comes in another format and has to leave in it: a norm or a
        1x1 convolution takes less time than the way there and back."""
        return any(
            isinstance(step, (Product, Call)) or (isinstance(step, Conv) and step.kernel > 1) for step in self.steps
        )

    @property
    def weights(self) -> list[Ref]:
        return [step.weight for step in self.steps if isinstance(step, (Conv, Product))]

    @property
    def ends_in_op(self) -> bool:
        """Whether what comes out, or what it is a view of, is kept by one of our ops for its gradient."""
        last = next((unit for unit in reversed(self.units) if not isinstance(unit, ViewUnit)), None)
        return isinstance(last, (ConvUnit, EpilogueUnit))

    @property
    def keeps_input(self) -> bool:
        """Whether one of our ops keeps what goes in for its gradient, where a module's own code may keep a product."""
        first = next((unit for unit in self.units if not isinstance(unit, ViewUnit)), None)
        return isinstance(first, ConvUnit)

    @property
    def calls(self) -> list[Call]:
        return [step for step in self.steps if isinstance(step, Call)]


def chain(steps: Iterable[Step]) -> Chain:
    """A runnable of the steps, scales and biases merged into the products before or after them."""
    merged: tuple[Step, ...] = ()
    for step in steps:
        merged = joined(merged, step)
    return Chain(merged)


def _passes(unit: Any) -> int:
    """Passes over memory in one: scales, biases apart, activations, norms (several), resampling."""
    if isinstance(unit, ConvUnit):
        conv, e = unit.conv, unit.epilogue
        scaled = conv.weight_scale != 1.0 or (conv.bias is not None and conv.bias_scale != 1.0)
        return 1 + scaled + (unit.resample != "none") + (e.slope is not None) + 2 * (e.norm != "none")
    if isinstance(unit, EpilogueUnit):
        e = unit.epilogue
        bias = unit.bias is not None
        return (unit.scale != 1.0) + bias + (e.slope is not None) + 2 * (e.norm != "none")
    return 2 if type(unit).__name__ == "Stddev" else 0


def _grouped(steps: Sequence[Step]) -> list[Any]:
    """Greedy: each product takes all that its op can do besides."""
    units: list[Any] = []
    at = 0
    while at < len(steps):
        step = steps[at]
        unit: Any
        following = _at(steps, at + 1)
        if isinstance(step, Conv):
            unit, at = _conv(step, False, steps, at + 1)
        elif isinstance(step, Up) and isinstance(following, Conv):
            unit, at = _conv(following, True, steps, at + 2)
        elif isinstance(step, (Product, Scale, Bias, Act, Norm)):
            unit, at = _epilogued(steps, at)
        else:
            unit, at = ViewUnit(step) if isinstance(step, View) else step, at + 1
        units.append(unit)
    return units


def _conv(conv: Conv, up: bool, steps: Sequence[Step], at: int) -> tuple[ConvUnit, int]:
    resample = "up" if up else "none"
    if not up and isinstance(_at(steps, at), Pool):
        resample, at = "down", at + 1
    epilogue, at = _epilogue(steps, at)
    if resample == "none" and epilogue and isinstance(_at(steps, at), Pool):
        resample, at = "pool", at + 1
    return ConvUnit(conv, resample, epilogue), at


def _epilogue(steps: Sequence[Step], at: int) -> tuple[Epilogue, int]:
    first, second = _at(steps, at), _at(steps, at + 1)
    if isinstance(first, Act):
        if isinstance(second, Norm):
            return Epilogue(first.slope, "after_act", second.eps, second.mode), at + 2
        return Epilogue(first.slope), at + 1
    if isinstance(first, Norm):
        if isinstance(second, Act):
            return Epilogue(second.slope, "before_act", first.eps, first.mode), at + 2
        return Epilogue(None, "after_act", first.eps, first.mode), at + 1
    return Epilogue(), at


def _epilogued(steps: Sequence[Step], at: int) -> tuple[EpilogueUnit, int]:
    product: Product | None = None
    view: View | None = None
    bias: Bias | None = None
    step, scale = steps[at], 1.0
    if isinstance(step, Product):
        product, scale, at = step, step.weight_scale, at + 1
        if step.bias is not None:
            bias = Bias(step.bias, step.bias_scale)
        elif isinstance(following := _at(steps, at), View) and len(following.tail or ()) in (1, 3):
            view, at = following, at + 1  # the scale waits for the bias of the map that the product is viewed as
        product = replace(step, weight_scale=1.0, bias=None)
    elif isinstance(step, Scale):
        scale, at = step.factor, at + 1
    if bias is None and isinstance(following := _at(steps, at), Bias):
        bias, at = following, at + 1
    epilogue, at = _epilogue(steps, at)
    return EpilogueUnit(product, view, scale, bias, epilogue), at


def _at(steps: Sequence[Step], at: int) -> Step | None:
    return steps[at] if at < len(steps) else None
