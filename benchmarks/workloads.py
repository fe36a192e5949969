"""One case of one provider, as a function that runs it once and returns what the gate compares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pggan_fast.benchmarks.cases import SAMPLE, Case, Inputs
from pggan_fast.benchmarks.gate import PIXELS
from pggan_fast.benchmarks.providers import REFERENCE, Provider, Weights, place, place_inputs
from torch import Tensor, nn

from pggan_fast.inference import Sampler
from pggan_fast.models import Generator
from pggan_fast.training.step import StepResult, d_step, g_step

# Runs the case once. What is timed is what is checked: the first call's result goes to the gate.
Workload = Callable[[], dict[str, Tensor]]
Build = Callable[[Case, Provider, Weights, Inputs], Workload]

LEARNING_RATE = 0.001  # the official one


def build(case: Case, provider: Provider, weights: Weights, data: Inputs) -> Workload:
    """The workload of `case` for `provider`, its networks and inputs already in place."""
    data = place_inputs(data, case, provider)
    if case.name == SAMPLE and provider.ours:
        return _sampler(weights.network("G", provider), case, data)
    if case.name == SAMPLE:
        return _plain_sample(place(weights.network("G", provider), case, provider), data)
    if case.name == "G.forward":
        return _g_forward(place(weights.network("G", provider), case, provider), data)
    if case.name == "D.forward":
        return _d_forward(place(weights.network("D", provider), case, provider), data)
    G = place(weights.network("G", provider), case, provider)
    D = place(weights.network("D", provider), case, provider)
    trained = D if case.name == "D.step" else G
    optimizer = torch.optim.Adam(trained.parameters(), lr=LEARNING_RATE, betas=(0.0, 0.99), eps=1e-8)
    autocast = None if case.dtype == torch.float32 or provider is REFERENCE else case.dtype
    if case.name == "D.step":
        return lambda: _checked(
            trained, d_step(G, D, optimizer, data.images, data.z, u=data.u, autocast=autocast), case.title
        )
    resolution = case.resolution
    return lambda: _checked(
        trained, g_step(G, D, optimizer, data.z, resolution=resolution, autocast=autocast), case.title
    )


def _g_forward(G: nn.Module, data: Inputs) -> Workload:
    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"image": G(data.z)}

    return run


def _sampler(G: nn.Module, case: Case, data: Inputs) -> Workload:
    assert isinstance(G, Generator)
    sampler = Sampler(G, dtype=case.dtype, device=case.device)
    sampler.uint8(
        data.z
    )  # a batch size that comes again is captured: in the first run, and not where memory is measured
    return lambda: {PIXELS: sampler.uint8(data.z)}


def _plain_sample(G: nn.Module, data: Inputs) -> Workload:
    """What users of plain PyTorch write; the bytes of half types come from float32."""

    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            images = G(data.z)
            images = images if images.dtype == torch.float64 else images.float()
            pixels = (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
            return {PIXELS: pixels.permute(0, 2, 3, 1).contiguous()}

    return run


def _d_forward(D: nn.Module, data: Inputs) -> Workload:
    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"score": D(data.images)[0]}

    return run


def _checked(trained: nn.Module, result: StepResult, title: str) -> dict[str, Tensor]:
    """The loss and the gradient of every parameter in use; a step that skipped its update is no step to time."""
    if not result.applied:
        raise FloatingPointError(f"{title}: a gradient is not finite")
    # torch.compile's wrapper prefixes the names
    gradients = {k.removeprefix("_orig_mod."): p.grad for k, p in trained.named_parameters()}
    # Parameters of other resolutions (toRGB, fromRGB) have none; the gate finds a difference in which ones have.
    return {"loss": result.loss, **{f"grad {k}": g for k, g in gradients.items() if g is not None}}
