"""Runs of an nn.Sequential that as a whole is no chain: between children that give or take several tensors, say."""

from __future__ import annotations

from typing import Any

import torch

from pggan_fast.swap.fused import Forward, Fused
from pggan_fast.swap.read import Reading, attempt
from pggan_fast.swap.steps import Call


class Runs(Forward):
    """An nn.Sequential as fused runs and children that are called. Each run is compared with its children by itself."""

    def __init__(self, module: torch.nn.Sequential, parts: list[Fused | torch.nn.Module]) -> None:
        super().__init__(module, ())
        self.parts = parts
        self.pattern = ", ".join(p.pattern if isinstance(p, Fused) else str(Call(p)) for p in parts)

    @property
    def calls(self) -> list[Call]:
        inner = [call for part in self.parts if isinstance(part, Fused) for call in part.calls]
        return inner + [Call(part) for part in self.parts if isinstance(part, torch.nn.Module)]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs:
            return self.original(*args, **kwargs)
        x = args[0]
        for part in self.parts:
            x = part(x)
        return x


def runs(module: torch.nn.Module) -> list[tuple[int, torch.nn.Sequential]]:
    """Longest runs of at least two children of an nn.Sequential that are chains, and the places of their first."""
    if type(module).forward is not torch.nn.Sequential.forward:
        return []
    children = list(module.children())
    found = []
    at = 0
    while at < len(children):
        end = at
        while end < len(children) and _is_chain(children[at : end + 1]):
            end += 1
        if end - at > 1:
            found.append((at, torch.nn.Sequential(*children[at:end])))
        at = end + 1 if end == at else end
    return found


def _is_chain(children: list[torch.nn.Module]) -> bool:
    """Whether the children are a chain, and the first is more than a call: that can stay outside."""
    for rank in (4, 2):
        found = attempt(torch.nn.Sequential(*children), rank)
        if isinstance(found, Reading) and not isinstance(found.steps[0] if found.steps else None, Call):
            return True
    return False
