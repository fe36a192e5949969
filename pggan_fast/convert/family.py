"""What the PyTorch families share: networks are found in a file, recognised by their keys, mapped, written back.

A family says for its G and its D which keys hold which of our layers, and which options of our networks its own order
of operations is. All tensors are kept raw; where its run-time scale is another than ours, the weight is multiplied by
the ratio, so that the function is the same, and an optimiser's steps on that layer are not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pggan_fast.convert import torch_file
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.layout import Floats, Layer, Layout, Step, flip, in_float64, name, permute, view, widths
from pggan_fast.convert.unpickle import Array, Object
from pggan_fast.convert.words import said
from pggan_fast.errors import counted, few, line
from pggan_fast.models import Discriminator, Generator

State = Mapping[str, Tensor]
_DEPTH = 4  # of the dictionaries in which networks are looked for
_MOST_VALUES = 100_000  # in them
_AVERAGE = re.compile(r"avg|average|ema|shadow|smooth|running|lagged", re.I)
_WIDTHS = {"fmap_base", "fmap_decay", "fmap_max", "fmaps"}  # which may say the same feature maps in several ways
_SIZES = {"resolution", "base_shape", *_WIDTHS, "latent_dim", "label_dim", "channels"}


@dataclass
class Sizes:
    """What a network of a family is made of.

    maps: feature maps of each level, 4x4 first. dense: D's dense units. options: of our network, beyond the family's
    own; further what the family's functions tell each other (`how`).
    """

    maps: tuple[int, ...]
    channels: int
    latent: int = 0
    labels: int = 0
    dense: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)
    absent: list[str] = field(default_factory=list)

    @property
    def levels(self) -> list[tuple[int, int]]:
        """(resolution, feature maps), 4x4 first."""
        return [(4 << k, n) for k, n in enumerate(self.maps)]

    def arguments(self, is_g: bool, fixed: Mapping[str, Any]) -> dict[str, Any]:
        sizes = {"resolution": 4 << len(self.maps) - 1, **widths(self.dense, self.maps), "channels": self.channels}
        inputs = {"latent_dim": self.latent} if is_g else {}
        return {**sizes, **inputs, "label_dim": self.labels, **fixed, **self.options}


@dataclass(frozen=True)
class Side:
    """A family's G or D.

    marker: a key that no other family has. sizes: what a state of it is made of, given what the file says beside it.
    layers: where its tensors go. fixed: options of our networks, where they are not the usual ones. free: options whose
    value a network of the family may choose. prepare, restore: what is done to a state before it is mapped and after it
    was mapped back. forward: the family's own, in numpy. labels: whether it may have some. refused: why ours cannot be
    it; the rest is not looked at then.
    """

    marker: re.Pattern[str]
    sizes: Callable[[State, Mapping[str, Any]], Sizes] | None = None
    layers: Callable[[Sizes], list[Layer]] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    free: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    forward: Callable[..., Floats] | None = None
    prepare: Callable[[State], State] = lambda state: state
    restore: Callable[[dict[str, Tensor], Sizes], dict[str, Tensor]] = lambda state, sizes: state
    labels: bool = False
    refused: str | None = None

    @property
    def example(self) -> str:
        """The marker as a key, for messages: it is a regular expression of a simple kind."""
        return re.sub(r"\.$", "...", self.marker.pattern.strip("^$").replace(r"\d+", "0").replace("\\", ""))


@dataclass(frozen=True)
class Family:
    """keys: where the family's own files have each network."""

    name: str
    G: Side
    D: Side
    keys: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"G": ("generator",), "D": ("discriminator",), "G_ema": ("generator_ema",)}
    )
    assumed: tuple[str, ...] = ()

    def side(self, kind: str) -> Side:
        return self.D if kind == "D" else self.G


def recognised(value: Any, families: Sequence[Family]) -> tuple[Family, dict[str, tuple[State, dict[str, Any]]]] | None:
    """The family whose networks the value holds, and these by our names, each with what stands beside it."""
    found: dict[str, tuple[State, dict[str, Any]]] = {}
    family = None
    for path, state, beside in _states(value, "", {}, 0, [_MOST_VALUES]):
        match = next((f for f in families for side in (f.G, f.D) if any(map(side.marker.search, state))), None)
        if match is None:
            continue
        if family is not None and match is not family:
            raise ConversionError(f"networks of two families, {family.name} and {match.name}")
        family = match
        is_d = any(map(family.D.marker.search, state)) and not any(map(family.G.marker.search, state))
        kind = "D" if is_d else "G_ema" if _AVERAGE.search(path) else "G"
        if kind in found:
            raise ConversionError(f"two networks that could be {kind}, the second {line(path)!r}")
        found[kind] = state, beside
    return None if family is None else (family, found)


