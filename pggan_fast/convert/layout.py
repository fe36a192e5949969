"""How one network of a foreign file maps onto ours, and the mapping of its tensors in both directions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pggan_fast import networks
from pggan_fast.convert.errors import ConversionError
from pggan_fast.errors import counted, few, line
from pggan_fast.models import Discriminator, Generator
from pggan_fast.ops import _checks

Floats = npt.NDArray[np.float64]


class Step(NamedTuple):
    """A change of a tensor's form, with its inverse."""

    text: str
    apply: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]


def permute(*dims: int) -> Step:
    inverse = [dims.index(k) for k in range(len(dims))]
    text = "transpose" if dims == (1, 0) else f"permute {' '.join(map(str, dims))}"
    return Step(text, lambda t: t.permute(dims), lambda t: t.permute(inverse))


def flip() -> Step:
    """Of the two last dimensions."""
    return Step("flip", lambda t: t.flip(-2, -1), lambda t: t.flip(-2, -1))


def view(theirs: Sequence[int], ours: Sequence[int]) -> Step:
    text = f"view {'x'.join(map(str, ours))}"
    return Step(text, lambda t: _viewed(t, theirs, ours), lambda t: _viewed(t, ours, theirs))


def _viewed(t: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    if tuple(t.shape) != tuple(old):
        raise ConversionError(f"expected shape {tuple(old)}, got {tuple(t.shape)}")
    return t.reshape(tuple(new))


TRANSPOSE = permute(1, 0)


def times(factor: float) -> Step:
    def scaled(k: float) -> Callable[[Tensor], Tensor]:
        return lambda t: (t.double() * k).to(t.dtype)  # rounded once

    return Step(f"x {factor:.6g}", scaled(factor), scaled(1.0 / factor))


@dataclass(frozen=True)
class Layer:
    """One of our layers, and where its parameters come from.

    scale: what theirs multiplies the weight by at run time; None is what our layer does. bias_scale: of the bias.
    """

    ours: str
    weight: str
    bias: str
    steps: tuple[Step, ...] = ()
    scale: float | None = None
    bias_scale: float = 1.0
    bias_steps: tuple[Step, ...] = ()


class Row(NamedTuple):
    """One tensor of ours. ratio: what theirs is multiplied by, which is the last of the steps."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    ratio: float

    @property
    def text(self) -> str:
        return ", ".join(step.text for step in self.steps) or "as it is"


@dataclass
class Layout:
    """One network of a file.

    arguments: of our Generator or Discriminator; "backend" aside.
    tensors: theirs, by their names.
    absent: layers of ours that the file has not, whose weights and biases become zeros.
    unused: tensors without a part in what the network computes.
    assumed: what the file does not say, or what to know, a line each.
    forward: the same function in numpy, straight from `tensors`, as their code computes it; see `numpy_forward`.
    """

    arguments: dict[str, Any]
    layers: list[Layer]
    tensors: Mapping[str, Tensor]
    absent: list[str] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)
    assumed: list[str] = field(default_factory=list)
    forward: Callable[..., Floats] | None = None

    def network(self, kind: str) -> Generator | Discriminator:
        """Our network with their weights. Raises ConversionError where the file's tensors are not those expected."""
        net, rows = self.plan(kind)
        state = {}
        for row in rows:
            theirs = self.tensors[row.theirs]
            if theirs.dtype not in _checks.DTYPES:
                raise ConversionError(f"{row.theirs}: expected floating-point numbers, got {theirs.dtype}")
            try:
                t = theirs.float() if theirs.dtype.itemsize < 4 else theirs
                for step in row.steps:
                    t = step.apply(t)
            except (RuntimeError, ConversionError) as error:  # of a wrong number of dimensions
                raise ConversionError(
                    f"{row.theirs}: shape {tuple(theirs.shape)} does not fit: {line(error)}"
                ) from None
            if tuple(t.shape) != row.shape:
                raise ConversionError(
                    f"{row.theirs}: shape {tuple(theirs.shape)} does not fit: becomes {tuple(t.shape)} ({row.text}), "
                    f"expected {row.shape} for {kind}.{row.ours}"
                )
            if bad := int((~t.isfinite()).sum()):
                are = "is" if bad == 1 else "are"
                raise ConversionError(
                    f"{kind}: {row.theirs}: {bad} of its {counted(t.numel(), 'number')} {are} NaN or infinite; "
                    "take a checkpoint from before its training diverged"
                )
            state[row.ours] = t.clone(memory_format=torch.contiguous_format)
        dtype = next(iter(state.values())).dtype
        for layer in self.absent:
            module = net.get_submodule(layer)
            state |= {f"{layer}.{key}": torch.zeros(p.shape, dtype=dtype) for key, p in module.named_parameters()}
        net.load_state_dict(state, assign=True)
        return net

    def tell_changes(self, kind: str) -> None:
        """Say how many tensors an optimiser moves by other steps than it did, and which are not in half precision any
        more: rescaled in float16 they would be other numbers."""
        rows = self.plan(kind)[1]
        if changed := sum(row.ratio != 1.0 for row in rows):
            these = "tensor is a multiple" if changed == 1 else "tensors are multiples"
            self.assumed.append(
                f"{changed} {these} of the file's, as our run-time scales are others: the function is the same, steps "
                "of an optimiser on them are not"
            )
        halves = [t.dtype for row in rows if (t := self.tensors[row.theirs]).dtype in (torch.float16, torch.bfloat16)]
        if halves:
            names = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in halves}))
            self.assumed.append(f"{counted(len(halves), 'tensor')} of {names}: converted to float32")

    def plan(self, kind: str) -> tuple[Generator | Discriminator, list[Row]]:
        """Our network without weights, and where each of its tensors comes from."""
        try:
            net = networks.built(kind, networks.KINDS[kind], self.arguments)
        except networks.NetworkFileError as error:
            raise ConversionError(str(error)) from None
        rows: list[Row] = []
        for layer in self.layers:
            try:
                module = net.get_submodule(layer.ours)
            except AttributeError:
                raise ConversionError(f"{kind} has no layer {layer.ours}") from None
            ratio = 1.0 if layer.scale is None else layer.scale / module.weight_scale
            rows.append(_row(f"{layer.ours}.weight", layer.weight, module.weight, layer.steps, ratio))
            rows.append(_row(f"{layer.ours}.bias", layer.bias, module.bias, layer.bias_steps, layer.bias_scale))
        self._check_names(kind, net, rows)
        return net, rows

    def _check_names(self, kind: str, net: torch.nn.Module, rows: list[Row]) -> None:
        """Every tensor of ours has a source, every tensor of theirs a use."""
        used = dict.fromkeys(row.theirs for row in rows)
        lacking = [name for name in used if name not in self.tensors]
        if lacking:
            raise ConversionError(
                f"{kind}: {few(lacking)} {'is' if len(lacking) == 1 else 'are'} missing from its "
                f"{counted(len(self.tensors), 'tensor')}"
            )
        if more := sorted(self.tensors.keys() - used.keys() - self.unused):
            raise ConversionError(
                f"{kind}: its other keys are those of a network up to {name(self.arguments['resolution'])}, which has "
                f"no {few(more)}; of another network, or a key of the same layers is missing"
            )
        zeros = {f"{layer}.{key}" for layer in self.absent for key in ("weight", "bias")}
        missing = sorted({key for key, _ in net.named_parameters()} - {row.ours for row in rows} - zeros)
        if missing:
            raise ConversionError(f"{kind}: nothing gives {missing[0]}")


