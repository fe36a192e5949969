"""Everything that a first call does besides its work, done before it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pggan_fast.explain import explain


def warm_up(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run `function(*args, **kwargs)` and its backward pass, and once without gradients, so that all their kernels are
    checked and compiled: a network for sampling, a whole loss for training.

    A kernel is trusted once it has agreed with the reference on the device (pggan_fast.backends.selfcheck), at the
    first call of its kind. In the capture of a CUDA graph nothing can be checked: call this before, with inputs of the
    sizes and dtypes to come. `.grad` and the random number generators stay as they are; what a forward pass writes
    besides (running statistics) is written. Raises what the call raises.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        with torch.enable_grad():
            explain(function, *args, **kwargs)
        if isinstance(function, torch.nn.Module):  # a loss that differentiates cannot do without
            with torch.no_grad():
                function(*args, **kwargs)
