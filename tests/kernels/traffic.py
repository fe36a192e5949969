"""Modelled traffic: what a kernel's loads and stores move between a small cache and memory, counted in the interpreter.

The model: 32-byte sectors; programs one after another, as the interpreter runs them; one cache of CACHE bytes, least
recently used leaves first. A sector is read where it is not in the cache, and written once for each stay in it that
stored to it. The cache is as much smaller than a chip's as the test's tensors are smaller than a network's. What it
does not know: order and timing on a chip, and registers. It is a count of bytes, never a speed.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pggan_fast.kernels import launch as launching
from torch import Tensor

SECTOR = 32
CACHE = 64 * 1024
LIMIT = 1.15  # of what memory-bound kernels may move, over what they must


@dataclass
class Traffic:
    """Of one launch, in bytes."""

    kernel: str
    tensors: dict[str, Tensor]
    read: int = 0  # from memory, by the model
    written: int = 0
    requested: int = 0  # by all loads and stores, before any cache
    product: bool = False  # it holds a tl.dot: not memory-bound
    loaded: set[str] = field(default_factory=set)  # names of tensors
    stored: set[str] = field(default_factory=set)

    @property
    def minimum(self) -> int:
        """Every tensor that is read, once, and every tensor that is written, once."""
        return sum(_bytes(self.tensors[name]) for names in (self.loaded, self.stored) for name in names)

    @property
    def ratio(self) -> float:
        return (self.read + self.written) / self.minimum if self.minimum else 0.0

    def __str__(self) -> str:
        moved = f"{self.read} + {self.written} bytes moved, {self.requested} requested, {self.minimum} needed"
        return f"{self.kernel}: {self.ratio:.3f} ({moved})"


class Meter:
    """Takes the accesses of one launch in their order."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.cache: OrderedDict[int, bool] = OrderedDict()  # sector -> stored to
        self.ranges = {n: (t.data_ptr(), t.data_ptr() + _span(t)) for n, t in traffic.tensors.items() if t.numel()}

    def access(self, pointers: Any, mask: Any, itemsize: int, store: bool) -> None:
        addresses = np.asarray(pointers)[np.broadcast_to(np.asarray(mask).astype(bool), np.shape(pointers))]
        if not addresses.size:
            return
        self.traffic.requested += addresses.size * itemsize
        name = self.owner(int(addresses.min()), int(addresses.max()) + itemsize)
        (self.traffic.stored if store else self.traffic.loaded).add(name)
        for sector in np.unique(addresses // SECTOR).tolist():
            self.touch(sector, store)

    def owner(self, first: int, last: int) -> str:
        for name, (begin, end) in self.ranges.items():
            if begin <= first and last <= end:
                return name
        raise AssertionError(f"{self.traffic.kernel} leaves its tensors: {first:#x} .. {last:#x}")

    def touch(self, sector: int, store: bool) -> None:
        if sector not in self.cache:
            self.traffic.read += 0 if store else SECTOR
            if len(self.cache) >= CACHE // SECTOR:
                self.cache.popitem(last=False)
            self.cache[sector] = False
        self.cache.move_to_end(sector)
        if store and not self.cache[sector]:
            self.cache[sector] = True
            self.traffic.written += SECTOR


@contextmanager
def metered() -> Iterator[list[Traffic]]:
    """Inside the block every launch runs as always and leaves its Traffic in the list."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    launches: list[Traffic] = []
    current: list[Meter] = []
    originals = {name: getattr(Builder, name) for name in ("create_masked_load", "create_masked_store", "create_dot")}

    def load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        value = originals["create_masked_load"](self, pointers, mask, *rest)
        current[-1].access(pointers.data, mask.data, value.data.itemsize, False)
        return value

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        current[-1].access(pointers.data, mask.data, value.data.itemsize, True)
        return originals["create_masked_store"](self, pointers, value, mask, *rest)

    def dot(self: Any, *args: Any) -> Any:
        current[-1].traffic.product = True
        return originals["create_dot"](self, *args)

    real = launching.launch

    def launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *args: Any, **options: Any) -> None:
        named = zip(kernel.arg_names, (x, *args), strict=False)
        traffic = Traffic(kernel.fn.__name__, {n: t for n, t in named if isinstance(t, Tensor)})
        launches.append(traffic)
        current.append(Meter(traffic))
        try:
            real(kernel, grid, x, *args, **options)
        finally:
            current.pop()

    holders = [m for m in sys.modules.values() if getattr(m, "launch", None) is real]
    replaced = {"create_masked_load": load, "create_masked_store": store, "create_dot": dot}
    for module in holders:
        module.launch = launch
    for name, function in replaced.items():
        setattr(Builder, name, function)
    try:
        yield launches
    finally:
        for module in holders:
            module.launch = real
        for name, function in originals.items():
            setattr(Builder, name, function)


def _bytes(t: Tensor) -> int:
    """Rounded to whole sectors, as memory moves them."""
    return -(-t.numel() * t.element_size() // SECTOR) * SECTOR


def _span(t: Tensor) -> int:
    """From a tensor's first byte to its last."""
    return (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) * t.element_size()
