"""What else bears on times: how busy the machine is, its clocks, whether it holds them back."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_GPU = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "power.draw", "clocks_event_reasons.active")


def now(device: torch.device) -> dict[str, Any]:
    """Load average of the last minute, MHz of the CPU's cores, of a CUDA device what nvidia-smi tells of its clocks.

    What the system does not say is left out.
    """
    found: dict[str, Any] = {}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    if mhz := _mhz():
        found["cpu_mhz"] = mhz
    if device.type == "cuda":
        found |= _gpu(device)
    return found


def busy(machine: Mapping[str, Any]) -> str | None:
    """What to say of a machine that had other work when a run began; None where it had none to speak of."""
    before, cores = (machine.get("conditions") or [{}])[0].get("load"), machine.get("cores")
    if before and cores and before > 1.25 * cores:  # a run of ours just before leaves its own load
        return f"warning: the machine was busy when this began, load {before:.1f} on {cores} cores: measure in quiet."
    return None


def _mhz() -> list[int]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    return [round(float(value)) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)]


def _gpu(device: torch.device) -> dict[str, str]:
    which = str(torch.cuda.get_device_properties(device).uuid)
    which = which if which.startswith("GPU-") else f"GPU-{which}"
    command = ["nvidia-smi", f"--id={which}", f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_GPU, map(str.strip, done.stdout.split(",")), strict=False))