def _row(ours: str, theirs: str, parameter: Tensor, steps: tuple[Step, ...], ratio: float) -> Row:
    if not (math.isfinite(ratio) and ratio > 0.0):
        raise ConversionError(f"{theirs}: its scale is {ratio:g} times ours, expected a positive number")
    if abs(ratio - 1.0) < 1e-12:  # two ways to write one scale
        return Row(ours, theirs, tuple(parameter.shape), steps, 1.0)
    return Row(ours, theirs, tuple(parameter.shape), (*steps, times(ratio)), ratio)


def in_float64(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Floats]]:
    """The tensors for `forward`, made when they are first asked for: they are larger than the file."""
    return functools.cache(lambda: {key: t.double().numpy() for key, t in tensors.items()})


def name(resolution: int) -> str:
    return f"{resolution}x{resolution}"


def widths(dense: int | None, levels: Sequence[int]) -> dict[str, Any]:
    """The arguments of networks with these feature maps, 4x4 first; `dense`: D's dense units."""
    top, last = max(levels), len(levels)
    base = levels[-1] << last
    stages = [top if dense is None else dense, *levels]
    if stages == [min(base >> stage, top) for stage in range(last + 1)]:
        return {"fmap_base": base, "fmap_max": top}
    return {"fmaps": stages}
