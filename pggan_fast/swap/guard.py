"""Whether modules still are what they were when their steps were read off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from pggan_fast.swap.trial import HOOKS, class_settings, contents, own_attributes, plain

_hooks = attrgetter(*HOOKS)
_global_hooks = attrgetter(*(f"_global{name}" for name in HOOKS))


@dataclass
class _Seen:
    """A module with its class's forward, numbers and flags (but `training`: both modes were looked at), other objects
    and what is in them, children, hooks and the parameters that it has."""

    module: torch.nn.Module
    forward: Any
    keys: tuple[str, ...]
    values: tuple[Any, ...]
    held: tuple[tuple[str, Any, Any], ...]  # name, object, contents
    settings: tuple[tuple[str, Any], ...]  # of the class
    children: tuple[torch.nn.Module | None, ...]
    parameters: tuple[tuple[str, bool], ...]
    hooks: tuple[tuple[int, ...], ...]
    root: bool

    def same(self) -> bool:
        m = self.module
        attributes = vars(m)
        try:
            values = tuple([attributes[key] for key in self.keys])
        except KeyError:
            return False
        return (
            values == self.values
            and type(m).forward is self.forward
            and tuple(m._modules.values()) == self.children
            and _parameters(m) == self.parameters
            and all(attributes.get(k) is v and (c is None or contents(v) == c) for k, v, c in self.held)
            and all(getattr(m, key, None) == value for key, value in self.settings)
            and (self.root or (_hooked(m) == self.hooks and "forward" not in attributes))
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without the function, which pickle may not find by its name; copies take that of their class."""
        return {**vars(self), "forward": type(self.module).forward is self.forward}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, forward=type(state["module"]).forward if state["forward"] else None)


class Guard:
    """Over modules whose forward will not run any more, the first being the one that is called, and over tensors that
    were read as numbers. `varying`: attributes of the first that are none of its business; `class_varies`: nor are the
    settings of its class."""

    def __init__(
        self,
        modules: Iterable[torch.nn.Module],
        numbers: dict[tuple[torch.nn.Module, str], float] | None = None,
        varying: tuple[str, ...] = (),
        class_varies: bool = False,
    ) -> None:
        self._seen = [
            _seen(m, i == 0, () if i else varying, i == 0 and class_varies)
            for i, m in enumerate(dict.fromkeys(modules))
        ]
        self._numbers = [[owner, name, number, None, -1] for (owner, name), number in (numbers or {}).items()]

    def holds(self) -> bool:
        """Whether nothing changed, and nobody hooks into all modules."""
        if any(_global_hooks(torch_module)):
            return False
        return all(seen.same() for seen in self._seen) and all(map(_same_number, self._numbers))

    def traced(self) -> bool:
        """Reads numbers and flags in a way that torch.compile guards: it compiles again when one changes."""
        for seen in self._seen:
            for key, value in zip(seen.keys, seen.values, strict=True):
                if getattr(seen.module, key, None) != value:
                    return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Copies read the tensors again: theirs are others."""
        return {"_seen": self._seen, "_numbers": [[*entry[:3], None, -1] for entry in self._numbers]}


def _seen(m: torch.nn.Module, root: bool, varying: tuple[str, ...], class_varies: bool) -> _Seen:
    own = {k: v for k, v in own_attributes(m).items() if k not in varying}
    numbers = {k: v for k, v in own.items() if plain(v)}
    held = tuple((k, v, contents(v)) for k, v in own.items() if k not in numbers)
    return _Seen(
        m,
        type(m).forward,
        tuple(numbers),
        tuple(numbers.values()),
        held,
        () if class_varies else tuple(class_settings(m).items()),
        tuple(m._modules.values()),
        _parameters(m),
        _hooked(m),
        root,
    )


def _parameters(m: torch.nn.Module) -> tuple[tuple[str, bool], ...]:
    """Names, and which of them are None: a bias that comes later is no part of the steps."""
    return tuple([(name, p is None) for name, p in m._parameters.items()])


def _hooked(m: torch.nn.Module) -> tuple[tuple[int, ...], ...]:
    return tuple([tuple(hooks) for hooks in _hooks(m)])


def _same_number(entry: list[Any]) -> bool:
    """Read again only where the tensor is another one or was written, but on the CPU: elsewhere reading waits."""
    owner, name, number, tensor, version = entry
    now = getattr(owner, name, None)
    if not isinstance(now, Tensor):
        return False
    written = -1 if now.is_inference() else now._version
    if now is not tensor or written != version or now.device.type == "cpu":
        if float(now) != number:
            return False
        entry[3:] = now, written
    return True
