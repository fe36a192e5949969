"""One case of one provider, as a function that runs it once and returns what the gate compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from pggan_fast.benchmarks.cases import Case, Inputs
from pggan_fast.benchmarks.gate import GRADIENT, PIXELS
from pggan_fast.benchmarks.peers import training as peers
from pggan_fast.benchmarks.providers import REFERENCE, Provider, Weights, place, place_inputs
from pggan_fast.benchmarks.subjects import SUBJECTS
from torch import Tensor, nn

from pggan_fast.inference import Sampler
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.step import StepResult, d_step, g_step

# Runs the case once. What is timed is what is checked: the first call's result goes to the gate.
Workload = Callable[[], dict[str, Tensor]]
Build = Callable[[Case, Provider, Weights, Inputs], Workload]

LEARNING_RATE = 0.001  # the official one


def build(case: Case, provider: Provider, weights: Weights, data: Inputs) -> Workload:
    """The workload of `case` for `provider`, its modules and inputs already in place."""
    data = place_inputs(data, case, provider)
    if case.peer:
        return _peer(case, provider, weights, data)
    if case.training:
        return _step(case, provider, weights, data)
    module = weights.module(case.subject, provider)
    if case.mode == "sample":
        if provider.ours:
            return _sampler(cast(Generator, module), case, data)
        return _plain_sample(place(module, case, provider), data)
    return MODES[case.mode](place(module, case, provider), SUBJECTS[case.subject].output, data)


def _forward(module: nn.Module, output: str, data: Inputs) -> Workload:
    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            return {output: module(*data.inputs)}

    return run


def _backward(module: nn.Module, output: str, data: Inputs) -> Workload:
    inputs, dy = _with_gradients(module, data)

    def run() -> dict[str, Tensor]:
        y = module(*inputs)
        y.backward(dy)
        return {output: y.detach(), **_taken(_named(module, inputs))}

    return run


def _double(module: nn.Module, output: str, data: Inputs) -> Workload:
    inputs, dy = _with_gradients(module, data)
    dy.requires_grad_()  # so that linear layers have a second derivative too
    direction = _drawn(inputs[0], data.seed + 2)

    def run() -> dict[str, Tensor]:
        (g,) = torch.autograd.grad(module(*inputs), inputs[0], dy, create_graph=True)
        g.backward(direction)
        return {f"{GRADIENT}first": g.detach(), **_taken({**_named(module, inputs), "dy": dy})}

    return run


MODES: dict[str, Callable[[nn.Module, str, Inputs], Workload]] = {
    "forward": _forward,
    "backward": _backward,
    "double": _double,
}


def _with_gradients(module: nn.Module, data: Inputs) -> tuple[list[Tensor], Tensor]:
    """The inputs as leaves that want gradients, and the gradient of the output."""
    inputs = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in data.inputs]
    with torch.no_grad():
        y = module(*inputs)
    return inputs, _drawn(y, data.seed + 1)


def _drawn(like: Tensor, seed: int) -> Tensor:
    """Normal numbers in the shape, format, dtype and place of `like`, the same for every provider."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))
    return torch.empty_like(like).copy_(drawn)


def _named(module: nn.Module, inputs: list[Tensor]) -> Mapping[str, Tensor]:
    # torch.compile's wrapper prefixes the names
    parameters = {k.removeprefix("_orig_mod."): p for k, p in module.named_parameters()}
    return {**{f"input {i}": x for i, x in enumerate(inputs)}, **parameters}


def _taken(leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their gradients, which leave them. Those of other resolutions (toRGB, fromRGB) have none; where which ones have
    differs, the gate finds it."""
    found = {f"{GRADIENT}{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    for leaf in leaves.values():
        leaf.grad = None
    return found


def _step(case: Case, provider: Provider, weights: Weights, data: Inputs) -> Workload:
    G = place(weights.module("G", provider), case, provider)
    score = weights.module("D", provider).D
    D = place(cast(Discriminator, score), case, provider)
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


def _checked(trained: nn.Module, result: StepResult, title: str) -> dict[str, Tensor]:
    """The loss and the gradient of every parameter in use; a step that skipped its update is no step to time."""
    if not result.applied:
        raise FloatingPointError(f"{title}: a gradient is not finite")
    gradients = {k.removeprefix("_orig_mod."): p.grad for k, p in trained.named_parameters()}
    return {"loss": result.loss, **{f"{GRADIENT}{k}": g for k, g in gradients.items() if g is not None}}


def _sampler(G: Generator, case: Case, data: Inputs) -> Workload:
    sampler = Sampler(G, dtype=case.dtype, device=case.device)
    # a batch size that comes again is captured: in the first run, and not where memory is measured
    sampler.uint8(data.z)
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


def _peer(case: Case, provider: Provider, weights: Weights, data: Inputs) -> Workload:
    assert case.peer
    networks = [place(network, case, provider) for network in weights.peers(case.peer, provider)]
    training = peers.Training(peers.module(case.peer), networks, (data.z, data.images, data.u))
    if case.training:
        return training.step

    def run() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"image": training.generate()} if ".G." in case.name else {"score": training.score(data.images)}

    return run
