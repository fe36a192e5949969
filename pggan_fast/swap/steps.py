"""What a module does to one tensor, as a list of steps, each of which is also a callable that does it with PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.backends import layout


class NotAsRecorded(Exception):
    """An input for which the recorded steps say nothing: the module's own forward runs."""


@dataclass(frozen=True)
class Ref:
    """A parameter by its owner and name, looked up in each call: reassigned and substituted tensors are seen."""

    owner: torch.nn.Module
    name: str

    def __call__(self) -> Tensor:
        parameter = self.owner._parameters.get(self.name)
        if parameter is None:
            raise NotAsRecorded(f"{self.name} is None now, or gone")
        return parameter


@dataclass(frozen=True)
class _Weighted:
    """weight_scale * product(x, weight) + bias_scale * bias."""

    weight: Ref
    weight_scale: float = 1.0
    bias: Ref | None = None
    bias_scale: float = 1.0

    @property
    def scaled(self) -> ops.Scaled:
        """The parameters as they are now, with their scales."""
        bias = None if self.bias is None else self.bias().flatten()
        return ops.Scaled(self.weight(), bias, self.weight_scale, self.bias_scale)


@dataclass(frozen=True)
class Conv(_Weighted):
    """A convolution that the fused ops have: 3x3 with padding 1, or 1x1."""

    kernel: int = 3

    def __str__(self) -> str:
        return f"conv{self.kernel}x{self.kernel}"


@dataclass(frozen=True)
class Product(_Weighted):
    """Any other convolution, transposed convolution or dense layer: PyTorch's own product, then our epilogue."""

    kind: str = "linear"  # or "conv", "conv_transpose"
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    output_padding: tuple[int, ...] = (0, 0)
    groups: int = 1

    def product(self, x: Tensor) -> Tensor:
        """Without scale and bias; a kernel that covers the map (or spreads one pixel) is a matrix product."""
        w = self.weight()
        if self.kind == "linear":
            return F.linear(x, w)
        plain = self.groups == 1 and self.dilation == (1, 1) and not any(self.output_padding)
        one, dense = x.shape[2:] == (1, 1), plain and not any(self.padding)
        if self.kind == "conv":
            if dense and x.shape[1:] == w.shape[1:]:
                return F.linear(x.flatten(1), w.flatten(1))[:, :, None, None]
            if plain and one and self.stride == (1, 1) and self.padding == tuple(k - 1 for k in w.shape[2:]):
                y = torch.matmul(x.flatten(1), w.flatten(2))  # [C, N, taps]: each pixel sees one tap, the last first
                return y.transpose(0, 1).flip(2).view(-1, w.shape[0], *w.shape[2:])
            return F.conv2d(x, w, None, self.stride, self.padding, self.dilation, self.groups)
        if dense and one:
            return (x.flatten(1) @ w.flatten(1)).view(-1, *w.shape[1:])
        return F.conv_transpose2d(
            x, w, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True)
class Scale:
    """x * factor."""

    factor: float

    def __str__(self) -> str:
        return "scale"


@dataclass(frozen=True)
class Bias:
    """x + scale * bias over dim 1."""

    bias: Ref
    scale: float = 1.0

    def __str__(self) -> str:
        return "bias"


