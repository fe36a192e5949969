"""The facts about this machine and this installation, for `pggan-fast info` and for every benchmark report."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import pggan_fast
from pggan_fast import settings, system
from pggan_fast.backends import precision, registry, tables

PACKAGE = Path(pggan_fast.__file__).resolve().parent
# Compilers and build tools: what each is for.
TOOLS = {
    "g++": "builds the CPU kernels",
    "nvcc": "builds the CUDA kernels",
    "ninja": "runs the build",
    "cc": "Triton builds its launcher with it",
}


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(device: torch.device) -> dict[str, Any]:
    """The machine that numbers were taken on."""
    facts: dict[str, Any] = {
        "cpu": tables.cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": system.memory(),
        "system": platform.platform(),
        "device": device_name(device),
        "fp32_precision": fp32_precision(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_memory_bytes"] = properties.total_memory
        facts["capability"] = f"{properties.major}.{properties.minor}"
    return facts


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else tables.cpu_name()


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on; None: not installed."""
    return {
        "pggan_fast": _version("pggan-fast"),
        "torch": str(torch.__version__),  # plain text, not its TorchVersion
        "triton": _version("triton"),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else None,
        "numpy": _version("numpy"),
    }


def commit() -> str | None:
    """The commit of the checkout that the package runs from, with "+" where files differ from it; None outside one."""
    root = PACKAGE.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    head = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if head is None:
        return None
    return head + ("+" if _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]) else "")


def fp32_precision(device: torch.device) -> str:
    """How this device computes float32 convolutions, as torch is set: "ieee", "tf32" or "bf16". Read, never set."""
    if device.type == "cuda":
        return precision.conv_fp32()
    mkldnn: Any = torch.backends.mkldnn
    setting = mkldnn.conv.fp32_precision
    return "ieee" if setting == "none" else str(setting)


def backends() -> dict[str, dict[str, Any]]:
    """Per backend: the reason why it cannot run here (with the remedy; None where it can) and the ops it implements."""
    found = {}
    for name in registry.BACKENDS:
        ops = registry.ops_of(name)
        reason = registry.unavailable(name)
        if reason is None and not ops and name != "reference":
            reason = "this version has no kernels for it"
        found[name] = {"reason": reason, "ops": ops}
    return found


def untested() -> list[str]:
    """The kinds of devices here that none of our kernels has been tested on: torch's own run there."""
    here = {
        "rocm": bool(torch.version.hip) and torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
    }
    return [kind for kind, found in here.items() if found]


def tools() -> dict[str, dict[str, str | None]]:
    """Compilers and build tools: path and first line of their version; path None where not found."""
    found: dict[str, dict[str, str | None]] = {}
    for tool, purpose in TOOLS.items():
        path = shutil.which(tool)
        if path is None and tool == "ninja":
            beside = Path(sys.executable).parent / "ninja"
            path = str(beside) if beside.exists() else None
        version = _output([path, "--version"]) if path else None
        if version:  # nvcc's first line is its name, the release stands in its last but one
            lines = version.splitlines()
            version = lines[-2] if tool == "nvcc" and len(lines) > 1 else lines[0]
        found[tool] = {"path": path, "version": version, "for": purpose}
    return found


def environment() -> dict[str, dict[str, str | None]]:
    """Every environment variable that the library reads: its value (None: unset) and its meaning."""
    return {name: {"value": os.environ.get(name), "meaning": text} for name, text in settings.VARIABLES.items()}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str | None:
    """A command's output, stripped; None where it fails or takes more than ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
