"""Processes that train together: torchrun's contract, and one flat all-reduce of the gradients.

No DistributedDataParallel: it registers its hooks on parameters that take part, and these change as the networks grow;
and with a separate backward pass for the penalty its gradients are silently wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
TIMEOUT = timedelta(hours=1)  # of a process that waits for another, which builds kernels or measures metrics


@dataclass(frozen=True)
class World:
    """This process's number, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def reduce(self, gradients: Sequence[Tensor]) -> None:
        """Replace each by its mean over all processes, through one buffer in float32 at least."""
        if self.size == 1 or not gradients:
            return
        dtype = torch.float64 if gradients[0].dtype == torch.float64 else torch.float32
        flat = torch.cat([g.flatten().to(dtype) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(list(gradients), [p.view(g.shape) for p, g in zip(parts, gradients, strict=True)])

    def any(self, told: bool) -> bool:
        """Whether one of the processes says so."""
        if self.size == 1:
            return told
        flag = torch.tensor(float(told), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def broadcast(self, *modules: nn.Module) -> None:
        """Give every process what the first has."""
        for t in self._state(modules):
            dist.broadcast(t, 0)

    def check_equal(self, **modules: nn.Module) -> None:
        """Raises RuntimeError where a process's weights are not, bit by bit, those of the first."""
        if self.size == 1:
            return
        for name, module in modules.items():
            flat = torch.cat([t.detach().flatten().to(torch.float64) for t in self._state((module,))])
            first = flat.clone()
            dist.broadcast(first, 0)
            if self.any(not torch.equal(flat.nan_to_num(), first.nan_to_num())):
                raise RuntimeError(f"{name}: the processes' weights are no longer the same; resume from a checkpoint")

    def _state(self, modules: Sequence[nn.Module]) -> list[Tensor]:
        return [] if self.size == 1 else [t.detach() for m in modules for t in m.state_dict(keep_vars=True).values()]


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[World]:
    """The world that torchrun has made, by RANK, WORLD_SIZE and LOCAL_RANK; alone without it.

    device: None is the process's own CUDA device where there is one, else the CPU. NCCL for CUDA, Gloo for CPUs.
    Raises ValueError where there are fewer CUDA devices than processes on this machine.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None or (device.type == "cuda" and device.index is None):
        cuda = torch.cuda.is_available() if device is None else True
        if cuda and local >= torch.cuda.device_count():
            raise ValueError(
                f"gpus: expected at most {torch.cuda.device_count()}, as many as this machine has, got "
                f"{os.environ.get('LOCAL_WORLD_SIZE', local + 1)}"
            )
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(device=device)
        return
    cuda_device = device if device.type == "cuda" else None
    dist.init_process_group("gloo" if cuda_device is None else "nccl", timeout=TIMEOUT, device_id=cuda_device)
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()


def shared(world: World, make: Callable[[], T]) -> T:
    """What the first process makes, for all: or the error that it raises, for all."""
    if world.size == 1:
        return make()
    box: list[Any] = [None]
    if world.rank == 0:
        try:
            box = [(True, make())]
        except Exception as error:
            box = [(False, error)]
    dist.broadcast_object_list(box, 0, device=world.device)
    well, value = box[0]
    if not well:
        raise value
    return cast(T, value)
