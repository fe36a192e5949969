"""Whole networks through copies, files, other backends, other resolutions, the meta device, torch.func, checkpointing.

Layers alone: tests/test_nn.py. Ops alone: tests/ops/test_transforms.py.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_networks import (
    ALPHA,
    KINDS,
    LATENT,
    Network,
    arguments,
    assert_same_gradients,
    gradients,
    make,
    outputs,
)
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.utils.checkpoint import checkpoint

import pggan_fast
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import wgan_gp_d_loss

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
kinds = pytest.mark.parametrize("kind", KINDS)


def by_file(value: Any, weights_only: bool) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=weights_only)


def shown(network: Network, *inputs: Tensor, **options: Any) -> list[Tensor]:
    return outputs(network(*inputs, **{"alpha": ALPHA, **options}))


# Copies and files.

COPIES: dict[str, Callable[[Network], Network]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda network: pickle.loads(pickle.dumps(network)),
    "torch.save": lambda network: by_file(network, weights_only=False),
}


@pytest.mark.parametrize("how", COPIES)
@kinds
def test_a_copy_computes_the_same_and_is_apart(kind: type[Network], how: str) -> None:
    """After use, with gradients, and in a context: what calls have left behind does not hinder a copy."""
    network = make(kind, labelled=True)
    inputs = arguments(network)
    with pggan_fast.frozen(network), torch.no_grad():
        network(*inputs)
    sum(t.sum() for t in shown(network, *inputs)).backward()
    again = COPIES[how](network)
    want = shown(network, *inputs)
    assert all(map(torch.equal, shown(again, *inputs), want))
    assert_same_gradients(
        gradients(shown(again, *inputs), [*again.parameters()]), gradients(want, [*network.parameters()])
    )
    with torch.no_grad():
        for p in again.parameters():
            p.mul_(-1)
    assert all(map(torch.equal, shown(network, *inputs), want))


@pytest.mark.parametrize(("saved", "loaded"), [("reference", None), (None, "reference"), ("aten", None)])
@kinds
def test_state_goes_between_backends(kind: type[Network], saved: str | None, loaded: str | None) -> None:
    ours, theirs = make(kind, backend=saved), make(kind, backend=loaded)
    state = by_file(ours.state_dict(), weights_only=True)
    theirs.load_state_dict(state)
    inputs = arguments(ours)
    torch.testing.assert_close(shown(theirs, *inputs), shown(ours, *inputs), **CLOSE)
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("level", [4, 16])
@kinds
def test_a_larger_network_takes_the_state_of_a_smaller_and_back(kind: type[Network], level: int) -> None:
    """It computes the same at every level of the smaller one: parameters are named by resolution."""
    small, large, back = make(kind, 16), make(kind, 32), make(kind, 16)
    missing, unexpected = large.load_state_dict(small.state_dict(), strict=False)
    assert missing
    assert all("32x32" in key for key in missing)
    assert not unexpected
    missing, unexpected = back.load_state_dict(large.state_dict(), strict=False)
    assert not missing
    assert all("32x32" in key for key in unexpected)
    inputs = arguments(small, size=level)
    options = {"resolution": level} if kind is Generator else {}
    want = shown(small, *inputs, **options)
    for other in (large, back):
        assert all(map(torch.equal, shown(other, *inputs, **options), want))


def test_a_state_of_another_kind_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.4x4\.dense\.weight"):
        make(Generator).load_state_dict(make(Generator, latent_dim=LATENT + 1).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*32x32"):
        make(Discriminator, 32).load_state_dict(make(Discriminator, 16).state_dict())


def assigned(network: Network, state: dict[str, Tensor]) -> None:
    network.load_state_dict(state, assign=True)


def filled(network: Network, state: dict[str, Tensor]) -> None:
    network.to_empty(device="cpu").load_state_dict(state)


@pytest.mark.parametrize("load", [assigned, filled])
@kinds
def test_networks_made_on_meta(kind: type[Network], load: Callable[[Network, dict[str, Tensor]], None]) -> None:
    network = make(kind)
    with torch.device("meta"):
        again = make(kind)
    (fake, *_), (real, *_) = (
        shown(n, *(t.to(d) for t in arguments(n))) for n, d in ((again, "meta"), (network, "cpu"))
    )
    assert (fake.shape, fake.stride(), fake.device.type) == (real.shape, real.stride(), "meta")
    load(again, network.state_dict())
    inputs = arguments(network)
    assert all(map(torch.equal, shown(again, *inputs), shown(network, *inputs)))
    assert all(p.requires_grad for p in again.parameters())


# torch.func: our nodes have no rules for it, so it goes through plain PyTorch.


def scalar(network: Network, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
    results = outputs(functional_call(network, parameters, inputs, {"alpha": ALPHA}))
    return torch.stack([t.square().sum() for t in results]).sum()


def detached(network: Network, factor: float = 1.0) -> dict[str, Tensor]:
    return {key: p.detach() * factor for key, p in network.named_parameters()}


@kinds
def test_functional_call(kind: type[Network]) -> None:
    """By our own kernels: no transform is at work."""
    network, other = make(kind, labelled=True), make(kind, labelled=True)
    inputs = arguments(network)
    parameters = {key: p.requires_grad_() for key, p in detached(other).items()}
    got = outputs(functional_call(network, parameters, inputs, {"alpha": ALPHA}))
    want = shown(other, *inputs)
    assert all(map(torch.equal, got, want))
    assert_same_gradients(gradients(got, [*parameters.values()]), gradients(want, [*other.parameters()]))
    assert all(p.grad is None for p in network.parameters())


@kinds
def test_func_grad_and_the_gradient_of_each_sample(kind: type[Network]) -> None:
    network = make(kind)
    (x,) = arguments(network)
    parameters = detached(network)
    got = torch.func.grad(lambda p: scalar(network, p, x))(parameters)
    each = torch.func.vmap(torch.func.grad(lambda p, x: scalar(network, p, x[None])), (None, 0))(parameters, x)
    leaves = {key: p.requires_grad_() for key, p in detached(network).items()}

    def eager(x: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(scalar(network, leaves, x), list(leaves.values()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, leaves.values(), strict=True)]

    torch.testing.assert_close(list(got.values()), eager(x), rtol=1e-4, atol=1e-4)
    want = [torch.stack(samples) for samples in zip(*(eager(one[None]) for one in x), strict=True)]
    torch.testing.assert_close(list(each.values()), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grad", [False, True])
@kinds
def test_vmap_over_inputs_and_over_an_ensemble(kind: type[Network], grad: bool) -> None:
    networks = [make(kind) for _ in range(2)]
    (x,) = arguments(networks[0])
    states = stack_module_state(networks)
    empty = copy.deepcopy(networks[0]).to("meta")
    xs, alphas = torch.stack([x, 2 * x]), torch.tensor([0.1, 0.9])
    with torch.set_grad_enabled(grad):
        over = torch.func.vmap(lambda x, alpha: outputs(networks[0](x, alpha=alpha))[0])(xs, alphas)
        want = [outputs(networks[0](x, alpha=a))[0] for x, a in zip(xs, alphas, strict=True)]
        torch.testing.assert_close(over, torch.stack(want), **CLOSE)
        ensemble = torch.func.vmap(lambda state: outputs(functional_call(empty, state, (x,)))[0])(states)
        torch.testing.assert_close(ensemble, torch.stack([outputs(n(x))[0] for n in networks]), **CLOSE)


@kinds
def test_jacobians_forwards_and_backwards(kind: type[Network]) -> None:
    network = make(kind, 8).double()
    (x,) = (t.double() for t in arguments(network, 1))

    def f(x: Tensor) -> Tensor:
        return outputs(network(x, alpha=ALPHA))[0].sum(0)

    backwards, forwards = torch.func.jacrev(f)(x), torch.func.jacfwd(f)(x)
    torch.testing.assert_close(forwards, backwards)
    v, step = torch.randn_like(x), 1e-6
    along = torch.func.jvp(f, (x,), (v,))[1]
    torch.testing.assert_close(along, (f(x + step * v) - f(x - step * v)) / (2 * step), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(along, (backwards * v).flatten(along.ndim).sum(-1))


# Checkpointing.


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("blocks", [False, True])
@kinds
def test_checkpointing(kind: type[Network], blocks: bool, reentrant: bool) -> None:
    """Of the network, or of every layer in it: what is recomputed is what was computed."""
    network = make(kind)
    (x,) = arguments(network)
    wanted = [x.requires_grad_(), *network.parameters()]
    runs = []
    for run in (checkpointed(network, blocks, reentrant), network):
        network.zero_grad()
        x.grad = None
        results = outputs(run(x, alpha=ALPHA))
        sum(t.square().sum() for t in results).backward()
        runs.append([None if t.grad is None else t.grad.clone() for t in wanted])
    assert_same_gradients(*runs, **CLOSE)  # a reentrant one goes forward without gradients: by other kernels


def checkpointed(network: Network, blocks: bool, reentrant: bool) -> Callable[..., Any]:
    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        if reentrant:  # takes no keywords
            return lambda x, **options: checkpoint(lambda x: forward(x, **options), x, use_reentrant=True)
        return lambda x, **options: checkpoint(forward, x, use_reentrant=False, **options)

    if not blocks:
        return wrapped(network.forward)
    network = copy_sharing_parameters(network)
    for layer in network.blocks.modules():
        if not list(layer.children()):
            layer.forward = wrapped(layer.forward)  # type: ignore[method-assign]
    return network


def copy_sharing_parameters(network: Network) -> Network:
    return copy.deepcopy(network, {id(p): p for p in network.parameters()})


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("blocks", [False, True])
def test_checkpointing_under_a_gradient_penalty(blocks: bool) -> None:
    D = make(Discriminator)
    reals, fakes, u = *torch.randn(2, 4, 3, 16, 16), torch.rand(4, 1, 1, 1)
    results = []
    for d in (checkpointed(D, blocks, reentrant=False), D):
        loss = wgan_gp_d_loss(d, reals, fakes, alpha=ALPHA, u=u)
        results.append(list(torch.autograd.grad(loss, list(D.parameters()), allow_unused=True)))
    assert_same_gradients(*results)
    with pytest.raises(RuntimeError, match=r"use_reentrant=True.* incompatible with .grad"):
        wgan_gp_d_loss(checkpointed(D, blocks, reentrant=True), reals, fakes, alpha=ALPHA, u=u)
