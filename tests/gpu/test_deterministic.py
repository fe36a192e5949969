"""torch.use_deterministic_algorithms on the device: every op of every backend runs under it, twice with the same bits.

The convolutions of the backend "aten" and of the reference are torch's, which choose cuDNN's algorithms by the flag
themselves, and its matrix products want CUBLAS_WORKSPACE_CONFIG.
"""

from __future__ import annotations

from collections.abc import Iterator

import grid
import pytest
import torch
from device_networks import close
from public_ops import OPS, By, draw, everything, same


@pytest.fixture(autouse=True)
def deterministic(device: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("how", ["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_same_bits_twice(device: str, backend: str, name: str, how: str, dtype: torch.dtype) -> None:
    """With memory that holds NaN before it is written, as the flag has it by default.

    Gradients of gradients within roundings: autograd adds up terms by numbers that each of its threads counts, and so
    not in the same order twice.
    """
    op = OPS[name]
    drawn = {k: t.to(device, dtype if k in op.images else None) for k, t in draw(op, 8).items()}
    tensors = {k: grid.arrange(t, how) if t.ndim == 4 else t for k, t in drawn.items()}
    first = everything(lambda **t: op.call(By(backend), **t), tensors)
    assert all(t.isfinite().all() for t in first.values())
    torch.randn(1 << 20, device=device)  # other memory is handed out next
    again = everything(lambda **t: op.call(By(backend), **t), tensors)
    second = {k for k in first if k.startswith("d2/")}
    same(*({k: t for k, t in found.items() if k not in second} for found in (again, first)))
    close({k: again[k] for k in second}, {k: first[k] for k in second}, 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", OPS)
def test_the_reference_runs(device: str, name: str) -> None:
    op = OPS[name]
    everything(lambda **t: op.call(By("reference"), **t), {k: t.to(device) for k, t in draw(op).items()})
