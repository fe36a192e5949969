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


class _Kept:
    """What was prepared of one weight, and of which version of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.results: dict[Hashable, tuple[int, Tensor]] = {}


class _Frozen(threading.local):
    """Of one thread: for the weights that are frozen, by identity, what was prepared of them."""

    def __init__(self) -> None:
        self.kept: dict[int, _Kept] = {}


_frozen = _Frozen()


class Prepared:
    """What was prepared of a module's weights, for as long as this object lives: they must not change meanwhile.

    It is used, and added to, inside of `with prepared.in_use():` only, by any number of threads at once.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._weights = list(module.parameters())  # referenced, so that their identities stay theirs
        self._kept = {id(p): _Kept() for p in self._weights}

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Freeze the weights for this thread; those that are frozen already stay with whoever froze them."""
        mine = {key: kept for key, kept in self._kept.items() if key not in _frozen.kept}
        _frozen.kept.update(mine)
        try:
            yield
        finally:
            for key in mine:
                del _frozen.kept[key]


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
    with Prepared(module).in_use():
        yield


def unfrozen(weight: Tensor) -> Tensor:
    """`weight`, or where gradients are wanted an alias of it, of which nothing is kept."""
    tracing = torch.compiler.is_compiling()  # what runs then may have another thread's blocks, or later ones
    if (tracing or _frozen.kept) and weight.requires_grad and torch.is_grad_enabled():
        return weight.view_as(weight)
    return weight


def any_frozen() -> bool:
    """Whether this thread is in a block in which some weights are frozen."""
    return bool(_frozen.kept)


def is_frozen(weight: Tensor) -> bool:
    return id(weight) in _frozen.kept


def prepared(weight: Tensor, key: Hashable, prepare: Callable[[], Tensor]) -> Tensor:
    """What `prepare` makes of a frozen weight, made once for each key."""
    kept = _frozen.kept[id(weight)]
    version = 0 if weight.is_inference() else weight._version
    found = kept.results.get(key)
    if found is None:
        with kept.lock:  # of several threads that want it one makes it
            found = kept.results.get(key)
            if found is None:
                found = kept.results[key] = version, prepare()
    made_of, result = found
    if made_of != version:
        raise RuntimeError(
            f"weight: expected one that nobody writes inside of pggan_fast.frozen, got one of shape "
            f"{tuple(weight.shape)} that was written; leave the block before, and begin another after"
        )
    return result