def seen(value: Any) -> str:
    """What stands in a file in which no network was recognised."""
    states = [(path, state) for path, state, _ in _states(value, "", {}, 0, [_MOST_VALUES])]
    if states:
        found = (f"{f'{path[1:]!r} has' if path else 'it has'} {few(state)}" for path, state in states[:3])
        more = [f"and {counted(len(states) - 3, 'state dict')} more"] if len(states) > 3 else []
        return "; ".join([*found, *more])
    if isinstance(value, Object):
        return f"it holds an object of the class {value.cls}"
    held = f"the entries {few(value)}" if isinstance(value, dict) and value else line(value)
    return f"it holds {held}, no state dict"


def _states(
    value: Any, path: str, beside: dict[str, Any], depth: int, left: list[int]
) -> Iterator[tuple[str, State, dict[str, Any]]]:
    """State dicts and modules, with the path of keys to them and the scalars that stand on it.

    A dictionary may hold itself, or one many times: no more values are looked at than `left` says.
    """
    state = torch_file.tensors(value)
    if state is not None:
        prefix = "module."  # of DataParallel
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): t for key, t in state.items()}
        yield path, state, beside
    elif isinstance(value, dict) and depth < _DEPTH:
        left[0] -= len(value)
        if left[0] < 0:
            raise ConversionError("dictionaries within dictionaries without end")
        for key in ("conf", "config", "gen_model_metadata", "disc_model_metadata"):
            beside = {**beside, **_plain(value.get(key))}
        for key, part in value.items():
            if isinstance(key, str) and not key.startswith("opt"):
                yield from _states(part, f"{path}.{key}", beside, depth + 1, left)


def _plain(about: Any) -> dict[str, Any]:
    """Numbers and the like of a dictionary, or of a configuration object."""
    about = about.state if isinstance(about, Object) else about
    if not isinstance(about, dict):
        return {}
    values = {k: v.value.item() if isinstance(v, Array) and v.value is not None and v.value.size == 1 else v
              for k, v in about.items() if isinstance(k, str)}  # fmt: skip
    return {k: v for k, v in values.items() if v is None or isinstance(v, (bool, int, float, str))}


def layout(family: Family, kind: str, state: State, beside: Mapping[str, Any]) -> Layout:
    """How the network maps. Raises ConversionError with the reason where ours cannot be it."""
    side = family.side(kind)
    if side.refused is not None or side.sizes is None or side.layers is None:
        raise ConversionError(side.refused or "not supported")
    state = {key: t for key, t in side.prepare(state).items() if not key.endswith("num_batches_tracked")}
    if any(key.endswith("running_mean") for key in state):
        raise ConversionError("it has batch norm, which our networks have not")
    try:
        sizes = side.sizes(state, beside)
        layers = side.layers(sizes)
    except KeyError as error:
        raise ConversionError(f"{line(error.args[0])} is missing from its {counted(len(state), 'tensor')}") from None
    except ConversionError:
        raise
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        raise ConversionError(f"shapes of another network: {line(error)}") from None
    raw = in_float64(state)
    forward = side.forward
    made = Layout(
        sizes.arguments(kind != "D", side.fixed),
        layers,
        state,
        absent=sizes.absent,
        unused=sizes.unused,
        assumed=[*family.assumed, *sizes.assumed],
        forward=None if forward is None else lambda *inputs, **level: forward(raw(), sizes, *inputs, **level),
    )
    made.tell_changes(kind)
    return made


