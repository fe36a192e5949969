"""Every launch of whole networks and training steps by Triton: the shapes that users run, none of the work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from static import networks
from static.chips import CHIPS
from static.record import Launch, recorded
from torch import Tensor

from pggan_fast.backends import registry
from pggan_fast.backends.triton import availability


@contextmanager
def triton_forced(shared: int | None = None) -> Iterator[None]:
    """Ops on meta and CPU tensors go to the Triton backend, and to aten where it says no.

    `shared`: bytes of shared memory that the chip gives a block; None leaves the backend's own idea.
    """
    from pggan_fast.backends.triton import blend, conv, epilogue, stddev  # noqa: F401 - they register

    def supported(x: Tensor, *others: Any) -> str | None:
        return None if x.dtype in availability.DTYPES else "dtype"

    def implementation(op: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
        found = registry._TABLE.get(("triton", op))
        if found is None:
            return None
        by_device = found.supports in (availability.unsupported, availability.unsupported_product)
        return found.run if (supported if by_device else found.supports)(*args) is None else None

    # By the modules of the backend, under these names
    held = {"unsupported": supported, "unsupported_product": supported}
    if shared is not None:
        held["shared_memory"] = lambda device: shared
    modules = [m for name, m in sys.modules.items() if name.startswith("pggan_fast.backends.triton.")]
    with ExitStack() as patches:
        patches.enter_context(networks.chosen(implementation))
        for module in modules:
            for name, value in held.items():
                if module is not availability and hasattr(module, name):
                    patches.enter_context(patch.object(module, name, value))
        yield


def launches_of(run: networks.Run, cc: int) -> list[Launch]:
    with triton_forced(CHIPS[cc].shared_block), recorded() as launches:
        run()
    return launches


def model_launches(
    dtype: torch.dtype, cc: int, resolutions: Sequence[int] = networks.RESOLUTIONS, batch: int | None = None
) -> list[Launch]:
    return [launch for run in networks.model_runs(dtype, resolutions, batch) for launch in launches_of(run, cc)]


def op_launches(dtype: torch.dtype, cc: int) -> list[Launch]:
    return [launch for run in networks.op_runs(dtype) for launch in launches_of(run, cc)]
