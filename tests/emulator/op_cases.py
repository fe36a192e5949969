"""The ops' own tests (tests/ops) with the emulated CUDA kernels, on cases that suit these; and inputs off 16 bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import emulate
import grid
import pytest
import torch
from torch import Tensor

from pggan_fast.backends import registry
from pggan_fast.backends.layout import memory_format

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
POLICIES = (emulate.FIFO, emulate.LIFO, emulate.RANDOM)
CHANNELS = (1, 3, 16, 17, 24, 64, 130)  # whole and cut vectors of every type, and bytes of the masks
SIZES = (1, 2, 4, 5, 8, 17)


def cover(op: str, limit: float, **axes: Any) -> list[grid.Case]:
    """Every pair of values of the op's axes, some of which are replaced, in cases of at most `limit` elements."""
    tests = grid.load(f"test_{op}")
    elements = getattr(tests, "elements", lambda case: 1.0)
    return grid.cover({**tests.AXES, "dtype": DTYPES, "size": SIZES, **axes}, elements, limit)


def run(op: str, case: grid.Case, seed: int, policy: int = emulate.FIFO) -> None:
    """The op's test of one case: outputs, gradients and second order against float64."""
    tests = grid.load(f"test_{op}")
    with pytest.MonkeyPatch.context() as patch, emulate.emulated(policy, seed + 1):
        patch.setattr(tests, "CASES", {seed: case})
        for convolution in ("conv", "conv_weight_grad"):  # of backward passes; they have tests of their own
            patch.setitem(registry._TABLE, ("cuda", convolution), registry._TABLE["aten", convolution])
        tests.test_grid("cuda", seed)


def changed(patch: pytest.MonkeyPatch, name: str, change: Callable[[list[Any]], None]) -> None:
    """From now on the native function `name` gets arguments that `change` has falsified; within emulated()."""
    real = emulate.call

    def call(called: str, *args: Any) -> Any:
        given = list(args)
        if called == name:
            change(given)
        return real(called, *given)

    patch.setattr(emulate, "call", call)


@contextmanager
def with_argument(name: str, i: int, value: Any) -> Iterator[None]:
    """Within it the native function `name` gets `value` as its i-th argument."""
    with pytest.MonkeyPatch.context() as patch:
        changed(patch, name, lambda args: args.__setitem__(i, value))
        yield


def off_16_bytes(t: Tensor, channels_last: bool, by: int = 1) -> Tensor:
    """The same values, dense, `by` elements behind the beginning of their memory."""
    t = t.contiguous(memory_format=memory_format(channels_last))
    room = t.new_full((t.numel() + by,), float("nan"))
    return room.as_strided(t.shape, t.stride(), by).copy_(t)


def random(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False, seed: int = 0) -> Tensor:
    t = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return t.contiguous(memory_format=memory_format(channels_last))


def wasted(emulator: emulate.Emulator) -> float:
    """The share of the sectors touched in device memory that the same bytes in whole sectors would not have taken."""
    places = [place for place in emulator.traffic() if place["space"] == "global"]
    return 1.0 - sum(place["ideal"] for place in places) / sum(place["sectors"] for place in places)
