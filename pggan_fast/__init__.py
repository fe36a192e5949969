"""pggan_fast: fused layers that make progressive growing of GANs in PyTorch fast."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from pggan_fast import backends, nn, ops
from pggan_fast.backends import BackendUnavailable
from pggan_fast.backends.forced import use_backend
from pggan_fast.backends.frozen import frozen
from pggan_fast.explain import explain
from pggan_fast.ops import no_weight_grads
from pggan_fast.warmup import warm_up

if TYPE_CHECKING:
    from pggan_fast import inference, models, training

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "__version__",
    "backends",
    "explain",
    "frozen",
    "inference",
    "models",
    "nn",
    "no_weight_grads",
    "ops",
    "training",
    "use_backend",
    "warm_up",
]


def __getattr__(name: str) -> ModuleType:
    """What needs the networks is imported when it is first asked for."""
    if name in ("inference", "models", "training"):
        return importlib.import_module(f"pggan_fast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
