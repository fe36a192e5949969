"""pggan_fast: fused layers that make progressive growing of GANs in PyTorch fast."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pggan_fast import backends, nn, ops
from pggan_fast.backends import BackendUnavailable
from pggan_fast.backends.forced import use_backend
from pggan_fast.backends.frozen import frozen
from pggan_fast.explain import explain
from pggan_fast.ops import no_weight_grads
from pggan_fast.warmup import warm_up

if TYPE_CHECKING:
    from pggan_fast import convert, inference, models, networks, swap, training
    from pggan_fast.swap import FuseReport, fuse, unfuse

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "FuseReport",
    "__version__",
    "backends",
    "convert",
    "explain",
    "frozen",
    "fuse",
    "inference",
    "models",
    "networks",
    "nn",
    "no_weight_grads",
    "ops",
    "swap",
    "training",
    "unfuse",
    "use_backend",
    "warm_up",
]


def __getattr__(name: str) -> Any:
    """What needs the networks or looks into those of others is imported when it is first asked for."""
    if name in ("convert", "inference", "models", "networks", "swap", "training"):
        return importlib.import_module(f"pggan_fast.{name}")
    if name in ("FuseReport", "fuse", "unfuse"):
        return getattr(importlib.import_module("pggan_fast.swap"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
