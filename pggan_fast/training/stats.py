"""Numbers of a training between two ticks, such as losses: their moments over all steps and all processes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

Moments = dict[str, float]  # num, mean, std (of the population): a value of stats.jsonl


def moments(values: Tensor | Sequence[float]) -> Moments:
    """Of numbers, in float64. Mean and std of none are NaN."""
    x = torch.as_tensor(values, dtype=torch.float64)
    mean = x.mean() if len(x) else torch.tensor(math.nan, dtype=torch.float64)
    return {"num": len(x), "mean": float(mean), "std": float((x - mean).square().mean().sqrt())}


class Collector:
    """What is reported, until it is collected.

    device: where the processes' sums are exchanged; NCCL needs the process's GPU.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._values: dict[str, list[Tensor]] = {}

    def report(self, name: str, value: float | Tensor) -> None:
        """Note a number, or a tensor [] or [N] of real numbers of any dtype, which is copied and stays on its device.

        Does not synchronise. Raises ValueError for a tensor of another kind.
        """
        if not isinstance(value, Tensor):
            value = torch.tensor([value], dtype=torch.float64)
        elif value.dim() > 1 or value.is_complex():
            raise ValueError(
                f"value: expected a number or real numbers [N] for {name}, got {value.dtype} {tuple(value.shape)}"
            )
        self._values.setdefault(name, []).append(value.detach().clone().reshape(-1))

    def latest(self, prefix: str = "") -> dict[str, float]:
        """The last value of each name that begins so, of this process alone; clears nothing. Synchronises once."""
        names = sorted(name for name in self._values if name.startswith(prefix))
        last = _on_cpu([[self._values[name][-1][-1:]] for name in names])
        return {name: float(value) for name, value in zip(names, last, strict=True) if len(value)}

    def collect(self) -> dict[str, Moments]:
        """The moments of each name in the order of the names, over all processes where there are some; clears.

        Every process calls it, with the same names: one all-reduce. Raises ValueError where names differ.
        """
        names = sorted(self._values)
        found = dict(zip(names, map(moments, _on_cpu([self._values[name] for name in names])), strict=True))
        self._values.clear()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            return self._over_processes(found)
        return found

    def _over_processes(self, found: dict[str, Moments]) -> dict[str, Moments]:
        """Each process fills a row of its own and has all after the sum, so that none is lost to cancellation."""
        rank, world = dist.get_rank(), dist.get_world_size()
        mine = [zlib.crc32("\n".join(found).encode()), *(x for m in found.values() for x in m.values())]
        rows = torch.zeros(world, len(mine), dtype=torch.float64, device=self._device)
        rows[rank] = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(rows)
        rows = rows.cpu()
        if (rows[:, 0] != rows[0, 0]).any():
            raise ValueError(f"names: expected the same ones from every process, got {', '.join(found)} in {rank}")
        parts = rows[:, 1:].view(world, len(found), 3)
        return {name: _together(parts[:, i]) for i, name in enumerate(found)}


def _on_cpu(values: Sequence[list[Tensor]]) -> list[Tensor]:
    """Each list as one float64 tensor: one copy, and so one synchronisation, for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, Tensor]]] = {}
    for i, tensors in enumerate(values):
        for t in tensors:
            groups.setdefault((t.device, t.dtype), []).append((i, t))
    pieces: list[list[Tensor]] = [[] for _ in values]
    for members in groups.values():
        moved = torch.cat([t for _, t in members]).cpu().to(torch.float64)
        for (i, _), piece in zip(members, moved.split([len(t) for _, t in members]), strict=True):
            pieces[i].append(piece)
    return [torch.cat(each) for each in pieces]


def _together(parts: Tensor) -> Moments:
    """Of moments [parts, (num, mean, std)] of disjoint numbers."""
    parts = parts[parts[:, 0] > 0]
    num, mean, std = parts.unbind(1)
    total = num.sum()
    whole = (num * mean).sum() / total
    spread = (num * (std.square() + (mean - whole).square())).sum() / total
    return {"num": int(total), "mean": float(whole), "std": float(spread.sqrt())}
