"""The package's two ways to allocate outputs, wrapped: layout.empty under each of its names, and Tensor.new_empty."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pggan_fast.backends import layout


def wrap_allocators(patch: pytest.MonkeyPatch, allocated: Callable[[Tensor], Any]) -> None:
    """Until `patch` is undone, `allocated` gets every output before the package does."""
    real_empty, real_new_empty = layout.empty, torch.Tensor.new_empty

    def empty(*args: Any, **options: Any) -> Tensor:
        t = real_empty(*args, **options)
        allocated(t)
        return t

    def new_empty(self: Tensor, *args: Any, **options: Any) -> Tensor:
        t = real_new_empty(self, *args, **options)
        allocated(t)
        return t

    for name, module in list(sys.modules.items()):
        if name.startswith("pggan_fast") and getattr(module, "empty", None) is real_empty:
            patch.setattr(module, "empty", empty)
    patch.setattr(torch.Tensor, "new_empty", new_empty)
