"""Hooks of modules, parameters and tensors in whole networks: which are called, and what they see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import ALPHA, KINDS, Network, arguments, assert_same_gradients, gradients, make, outputs
from torch import Tensor
from torch.nn import Module

from pggan_fast import reference
from pggan_fast.models import Generator

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
kinds = pytest.mark.parametrize("kind", KINDS)


def layers(network: Network) -> dict[str, Module]:
    """Those that show at full resolution while it fades in: all but one of an image."""
    unused = "to_rgb.4x4" if isinstance(network, Generator) else "from_rgb.4x4"
    return {k: m for k, m in network.named_modules() if k and k != unused and not isinstance(m, torch.nn.ModuleDict)}


class Seen:
    """What hooks on every layer were called with, by the layer's name."""

    def __init__(self, network: Network) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.grad_inputs: dict[str, Tensor] = {}
        self.grad_outputs: dict[str, Tensor] = {}
        self.layers = layers(network)
        for key, layer in self.layers.items():
            layer.register_forward_pre_hook(lambda _, x, key=key: self.see("pre", key, inputs=x[0]))
            layer.register_forward_hook(lambda _, x, y, key=key: self.see("forward", key, outputs=y))
            layer.register_full_backward_pre_hook(lambda _, g, key=key: self.see("backward pre", key))
            layer.register_full_backward_hook(
                lambda _, g_in, g_out, key=key: self.see("backward", key, grad_inputs=g_in[0], grad_outputs=g_out[0])
            )

    def see(self, kind: str, key: str, **tensors: Tensor) -> None:
        self.calls[kind, key] += 1
        for name, tensor in tensors.items():
            getattr(self, name)[key] = tensor.detach().clone()


@pytest.mark.parametrize("grad", [True, False])
@kinds
def test_hooks_of_every_layer(kind: type[Network], grad: bool) -> None:
    """Also of those that are one op with others: blocks without gradients, and images while a level fades in."""
    network = make(kind)
    inputs = arguments(network)
    inputs[0].requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        want = outputs(network(*inputs, alpha=ALPHA))
        want_gradients = gradients(want, [inputs[0], *network.parameters()]) if grad else []
        seen = Seen(network)
        got = outputs(network(*inputs, alpha=ALPHA))
    torch.testing.assert_close(got, want, **CLOSE)
    if grad:
        assert_same_gradients(gradients(got, [inputs[0], *network.parameters()]), want_gradients, **CLOSE)
    kinds_of_hooks = ["pre", "forward", *(["backward pre", "backward"] if grad else [])]
    assert seen.calls == Counter({(kind, key): 1 for kind in kinds_of_hooks for key in seen.layers})
    for key, layer in seen.layers.items():
        x = seen.inputs[key].requires_grad_()
        y = layer.forward(x)
        torch.testing.assert_close(seen.outputs[key], y.detach(), **CLOSE)
        if grad:
            (g,) = torch.autograd.grad(y, x, seen.grad_outputs[key])
            torch.testing.assert_close(seen.grad_inputs[key], g, **CLOSE)


@kinds
def test_hooks_can_change_what_passes(kind: type[Network]) -> None:
    """Each layer's output is used as the hook returns it."""
    network = make(kind)
    inputs = arguments(network)
    before = outputs(network(*inputs, alpha=ALPHA))[0]
    for key, layer in layers(network).items():
        hook = layer.register_forward_hook(lambda _, x, y: torch.zeros_like(y))
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                assert not torch.allclose(outputs(network(*inputs, alpha=ALPHA))[0], before), key
        hook.remove()


@kinds
def test_hooks_of_parameters(kind: type[Network]) -> None:
    """Before and after a gradient is accumulated, the former changing it."""
    network = make(kind)
    inputs = arguments(network)
    want = gradients(outputs(network(*inputs, alpha=ALPHA)), [*network.parameters()])
    accumulated: dict[str, Tensor] = {}
    for key, p in network.named_parameters():
        p.register_hook(lambda g: 2 * g)
        p.register_post_accumulate_grad_hook(lambda p, key=key: accumulated.update({key: p.grad.clone()}))
    results = outputs(network(*inputs, alpha=ALPHA))
    sum((t.double().square() * torch.linspace(1, 2, t.numel()).view(t.shape)).sum() for t in results).backward()
    got = [accumulated.get(key) for key, _ in network.named_parameters()]
    assert_same_gradients(got, [None if g is None else 2 * g for g in want])


# Layers that are no longer plain: at alpha 0 only the older level shows, which is the network of that level.


def slope(layer: Any) -> None:
    layer.negative_slope = 0.7


def no_slope(layer: Any) -> None:
    layer.negative_slope = None if layer.negative_slope else 0.2


def norm(layer: Any) -> None:
    layer.pixel_norm = "after_act"


def other_forward(layer: Any) -> None:
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def spectral_norm(layer: Any) -> None:
    """The older one, which computes the weight in a hook before forward."""
    torch.nn.utils.spectral_norm(layer).eval()


def other_class(layer: Any) -> None:
    plain = type(layer)
    layer.__class__ = type("Doubled", (plain,), {"forward": lambda self, x: 2 * plain.forward(self, x)})


def older_level(network: Network, x: Tensor) -> Tensor:
    if isinstance(network, Generator):
        return reference.up2(network(x, resolution=8))
    return outputs(network(reference.down2(x)))[0]


@pytest.mark.parametrize("change", [slope, no_slope, norm, other_forward, spectral_norm, other_class])
@kinds
def test_a_changed_layer_fades_out_as_it_is(kind: type[Network], change: Callable[[Any], None]) -> None:
    network = make(kind)
    (x,) = arguments(network)
    before = older_level(network, x)
    change(network.get_submodule("to_rgb.8x8" if kind is Generator else "from_rgb.8x8"))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            want = older_level(network, x)
            torch.testing.assert_close(outputs(network(x, alpha=0.0))[0], want, **CLOSE)
            assert not torch.allclose(want, before)
