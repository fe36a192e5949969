"""Weights that do not change for a while, prepared once: `with frozen(G): ...`.

Layers prepare their weights in every call, in one small pass, since there is no telling when a weight was written: a
write through `.data`, as averaging by hand does it, moves no version. Only here they are kept, and on the CPU only.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator

import torch
from torch import Tensor


class _Frozen(threading.local):
    """Of one thread: for the weights that are frozen, by identity, what was prepared of them."""

    def __init__(self) -> None:
        self.prepared: dict[int, dict[Hashable, tuple[int, Tensor]]] = {}


_frozen = _Frozen()


@contextlib.contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """Prepare the weights of `module`'s 3x3 layers once for the whole `with` block, in which they must not change.

    For sampling: where gradients are wanted nothing is kept. Until the block ends the weights that were used take their
    memory once more with resampling and 16 / 9 times without it (4 times where float32 may round more), in float32
    also those of half types. Layers that torch's convolutions compute keep nothing: 1x1 and dense ones, those of few
    pixels, bfloat16 where the CPU multiplies it. A write that PyTorch counts (an optimiser's step, `load_state_dict`,
    `copy_` under `no_grad`) to a weight that was kept raises RuntimeError when it is used again; one through `.data` is
    not seen. Of this thread only; blocks may be nested. Raises TypeError where `module` is no torch.nn.Module.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    weights = [p for p in module.parameters() if id(p) not in _frozen.prepared]
    _frozen.prepared.update({id(p): {} for p in weights})
    try:
        yield
    finally:
        for p in weights:
            del _frozen.prepared[id(p)]


def is_frozen(weight: Tensor) -> bool:
    return id(weight) in _frozen.prepared


def prepared(weight: Tensor, key: Hashable, prepare: Callable[[], Tensor]) -> Tensor:
    """What `prepare` makes of a frozen weight, made once for each key."""
    kept = _frozen.prepared[id(weight)]
    version = 0 if weight.is_inference() else weight._version
    if key not in kept:
        kept[key] = version, prepare()
    made_of, result = kept[key]
    if made_of != version:
        raise RuntimeError(f"a weight of shape {tuple(weight.shape)} was written inside of pggan_fast.frozen")
    return result