def exported(
    family: Family, net: Generator | Discriminator, kind: str, options: Mapping[str, Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """The family's state dict of a network of ours, and layers that it has not: RGB of levels that it has left behind.

    Raises ConversionError where it would be another function: it is read again with these options, as a file of that
    family is, and must be the same network.
    """
    side, ours = family.side(kind), net.arguments
    if side.refused is not None or side.layers is None:
        raise ConversionError(f"{family.name}: {kind}: {side.refused}")
    if (base := tuple(net.levels.base_shape)) != (4, 4):
        raise ConversionError(f"{kind}: begins with {base[0]}x{base[1]} pixels, {family.name}'s networks with 4x4")
    sizes = Sizes(
        maps=tuple(net.levels.channels(r) for r in net.levels.resolutions),
        channels=net.channels,
        latent=getattr(net, "latent_dim", 0),
        labels=net.label_dim,
        dense=net.levels.stage_channels(0),
        options={key: ours[key] for key in side.free},
    )
    with torch.device("meta"):
        usual = (Discriminator if kind == "D" else Generator)(4).arguments
    if net.label_dim and not side.labels:
        raise ConversionError(f"{kind}: has labels ({net.label_dim}); {family.name}'s networks have none")
    for key in [key for key in ours if key not in _SIZES]:
        allowed = side.free.get(key, (side.fixed.get(key, usual[key]),))
        if ours[key] not in allowed:
            theirs = " or ".join(said(key, value) for value in allowed)
            raise ConversionError(f"{kind}: has {said(key, ours[key])}; {family.name}'s networks have {theirs}")
    layers = side.layers(sizes)
    state = {}
    rgb = {f"{'from' if kind == 'D' else 'to'}_rgb.{name(r)}" for r, _ in sizes.levels}
    absent = sorted(rgb - {layer.ours for layer in layers})
    names = {n: torch.empty(0) for layer in layers for n in (layer.weight, layer.bias)}
    plan = Layout(ours, layers, names, absent=absent)
    values = net.state_dict()
    for row in plan.plan(kind)[1]:
        t = values[row.ours]
        for step in reversed(row.steps):
            t = step.undo(t)
        state[row.theirs] = t.clone(memory_format=torch.contiguous_format)
    state = side.restore(state, sizes)
    again = layout(family, kind, state, {**options, "labels": net.label_dim}).network(kind)
    check_read_back(family.name, kind, net, again, absent)
    return state, absent


def check_read_back(
    family: str,
    kind: str,
    net: Generator | Discriminator,
    again: Generator | Discriminator,
    absent: Sequence[str],
) -> None:
    """Raise ConversionError where `again`, read from what was written of `net`, is another network.

    Parameters may differ by what scaling them twice rounds. The layers `absent` are not looked at.
    """
    values, ours = net.state_dict(), net.arguments
    for key, t in again.state_dict().items():
        value = values[key]
        rounded = max(1e-5, 2 * torch.finfo(value.dtype).eps)
        if key.rpartition(".")[0] not in absent and not torch.allclose(t.to(value), value, rtol=rounded, atol=0.0):
            raise ConversionError(f"{kind}: {key} is not what {family}'s keys would be read as")
    for key, value in again.arguments.items():  # what the keys cannot say is lost
        if key not in _WIDTHS and value != ours[key]:
            raise ConversionError(
                f"{kind}: has {said(key, ours[key])}; {family}'s keys would be read as {said(key, value)}"
            )


def dense_from_conv(out: int, inputs: int, flipped: bool) -> tuple[Step, ...]:
    """A 4x4 convolution over a padded pixel, [C, in, 4, 4], as the dense layer [16 C, in] that it is."""
    turn = (flip(),) if flipped else ()
    return (*turn, permute(0, 2, 3, 1), view((out, 4, 4, inputs), (16 * out, inputs)))


def dense_over_maps(out: int, inputs: int) -> tuple[Step, ...]:
    """A 4x4 convolution of a 4x4 map, [out, in, 4, 4], as a dense layer."""
    return (view((out, inputs, 4, 4), (out, 16 * inputs)),)


def he(fan_in: int, square: float = 2.0) -> float:
    return math.sqrt(square / fan_in)


def shape(state: State, key: str, dims: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there. KeyError is told by `layout`."""
    t = state[key]
    if t.ndim != dims:
        raise ConversionError(f"{key}: expected {dims} dimensions, got shape {tuple(t.shape)}")
    if not t.numel():
        raise ConversionError(f"{key}: expected numbers, got shape {tuple(t.shape)}")
    return tuple(t.shape)


def count(state: State, pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the keys."""
    found = [int(m.group(1)) for key in state if (m := re.fullmatch(pattern, key))]
    most = max(found, default=-1) + 1
    if most > 20:
        raise ConversionError(f"{most} levels, expected at most 20")
    return most
