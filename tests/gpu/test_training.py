"""Whole networks on the device: training steps against the reference, torch.compile, autocast, determinism."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from device_networks import BATCH, RESOLUTION, Data, Results, close, d_gradients, equal, g_gradients, networks
from pggan_fast.benchmarks import gate

from pggan_fast import ops
from pggan_fast.ops.scaled_conv2d import scaled_conv2d_forward
from pggan_fast.training.step import d_step, g_step


def needs_arithmetic_in(dtype: torch.dtype | None) -> None:
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip(f"{torch.cuda.get_device_name()} has no bfloat16 arithmetic (compute capability 8.0 does)")


GRADIENTS: dict[str, Callable[..., Results]] = {"D": d_gradients, "G": g_gradients}


def named(results: Results) -> dict[str, torch.Tensor]:
    """Names as the gate knows them."""
    return {k if k == "loss" else gate.GRADIENT + k: t for k, t in results.items() if t is not None}


@pytest.mark.parametrize("which", GRADIENTS)
def test_a_step_against_the_reference(device: str, backend: str, which: str) -> None:
    """Judged as a benchmark's step is: by twice the error of plain PyTorch on the device, and a little."""
    data, f = Data.draw(0, device), GRADIENTS[which]
    plain = networks("reference", device)
    rival = named(f(*plain, data))
    want = named(f(*(network.double() for network in plain), data.to(torch.float64)))
    ours = named(f(*networks(backend, device), data))
    verdict = gate.judge(gate.errors(ours, want), gate.errors(rival, want), torch.float32)
    assert not verdict.red, str(verdict)
    some = next(k for k in ours if k != "loss" and ours[k].ndim == 4)
    ours[some] = ours[some] * 1.05  # the fault
    assert gate.judge(gate.errors(ours, want), gate.errors(rival, want), torch.float32).red


@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16])
def test_steps_train(device: str, backend: str, autocast: torch.dtype | None) -> None:
    needs_arithmetic_in(autocast)
    G, D = networks(backend, device)
    options: Any = {"betas": (0.0, 0.99), "eps": 1e-8}
    adam = {network: torch.optim.Adam(network.parameters(), lr=0.001, **options) for network in (G, D)}
    before = [p.detach().clone() for p in (*G.parameters(), *D.parameters())]
    for seed in range(2):
        data = Data.draw(seed, device)
        done = [
            d_step(G, D, adam[D], data.reals, data.z, alpha=data.alpha, u=data.u, autocast=autocast),
            g_step(G, D, adam[G], data.z, resolution=RESOLUTION, alpha=data.alpha, autocast=autocast),
        ]
        assert all(result.applied and result.loss.isfinite() and result.loss.dtype == torch.float32 for result in done)
    moved = [not p.equal(q) for p, q in zip((*G.parameters(), *D.parameters()), before, strict=True)]
    assert sum(moved) > len(moved) // 2


@pytest.fixture
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    tracing = {"trace_autograd_ops": True} if hasattr(torch._dynamo.config, "trace_autograd_ops") else {}
    with torch._dynamo.config.patch(**tracing):
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@pytest.mark.parametrize("which", ["G", "D"])
def test_compiled_networks(device: str, backend: str, which: str, compiler: str) -> None:
    """Forward and backward of a compiled network against the same uncompiled, at two values of alpha."""
    network = networks(backend, device)["GD".index(which)]
    compiled = torch.compile(network, backend=compiler, fullgraph=True)
    for seed in (0, 1):
        data = Data.draw(seed, device)
        results = []
        for run in (compiled, network):
            out = run(data.z if which == "G" else data.reals, alpha=data.alpha)
            out = out if which == "G" else out[0]
            network.zero_grad()
            out.float().square().sum().backward()
            gradients = {k: None if p.grad is None else p.grad.clone() for k, p in network.named_parameters()}
            results.append({"out": out.detach(), **gradients})
        for result in results:  # a compiled graph may give zeros where eager gives none
            result.update({k: None for k, t in result.items() if t is not None and not t.any()})
        close(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(device: str, backend: str, dtype: torch.dtype) -> None:
    """Results in autocast's dtype, as of an input cast by hand; statistics and parameters' gradients in float32."""
    needs_arithmetic_in(dtype)
    x = torch.randn(2, 16, 8, 8, device=device, requires_grad=True)
    w, b = (torch.randn(*shape, device=device, requires_grad=True) for shape in ((24, 16, 3, 3), (24,)))
    options: Any = {"weight_scale": 0.1, "negative_slope": 0.2, "pixel_norm": "after_act", "backend": backend}
    with torch.autocast(device, dtype):
        y = ops.scaled_conv2d(x, w, b, **options)
    want = ops.scaled_conv2d(x.to(dtype), w, b, **options)
    assert y.dtype == dtype
    assert torch.equal(y, want)
    dy = torch.randn_like(y)
    got, expected = (dict(zip("xwb", torch.autograd.grad(t, (x, w, b), dy), strict=True)) for t in (y, want))
    assert [g.dtype for g in got.values()] == [torch.float32] * 3
    close(got, expected)
    half = x.detach().to(dtype)
    r = scaled_conv2d_forward(
        half, w.detach(), b.detach(), 0.1, 1.0, "none", 0.2, "after_act", 1e-8, "inside", backend
    )[1]
    assert r.dtype == torch.float32


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("which", GRADIENTS)
def test_two_runs_are_equal_bit_by_bit(device: str, backend: str, which: str) -> None:
    pair, data = networks(backend, device), Data.draw(0, device)
    first = GRADIENTS[which](*pair, data)
    torch.randn(1 << 20, device=device)  # other memory is handed out next
    assert equal(GRADIENTS[which](*pair, data), first)
    assert not equal(GRADIENTS[which](*pair, Data.draw(1, device)), first)
    assert data.z.shape[0] == BATCH
