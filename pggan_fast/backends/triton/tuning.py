"""Which plan a convolution runs by: the user's measurements where there are any, else the rule of kernels/configs.py.

Nothing is measured where an op runs, and so never in a graph capture: `tune` does it when asked, and keeps the result
in the device's table (backends/tables.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pggan_fast.backends import tables
from pggan_fast.kernels.configs import ConvConfig, ConvPlan, ConvProblem


def bucket(op: str, problem: ConvProblem) -> str:
    """The name of a measurement."""
    return " ".join([op, *(f"{name}={int(value)}" for name, value in problem._asdict().items())])


def forget() -> None:
    """Ask the tables again at the next call."""
    plan_for.cache_clear()


def prefer(op: str, problem: ConvProblem, device: torch.device, plan: ConvPlan) -> None:
    """Run by `plan` in this process, until the tables are read again."""
    tables.table(device)["plans"][bucket(op, problem)] = _entry(plan)
    plan_for.cache_clear()


def _entry(plan: ConvPlan) -> dict[str, Any]:
    return {"config": list(plan.config), "splits": plan.splits, "fused": plan.fused}


@functools.lru_cache(4096)  # asked for at every call
def plan_for(op: str, problem: ConvProblem, device: torch.device, candidates: tuple[ConvPlan, ...]) -> ConvPlan:
    """The measured plan where it is still among the candidates, else the first of them."""
    entry = tables.table(device)["plans"].get(bucket(op, problem))
    if entry is None:
        return candidates[0]
    plan = ConvPlan(ConvConfig(*entry["config"]), entry["splits"], entry["fused"])
    return plan if plan in candidates else candidates[0]


def tune(
    op: str, problem: ConvProblem, device: torch.device, candidates: Sequence[ConvPlan],
    seconds: Callable[[ConvPlan], float],
) -> ConvPlan:  # fmt: skip
    """Measure every candidate and keep the fastest.

    `seconds(plan)` times one, infinity where it is no candidate after all. Raises RuntimeError in a graph capture.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("tune: a CUDA graph is being captured; tune before the capture")
    times = {plan: seconds(plan) for plan in candidates}
    best = min(times, key=lambda plan: times[plan])
    tables.add(device, "plans", {bucket(op, problem): {**_entry(best), "seconds": times[best]}})
    plan_for.cache_clear()
    return best
