"""Who is measured: our layers, and what users have today. All hold the same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pggan_fast.benchmarks.cases import LATENT, Case, Inputs
from torch import Tensor, nn


@dataclass(frozen=True)
class Provider:
    """One way of running the same network."""

    name: str
    backend: str | None  # of pggan_fast.models: None = automatic choice, "reference" = plain PyTorch
    channels_last: bool = False
    compile_mode: str | None = None  # of torch.compile; None: not compiled

    @property
    def ours(self) -> bool:
        return self.backend != "reference"


EAGER = Provider("eager", "reference")
REFERENCE = Provider("float64 reference", "reference")
BASELINES = ("eager", "eager_channels_last", "compile")


def provider(name: str, compile_mode: str = "default", backend: str | None = None) -> Provider:
    """The provider of a name: "auto", a baseline, or one of our backends.

    `backend` is what "auto" runs if not its own choice.
    """
    if name == "auto":
        return Provider("auto", backend)
    if name == "eager":
        return EAGER
    if name == "eager_channels_last":
        return Provider(name, "reference", channels_last=True)
    if name == "compile":
        return Provider(name, "reference", compile_mode=compile_mode)
    return Provider(name, name)


# (kind "G" or "D", resolution, provider) -> a network on the CPU in float32
Factory = Callable[[str, int, Provider], nn.Module]


def network(kind: str, resolution: int, provider: Provider) -> nn.Module:
    """The full-width network that a case runs."""
    from pggan_fast.models import Discriminator, Generator

    if kind == "G":
        return Generator(
            resolution, latent_dim=LATENT, backend=provider.backend, channels_last=provider.channels_last or None
        )
    return Discriminator(resolution, backend=provider.backend, channels_last=provider.channels_last or None)


class Weights:
    """The parameters that all providers of a unit share: the network's own initialisation, its biases made non-zero."""

    def __init__(self, factory: Factory, resolution: int, seed: int) -> None:
        self.factory, self.resolution, self.seed = factory, resolution, seed
        self._states: dict[str, dict[str, Tensor]] = {}

    def network(self, kind: str, provider: Provider) -> nn.Module:
        """A network of this provider with the shared parameters, float32 on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self.factory(kind, self.resolution, provider)
            if kind not in self._states:
                self._states[kind] = {k: _not_zero(k, v) for k, v in module.state_dict().items()}
        module.load_state_dict(self._states[kind])
        return module


def _not_zero(key: str, value: Tensor) -> Tensor:
    """Biases start at zero, which would hide a missing bias from the gate."""
    return 0.1 * torch.randn_like(value) if key.endswith("bias") else value.clone()


def place(module: nn.Module, case: Case, provider: Provider) -> nn.Module:
    """The network on the case's device, in the provider's dtype and layout; compiled where the provider compiles.

    A half dtype casts the parameters for inference; training keeps them float32 and runs under autocast.
    """
    dtype = torch.float64 if provider is REFERENCE else torch.float32 if case.training else case.dtype
    module = module.to(case.device, dtype)
    if provider.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if provider.compile_mode is not None:
        compiled: nn.Module = torch.compile(module, mode=provider.compile_mode)  # type: ignore[assignment]
        return compiled
    return module


@functools.cache
def refusal_of_double_backward() -> str | None:
    """What this torch says when it shall differentiate a compiled function twice, as WGAN-GP must; None: it does it.

    Asked of a function of one multiplication: a network would be compiled for a minute before the same answer.
    """
    cube = torch.compile(lambda x: x * x * x, backend="aot_eager")  # the refusal is AOT autograd's, before any codegen
    x = torch.ones(2, requires_grad=True)
    try:
        (first,) = torch.autograd.grad(cube(x).sum(), x, create_graph=True)
        first.sum().backward()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def place_inputs(data: Inputs, case: Case, provider: Provider) -> Inputs:
    """The inputs in the provider's dtype and layout."""
    dtype = torch.float64 if provider is REFERENCE else torch.float32 if case.training else case.dtype
    images = data.images.to(case.device, dtype)
    if provider.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return Inputs(data.z.to(case.device, dtype), images, data.u.to(case.device, dtype))
