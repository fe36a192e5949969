"""Which plan a convolution runs by: the user's measurements where there are any, else the rule of kernels/configs.py.

Nothing is measured where an op runs, and so never in a graph capture: `tune` does it when asked, and keeps the result
in a file per device and version, which every process of the user reads.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pggan_fast import settings
from pggan_fast.kernels.configs import ConvConfig, ConvPlan, ConvProblem

SCHEMA = 1


class Measured(NamedTuple):
    """The fastest plan of a problem, its seconds, and the seconds of torch's own way ("aten")."""

    plan: ConvPlan
    seconds: float
    aten_seconds: float


def device_key(device: torch.device) -> dict[str, str]:
    """What a measurement holds for: another device or version starts anew."""
    import triton

    name, capability = "interpreter", "none"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return {"device": name, "capability": capability, "torch": torch.__version__, "triton": triton.__version__}


def bucket(op: str, problem: ConvProblem) -> str:
    """The name of a measurement."""
    return " ".join([op, *(f"{name}={int(value)}" for name, value in problem._asdict().items())])


def table_path(key: Mapping[str, str]) -> Path:
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(key.values())).lower()
    return settings.cache_folder() / f"triton-{name}.json"


@functools.cache
def _table(device: torch.device) -> dict[str, Measured]:
    return load(device_key(device))


def load(key: Mapping[str, str]) -> dict[str, Measured]:
    """The measurements of `key`; none, with a warning, where the file cannot be used."""
    path = table_path(key)
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text())
        if data["schema"] != SCHEMA or data["key"] != dict(key):
            raise ValueError(f"schema {data['schema']}, key {data['key']}")
        return {name: _measured(row) for name, row in data["entries"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        warnings.warn(f"pggan_fast: {path} is ignored: {error}; tune again to replace it", RuntimeWarning, stacklevel=2)
        return {}


def _measured(row: Mapping[str, Any]) -> Measured:
    config = ConvConfig(*map(int, row["config"]))
    plan = ConvPlan(config, int(row["splits"]), bool(row["fused"]))
    return Measured(plan, float(row["seconds"]), float(row["aten_seconds"]))


def save(key: Mapping[str, str], entries: Mapping[str, Measured]) -> Path:
    """Add `entries` to the file of `key`, in one step: a reader sees the old file or the new one."""
    merged = {**load(key), **entries}
    rows = {
        name: {
            "config": list(m.plan.config), "splits": m.plan.splits, "fused": m.plan.fused, "seconds": m.seconds,
            "aten_seconds": m.aten_seconds,
        }
        for name, m in sorted(merged.items())
    }  # fmt: skip
    path = table_path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"schema": SCHEMA, "key": dict(key), "entries": rows}, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    forget()
    return path


def forget() -> None:
    """Read the files again at the next call."""
    _table.cache_clear()
    plan_for.cache_clear()
    beats_aten.cache_clear()


def prefer(op: str, problem: ConvProblem, device: torch.device, plan: ConvPlan) -> None:
    """In this process, until the next `forget`: run by `plan`, which does not count as faster than torch's own way."""
    _table(device)[bucket(op, problem)] = Measured(plan, math.inf, 0.0)
    plan_for.cache_clear()
    beats_aten.cache_clear()


@functools.lru_cache(4096)  # asked for at every call
def plan_for(op: str, problem: ConvProblem, device: torch.device, candidates: tuple[ConvPlan, ...]) -> ConvPlan:
    """The measured plan where it is still among the candidates, else the first of them."""
    found = _table(device).get(bucket(op, problem))
    return found.plan if found is not None and found.plan in candidates else candidates[0]


@functools.lru_cache(4096)
def beats_aten(op: str, problem: ConvProblem, device: torch.device) -> bool:
    """Whether the kernel was measured on this device and was faster than torch's own way."""
    found = _table(device).get(bucket(op, problem))
    return found is not None and found.seconds < found.aten_seconds


def tune(
    op: str, problem: ConvProblem, device: torch.device, candidates: Sequence[ConvPlan],
    run: Callable[[ConvPlan], Any], aten: Callable[[], Any], seconds: Callable[[Callable[[], Any]], float],
) -> Measured:  # fmt: skip
    """Measure `run` of every candidate and torch's own way, and keep the result.

    `seconds(f)` times f and raises where a result is not what it should be. Raises RuntimeError in a graph capture.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("tune: a CUDA graph is being captured; tune before the capture")
    times = {plan: seconds(functools.partial(run, plan)) for plan in candidates}
    best = min(times, key=lambda plan: times[plan])
    measured = Measured(best, times[best], seconds(aten))
    save(device_key(device), {bucket(op, problem): measured})
    return measured
