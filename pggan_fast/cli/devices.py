"""The device that a command is asked to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pggan_fast.cli import UsageError

if TYPE_CHECKING:
    import torch


def parse_device(name: str | None) -> torch.device:
    """cpu, cuda or cuda:N; without a name CUDA where there is one, else the CPU. Raises UsageError."""
    import torch

    from pggan_fast.backends import report

    if name is None:
        return report.default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device: got {name!r}, expected cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: got {name!r}, expected cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device: got {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
    return device
