"""The package's ways to allocate outputs, wrapped: layout.empty and layout.allocate under each of their names, and
Tensor.new_empty."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pggan_fast.backends import layout

PATTERN = 0xA5  # of integers


def poisoned(t: Tensor) -> Tensor:
    """`t` filled with what no computation leaves unseen: NaN, or a bit pattern."""
    return t.fill_(float("nan") if t.is_floating_point() else PATTERN)


def is_poisoned(t: Tensor) -> bool:
    """Whether all of `t` is still as `poisoned` left it."""
    return bool((t.isnan() if t.is_floating_point() else t == PATTERN).all())


def wrap_allocators(patch: pytest.MonkeyPatch, allocated: Callable[[Tensor], Any]) -> None:
    """Until `patch` is undone, `allocated` gets every output before the package does."""

    def told(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocate(*args: Any, **options: Any) -> Tensor:
            t = real(*args, **options)
            allocated(t)
            return t

        return allocate

    modules = [module for name, module in list(sys.modules.items()) if name.startswith("pggan_fast")]
    for name in ("empty", "allocate"):
        real = getattr(layout, name)
        wrapped = told(real)
        for module in modules:
            if getattr(module, name, None) is real:
                patch.setattr(module, name, wrapped)
    patch.setattr(torch.Tensor, "new_empty", told(torch.Tensor.new_empty))
