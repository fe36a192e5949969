"""Who is measured: our layers, and what users have today. All hold the same weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from pggan_fast.benchmarks import best_eager, runs
from pggan_fast.benchmarks.cases import Case, Inputs
from pggan_fast.benchmarks.peers import training as peers
from pggan_fast.benchmarks.subjects import SUBJECTS, Widths
from torch import Tensor, nn

import pggan_fast


@dataclass(frozen=True)
class Provider:
    """One way of running the same module."""

    name: str
    text: str = ""
    backend: str | None = "reference"  # of pggan_fast.nn: None = automatic choice, "reference" = plain PyTorch
    channels_last: bool = False
    compile_mode: str | None = None  # of torch.compile; None: not compiled
    improved: bool = False  # see best_eager

    @property
    def ours(self) -> bool:
        return self.backend != "reference"

    def reason(self, case: Case) -> str | None:
        """Why it does not run this case; None where it may."""
        if case.peer and self not in (EAGER, EAGER_AGAIN, REFERENCE) and not (self.ours and self.backend is None):
            return "networks of others run as they are (eager) or after fuse() (auto)"
        if case.mode == "sample" and (self.improved or self.compile_mode):
            return "latents to bytes are measured plain and by inference.Sampler"
        return None


EAGER = Provider("eager", "plain PyTorch in NCHW, as users write it: what every ratio is of")
EAGER_AGAIN = Provider(runs.AGAIN, "eager once more: how far two runs of the same are apart (A/A)")
REFERENCE = Provider("float64 reference", "what every result is compared with")
PROVIDERS = {
    p.name: p
    for p in (
        Provider("auto", "this library, choosing its backends", backend=None),
        EAGER,
        Provider("eager_channels_last", "plain PyTorch in channels_last", channels_last=True),
        Provider(
            "best_eager",
            "plain PyTorch by all tricks: channels_last, convolutions with bias, 4x4 kernels of stride 2, "
            "cudnn.benchmark; the same at every size: on small maps summing such kernels costs more than it saves, and "
            "eager is faster",
            channels_last=True,
            improved=True,
        ),
        Provider("compile", "torch.compile, by --compile-mode", compile_mode="default"),
        Provider("compile_max_autotune", 'torch.compile(mode="max-autotune")', compile_mode="max-autotune"),
        *(
            Provider(name, f"this library on its backend {name!r} alone", backend=name)
            for name in ("aten", "cpu", "triton", "cuda")
        ),
    )
}


def provider(name: str, compile_mode: str = "default", backend: str | None = None) -> Provider:
    """One of PROVIDERS; `backend` is what "auto" runs if not its own choice, `compile_mode` is that of "compile"."""
    found = PROVIDERS[name]
    if name == "auto":
        return replace(found, backend=backend)
    return replace(found, compile_mode=compile_mode) if name == "compile" else found


class Weights:
    """The parameters that all providers of a unit share: the module's own initialisation, its biases made non-zero."""

    def __init__(self, widths: Widths, resolution: int, seed: int) -> None:
        self.widths, self.resolution, self.seed = widths, resolution, seed
        self._states: dict[str, dict[str, Tensor]] = {}

    def module(self, subject: str, provider: Provider) -> nn.Module:
        """A module of SUBJECTS of this provider with the shared parameters, float32 on the CPU."""
        last = provider.channels_last or None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = SUBJECTS[subject].make(self.resolution, self.widths, provider.backend, last)
            if subject not in self._states:
                self._states[subject] = {k: _not_zero(k, v) for k, v in module.state_dict().items()}
        module.load_state_dict(self._states[subject])
        return best_eager.improved(module) if provider.improved else module

    def peers(self, name: str, provider: Provider) -> list[nn.Module]:
        """[G, D] of others, as they are or fused; float32 on the CPU."""
        levels = range(self.resolution.bit_length() - 1)  # one more than there are: some name the next one
        widths = [min(self.widths.fmap_max, self.widths.fmap_base // 2 ** (level + 1)) for level in levels]
        networks = peers.networks(name, self.resolution, widths, self.widths.latent, self.seed)
        if provider.ours:
            for network in networks:
                pggan_fast.fuse(network)
        return networks


def _not_zero(key: str, value: Tensor) -> Tensor:
    """Biases start at zero, which would hide a missing bias from the gate."""
    return 0.1 * torch.randn_like(value) if key.endswith("bias") else value.clone()


def place(module: nn.Module, case: Case, provider: Provider) -> nn.Module:
    """The module on the case's device, in the provider's dtype and layout; compiled where the provider compiles.

    A half dtype casts the parameters; whole training steps keep them float32 and run under autocast.
    """
    module = module.to(case.device, _dtype(case, provider))
    if provider.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if provider.compile_mode is not None:
        compiled: nn.Module = torch.compile(module, mode=provider.compile_mode)  # type: ignore[assignment]
        return compiled
    return module


def _dtype(case: Case, provider: Provider) -> torch.dtype:
    return torch.float64 if provider is REFERENCE else torch.float32 if case.training else case.dtype


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
    """The inputs in the provider's dtype and layout.

    Maps of ours and of channels_last are in that format, as their networks have them inside; images, which come from
    outside, are as a DataLoader makes them, but for channels_last.
    """
    dtype = _dtype(case, provider)

    def placed(x: Tensor) -> Tensor:
        x = x.to(case.device, dtype)
        inner = provider.ours and x.ndim == 4 and x.shape[1] != 3
        rows = x.ndim == 4 and (provider.channels_last or inner)
        return x.contiguous(memory_format=torch.channels_last) if rows else x

    return Inputs(tuple(map(placed, data.inputs)), placed(data.z), placed(data.images), placed(data.u), data.seed)
