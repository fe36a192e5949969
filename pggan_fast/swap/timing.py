"""How long a module and its replacement take."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pggan_fast.swap.fused import Forward
from pggan_fast.swap.probe import own_dtype
from pggan_fast.swap.trial import undisturbed

ROUNDS = 15


def seconds(fused: Forward) -> tuple[float, float]:
    """Medians of a forward and backward pass without and with the replacement, measured in turn; it stays installed."""
    module = fused.module
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    taken: tuple[list[float], list[float]] = ([], [])
    with undisturbed(module), torch.enable_grad(), fused.setting(None):
        args = fused.large_example(torch.empty(0, dtype=own_dtype(module), device=device))
        for i in range(ROUNDS + 2):
            for ours, times in enumerate(taken):
                fused.install() if ours else fused.remove()
                elapsed = _pass(module, args, device)
                if i >= 2:
                    times.append(elapsed)
    return statistics.median(taken[0]), statistics.median(taken[1])


def _pass(module: torch.nn.Module, args: tuple[object, ...], device: torch.device) -> float:
    """One pass; gradients go to nobody."""
    start = time.perf_counter()
    outputs = [t for t in tree_leaves(module(*args)) if isinstance(t, Tensor) and t.requires_grad]
    parameters = [p for p in module.parameters() if p.requires_grad]
    if outputs and parameters:
        torch.autograd.grad([t.sum() for t in outputs], parameters, allow_unused=True)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
