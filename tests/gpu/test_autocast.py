"""torch.autocast, GradScaler and TF32's switches on the device: dtypes, values, and steps that train."""

from __future__ import annotations

from typing import Any

import grid
import pytest
import torch
from device_networks import RESOLUTION, Data, networks
from public_ops import OPS, By, draw, everything

from pggan_fast import reference
from pggan_fast.training.step import d_step, g_step

HALF = [torch.float16, torch.bfloat16]
names = pytest.mark.parametrize("name", OPS)


@pytest.fixture(params=HALF, ids=str)
def dtype(request: pytest.FixtureRequest, device: str) -> torch.dtype:
    half: torch.dtype = request.param
    if half == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip(f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic (compute capability 8.0 does)")
    return half


def tensors_of(name: str, device: str) -> dict[str, torch.Tensor]:
    return {k: t.to(device) for k, t in draw(OPS[name]).items()}


@names
def test_values(device: str, backend: str, dtype: torch.dtype, name: str) -> None:
    """As near to float64 as the reference under autocast on the device, and of its dtypes."""
    op, tensors = OPS[name], tensors_of(name, device)
    out = dtype if op.result == "autocast" else torch.float32

    def under_autocast(m: Any) -> grid.Results:
        def call(**t: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, dtype):
                return op.call(m, **t)

        return grid.derivatives(call, tensors, list(op.images), 0, "same", out, True)

    want = grid.derivatives(
        lambda **t: op.call(reference, **t), draw(op), list(op.images), 0, "same", torch.float64, False
    )
    ours = under_autocast(By(backend))
    assert ours["y"] is not None
    assert ours["y"].dtype == out
    wrong = grid.judge(ours, under_autocast(By("reference")), want, out)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if len(op.images) == 2])
def test_two_dtypes_meet(device: str, backend: str, dtype: torch.dtype, name: str) -> None:
    op, tensors = OPS[name], tensors_of(name, device)
    tensors["x"] = tensors["x"].to(dtype)

    def call(**t: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype):
            return op.call(By(backend), **t)

    got = everything(call, tensors)
    assert got["y"].dtype == (dtype if op.result == "autocast" else torch.float32)
    assert (got["d/dx"].dtype, got["d/dy"].dtype) == (dtype, torch.float32)
    with pytest.raises(TypeError, match="float32"):
        op.call(By(backend), **tensors)


def test_steps_train_with_a_scaler(device: str, backend: str) -> None:
    """From a scale that overflows down to one that fits, one scaler for both networks."""
    G, D = networks(backend, device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**32)
    adam = {n: torch.optim.Adam(n.parameters(), lr=0.001, betas=(0.0, 0.99), eps=1e-8) for n in (G, D)}
    half: dict[str, Any] = {"autocast": torch.float16, "scaler": scaler}
    applied = []
    for seed in range(20):
        data = Data.draw(seed, device)
        d = d_step(G, D, adam[D], data.reals, data.z, alpha=data.alpha, u=data.u, **half)
        g = g_step(G, D, adam[G], data.z, resolution=RESOLUTION, alpha=data.alpha, **half)
        applied += [d.applied, g.applied]
        finite = [p.isfinite().all() for n in (G, D) for p in n.parameters()]
        assert torch.stack(finite).all()
    assert not applied[0]
    assert all(applied[-4:])
    assert 1.0 < scaler.get_scale() < 2.0**32


@pytest.mark.parametrize("conv", ["ieee", "tf32"])
@pytest.mark.parametrize("matmul", ["ieee", "tf32"])
def test_mixed_switches(device: str, backend: str, conv: str, matmul: str) -> None:
    """New switches after the old one of the fixture: ops run, float32's roundings where ieee is asked for."""
    cudnn: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = cudnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    try:
        cudnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision = conv, matmul
        x, w = torch.randn(2, 32, 16, 16, device=device), torch.randn(32, 32, 3, 3, device=device)
        y = By(backend).scaled_conv2d(x, w, weight_scale=0.1)
        z = By(backend).scaled_linear(x[:, :, 0, 0], w[:, :, 0, 0], weight_scale=0.1)
    finally:
        cudnn.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before
    want = reference.scaled_conv2d(x.double(), w.double(), weight_scale=0.1)
    dense = reference.scaled_linear(x[:, :, 0, 0].double(), w[:, :, 0, 0].double(), weight_scale=0.1)
    for got, exact, setting in ((y, want, conv), (z, dense, matmul)):
        error = float((got - exact).abs().max() / exact.abs().max())
        assert error < (1e-5 if setting == "ieee" else 5e-3)
