"""Every launch of whole networks and training steps by the CUDA backend, and of the shapes that they do not have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from static import networks
from static.chips import CHIPS
from static_cuda import gate, record

from pggan_fast import ops
from pggan_fast.backends import registry

DTYPES = ("float32", "float16", "bfloat16", "float32-ieee")
IEEE = "-ieee"  # after float32: products in full precision
RESOLUTIONS = (8, 128, 1024)
SIZES = (64, 6)
CHANNELS = (1, 3, 16, 17, 24, 32, 40, 64, 100, 128, 512)


@functools.cache
def calls(dtype: str, shared_block: int) -> list[record.Call]:
    """Of the backend, where a block may have that many bytes of shared memory: what it takes depends on it."""
    chip = next(cc for cc in gate.RUNS if CHIPS[cc].shared_block == shared_block)
    kind, precision = getattr(torch, dtype.removesuffix(IEEE)), "ieee" if dtype.endswith(IEEE) else "tf32"
    runs = networks.model_runs(kind, RESOLUTIONS)
    runs += [run for size in SIZES for run in networks.op_runs(kind, CHANNELS, size)]
    runs += [lambda c=c: _ends(c, kind) for c in CHANNELS]
    with record.recorded(chip) as found, networks.chosen(_cuda), _products(precision):
        for run in runs:
            run()
    return list(dict.fromkeys(found))


def _ends(c: int, dtype: torch.dtype) -> None:
    """What samples and scores in few launches: the last stage of a generator, the first layers of a discriminator."""
    with torch.no_grad(), torch.device("meta"):
        for cin in {c, min(2 * c, 64)}:
            up, conv = (ops.Scaled(torch.empty(c, inputs, 3, 3), torch.empty(c)) for inputs in (cin, c))
            high, low = (ops.Scaled(torch.empty(3, inputs, 1, 1), torch.empty(3)) for inputs in (c, cin))
            x = torch.empty(1, cin, 40, 40, dtype=dtype).contiguous(memory_format=torch.channels_last)
            for shows in ((), (high,), (high, low, torch.empty(()))):
                ops.generator_stage(x, up, conv, *shows, backend="cuda")
            image = torch.empty(1, 3, 40, 40, dtype=dtype)
            from_rgb = ops.Scaled(torch.empty(cin, 3, 1, 1), torch.empty(cin))
            ops.discriminator_stem(image, from_rgb, up, backend="cuda")


def by_kernel(chip: int, dtypes: Iterable[str] = DTYPES) -> dict[str, list[record.Launch]]:
    found: dict[str, list[record.Launch]] = {}
    called = [call for dtype in dtypes for call in calls(dtype, CHIPS[chip].shared_block)]
    for launch in record.launches_of(called, chip):
        found.setdefault(launch.kernel, []).append(launch)
    return found


def _cuda(op: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    found = registry._TABLE.get(("cuda", op))
    return found.run if found is not None and found.supports(*args) is None else None


@contextmanager
def _products(precision: str) -> Iterator[None]:
    """Products of float32 in TF32 or exact, as torch is set."""
    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
