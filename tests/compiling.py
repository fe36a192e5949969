"""How tests compile: afresh, in one graph, and quickly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._dynamo

# torch.autograd.grad within a compiled function: torch 2.10 has neither this switch nor what it allows.
TRACING = {"trace_autograd_ops": True} if hasattr(torch._dynamo.config, "trace_autograd_ops") else {}
WHY_NOT_TRACING = f"torch {torch.__version__} traces no torch.autograd.grad"
ALPHAS = [0.01 + i / 50 for i in range(50)]


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """No graph of another test, and torch.autograd.grad traced."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(**TRACING):
        yield
    torch._dynamo.reset()


def compiled(f: Callable[..., Any], **options: Any) -> Any:
    return torch.compile(f, **{"fullgraph": True, "backend": "aot_eager", **options})
