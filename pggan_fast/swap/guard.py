"""Whether modules still are what they were when their steps were read off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from pggan_fast.swap.trial import HOOKS

_hooks = attrgetter(*HOOKS)
_global_hooks = attrgetter(*(f"_global{name}" for name in HOOKS))
_PLAIN = (bool, int, float, str, type(None))


@dataclass
class _Seen:
    """A module with its numbers and flags (but `training`: both modes were looked at), children and hooks."""

    module: torch.nn.Module
    keys: tuple[str, ...]
    values: tuple[Any, ...]
    children: tuple[torch.nn.Module | None, ...]
    hooks: tuple[int, ...]
    root: bool

    def same(self) -> bool:
        attributes = vars(self.module)
        try:
            values = tuple([attributes[key] for key in self.keys])
        except KeyError:
            return False
        return (
            values == self.values
            and tuple(self.module._modules.values()) == self.children
            and (self.root or (tuple(map(len, _hooks(self.module))) == self.hooks and "forward" not in attributes))
        )


class Guard:
    """Over modules whose forward will not run any more, the first being the one that is called, and over tensors that
    were read as numbers. `varying`: attributes of the first that are none of its business."""

    def __init__(
        self,
        modules: Iterable[torch.nn.Module],
        numbers: dict[tuple[torch.nn.Module, str], float] | None = None,
        varying: tuple[str, ...] = (),
    ) -> None:
        self._seen = [_seen(m, i == 0, () if i else varying) for i, m in enumerate(dict.fromkeys(modules))]
        self._numbers = [[owner, name, number, None, -1] for (owner, name), number in (numbers or {}).items()]

    def holds(self) -> bool:
        """Whether nothing changed, and nobody hooks into all modules."""
        if any(_global_hooks(torch_module)):
            return False
        return all(seen.same() for seen in self._seen) and all(map(_same_number, self._numbers))

    def __getstate__(self) -> dict[str, Any]:
        """Copies read the tensors again: theirs are others."""
        return {"_seen": self._seen, "_numbers": [[*entry[:3], None, -1] for entry in self._numbers]}


def _seen(m: torch.nn.Module, root: bool, varying: tuple[str, ...]) -> _Seen:
    free = ("training", *varying)
    plain = {k: v for k, v in vars(m).items() if isinstance(v, _PLAIN) and k not in free and not _private(k)}
    hooks = tuple(map(len, _hooks(m)))
    return _Seen(m, tuple(plain), tuple(plain.values()), tuple(m._modules.values()), hooks, root)


def _private(key: str) -> bool:
    """Of torch's own bookkeeping."""
    return key in ("_is_full_backward_hook", "call_super_init") or key.startswith("_is_hf")


def _same_number(entry: list[Any]) -> bool:
    """Read again only where the tensor is another one or was written: on CUDA reading waits."""
    owner, name, number, tensor, version = entry
    now = getattr(owner, name, None)
    if not isinstance(now, Tensor):
        return False
    if now is not tensor or now._version != version:
        if float(now) != number:
            return False
        entry[3:] = now, now._version
    return True