@dataclass(frozen=True)
class Act:
    """Leaky ReLU with a slope in [0, 1]."""

    slope: float = 0.2

    def __call__(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def __str__(self) -> str:
        return "lrelu" if self.slope else "relu"


@dataclass(frozen=True)
class Norm:
    """Pixel norm: "inside" divides by sqrt(mean + eps), "outside" by sqrt(mean) + eps."""

    eps: float = 1e-8
    mode: str = "inside"

    def __str__(self) -> str:
        return "norm"


@dataclass(frozen=True)
class Up:
    """Nearest neighbours, twice the height and width."""

    def __call__(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def __str__(self) -> str:
        return "up"


@dataclass(frozen=True)
class Pool:
    """The mean of 2x2 pixels; of odd sizes nothing is known."""

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x)
        return reference.down2(x)

    @staticmethod
    def check(x: Tensor) -> None:
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise NotAsRecorded("the mean of 2x2 pixels of an image of odd size")

    def __str__(self) -> str:
        return "pool"


@dataclass(frozen=True)
class View:
    """[N, ...] to [N, *tail]; without a tail it flattens whatever comes."""

    tail: tuple[int, ...] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.tail is None:
            return x.flatten(1)
        if math.prod(x.shape[1:]) != math.prod(self.tail):
            raise NotAsRecorded("a view of another size")
        return x.reshape(x.shape[0], *self.tail)

    def __str__(self) -> str:
        return "flatten" if self.tail is None else "view"


@dataclass(frozen=True)
class Stddev:
    """Minibatch standard deviation; a group of None is the whole batch."""

    group: int | None = 4
    grouping: str = "strided"
    unbiased: bool = False
    eps: float = 1e-8

    def __call__(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        group = n if self.group is None else min(self.group, n)
        if n < 2 or group < 2 or n % group:
            raise NotAsRecorded(f"minibatch statistics of {n} samples in groups of {group}")
        return ops.minibatch_stddev(x, group, grouping=self.grouping, unbiased=self.unbiased, eps=self.eps)

    def __str__(self) -> str:
        return "stddev"


@dataclass(frozen=True)
class Guess:
    """Minibatch statistics of which one batch size could not tell more than that they are one of these."""

    candidates: tuple[Stddev, ...]

    def __str__(self) -> str:
        return "stddev"


@dataclass(frozen=True)
class Call:
    """A module called as it is, on the strides that its own neighbours would give it: it may view, or draw random
    numbers in the order of memory. Layers of torch do neither, but for dropout."""

    module: torch.nn.Module
    reason: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        where = type(self.module).__module__
        of_torch = where.startswith("torch.nn.modules.") and not self.module._modules and not where.endswith(".dropout")
        y: Tensor = self.module(x if of_torch else x.contiguous())
        return layout.channels_last(y) if y.ndim == 4 else y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.module is other.module

    def __hash__(self) -> int:
        return hash(self.module)

    def __str__(self) -> str:
        return f"{type(self.module).__name__}()"


Step = Conv | Product | Scale | Bias | Act | Norm | Up | Pool | View | Stddev | Guess | Call


def joined(steps: tuple[Step, ...], step: Step) -> tuple[Step, ...]:
    """The steps with one more, scales and biases moved into the product that they belong to: all forms of equalised
    learning rate end as one product with a scale of its weight and one of its bias."""
    if isinstance(step, Scale):
        return _scaled(steps, step.factor)
    if isinstance(step, Bias) and steps:
        *before, last = steps
        if isinstance(last, Pool) and before and isinstance(before[-1], (Conv, Product)):
            return (*joined(tuple(before), step), last)  # the mean of a bias is the bias
        if isinstance(last, (Conv, Product)) and last.bias is None:
            return (*before, replace(last, bias=step.bias, bias_scale=step.scale))
    if isinstance(step, (Conv, Product)):
        factor, rest = _pending(steps)
        return (*rest, replace(step, weight_scale=step.weight_scale * factor))
    return (*steps, step)


def _scaled(steps: tuple[Step, ...], factor: float) -> tuple[Step, ...]:
    """A scale commutes with all that is linear."""
    if factor == 1.0:
        return steps
    last = steps[-1] if steps else None
    if isinstance(last, (Conv, Product)):
        both = replace(last, weight_scale=last.weight_scale * factor, bias_scale=last.bias_scale * factor)
        return (*steps[:-1], both)
    if isinstance(last, Scale):
        return _scaled(steps[:-1], last.factor * factor)
    if isinstance(last, Bias):
        return (*_scaled(steps[:-1], factor), Bias(last.bias, last.scale * factor))
    if isinstance(last, (Up, Pool, View)):
        return (*_scaled(steps[:-1], factor), last)
    return (*steps, Scale(factor))


def _pending(steps: tuple[Step, ...]) -> tuple[float, tuple[Step, ...]]:
    """Scales that a product can take over, and the steps without them."""
    kept: list[Step] = []
    for at in reversed(range(len(steps))):
        step = steps[at]
        if isinstance(step, Scale):
            return step.factor, (*steps[:at], *reversed(kept))
        if not isinstance(step, (Up, Pool, View)):
            break
        kept.append(step)
    return 1.0, steps
