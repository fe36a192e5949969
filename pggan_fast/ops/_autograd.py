"""What a backward call is asked for: weight gradients only where somebody wants them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.autograd.forward_ad

_lock = threading.Lock()
_holders = 0  # contexts of no_weight_grads that are open, in any thread


@contextlib.contextmanager
def no_weight_grads() -> Iterator[None]:
    """Within this context, backward passes of pggan_fast ops compute no weight or bias gradients.

    The gradient penalty's inner `torch.autograd.grad(scores, images)` needs none, and the ops find that out by
    themselves in eager mode; the context says it explicitly, for code that calls `.backward()` or traces.
    The affected parameters get no gradient (None) from such a pass. The setting is process-wide, because the autograd
    engine runs CUDA backward passes in threads of its own.
    """
    global _holders
    with _lock:
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1


def wanted(ctx: Any, *indices: int, data: int = 1) -> list[bool]:
    """Whether this backward call wants the gradients of the inputs `indices`; the first `data` of them are features or
    images, the others parameters.

    `ctx.needs_input_grad` only says that the input requires grad; under `autograd.grad(score, images)` it stays True
    for weights, and eager PyTorch skips those gradients because it asks the engine. So do we. The engine refuses to
    answer for leaves that autograd.grad has been asked for, which are wanted. The name is private: where it is missing
    or cannot answer (compiled graphs), the gradient is computed.
    """
    needs = ctx.needs_input_grad
    answers = [needs[i] for i in indices]
    if _holders:
        answers[data:] = [False] * (len(indices) - data)
    if torch.compiler.is_compiling():
        return answers
    edges, absent = getattr(ctx, "next_functions", ()), getattr(ctx, "absent", ())
    for k, i in enumerate(indices):
        if answers[k]:
            try:
                node = edges[i - sum(a < i for a in absent) if absent else i][0]
                answers[k] = node is None or _will_run(node)  # None is no edge
            except (IndexError, RuntimeError):
                pass  # it stays wanted
    return answers


_will_run: Any = getattr(torch._C, "_will_engine_execute_node", lambda node: True)


def needs_reference() -> bool:
    """Forward-mode AD, torch.func and torch.jit.trace have no rules for our nodes: plain PyTorch does it right.

    While tracing, even x.shape holds tensors, which a native kernel would take for memory.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )
