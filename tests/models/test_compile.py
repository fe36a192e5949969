"""torch.compile of whole networks and losses: the numbers of eager mode, in as few graphs as promised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import compiling
import pytest
import torch
from compiling import ALPHAS, TRACING, compiled
from small_networks import (
    ALPHA,
    KINDS,
    Network,
    arguments,
    assert_same_gradients,
    gradients,
    make,
    one_hot,
    outputs,
)
from torch import Tensor
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend

import pggan_fast
from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import g_loss, gradient_penalty, wgan_gp_d_loss

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
traced = pytest.mark.skipif(not TRACING, reason=compiling.WHY_NOT_TRACING)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with compiling.fresh():
        yield


def agree(network: Network, *, grad: bool = True, backend: str = "aot_eager", **options: Any) -> None:
    """Compiled and eager: outputs, their strides, and the gradients of inputs and parameters."""
    inputs = arguments(network)
    inputs[0].requires_grad_(grad)
    wanted = [inputs[0], *network.parameters()]
    runs = []
    with torch.set_grad_enabled(grad):
        for run in (compiled(network, backend=backend), network):
            results = outputs(run(*inputs, **options))
            runs.append((results, gradients(results, wanted) if grad else []))
    (got, got_gradients), (want, want_gradients) = runs
    torch.testing.assert_close(got, want, **CLOSE)
    assert [t.stride() for t in got] == [t.stride() for t in want]
    assert not any(t.is_inference() for t in got)
    if grad:
        assert_same_gradients(got_gradients, want_gradients, **CLOSE)


@pytest.mark.parametrize("grad", [True, False])  # without gradients a block is one op, of which graphs have the parts
@pytest.mark.parametrize(("alpha", "labelled"), [(1.0, True), (ALPHA, False), (torch.tensor(ALPHA), True)])
def test_generator(alpha: float | Tensor, labelled: bool, grad: bool) -> None:
    agree(make(Generator, labelled=labelled), alpha=alpha, grad=grad)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("alpha", "downsample", "labelled"), [(1.0, "down", True), (ALPHA, "down", False), (ALPHA, "pool", True)]
)
def test_discriminator(alpha: float, downsample: str, labelled: bool, grad: bool) -> None:
    agree(make(Discriminator, downsample=downsample, labelled=labelled), alpha=alpha, grad=grad)


@pytest.mark.parametrize("kind", KINDS)
def test_modes_around_a_compiled_network(kind: type[Network]) -> None:
    network = make(kind, 8)
    run, inputs = compiled(network), arguments(network)
    for mode in (torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), pggan_fast.use_backend("reference")):
        with mode:
            torch.testing.assert_close(outputs(run(*inputs, alpha=ALPHA)), outputs(network(*inputs, alpha=ALPHA)))


def test_weights_written_after_compiling_are_seen() -> None:
    network = make(Generator, 8)
    run, inputs = compiled(network), arguments(network)
    with torch.no_grad():
        with pggan_fast.frozen(network):
            first = run(*inputs)
        for p in network.parameters():
            p.data.mul_(-0.5)
        second = run(*inputs)
        torch.testing.assert_close(second, network(*inputs), **CLOSE)
    assert not torch.allclose(first, second)


# Graphs.


@pytest.mark.parametrize("kind", KINDS)
def test_layers_compiled_one_by_one(kind: type[Network]) -> None:
    """torch makes the scales, by which they differ, symbols of one graph."""
    network = make(kind, 8)
    apart = copy.deepcopy(network)
    for layer in apart.modules():
        if not list(layer.children()):
            layer.compile(backend="aot_eager", fullgraph=True)
    inputs = arguments(network)
    got, want = ([outputs(n(*inputs, alpha=ALPHA)), list(n.parameters())] for n in (apart, network))
    torch.testing.assert_close(got[0], want[0])
    assert_same_gradients(gradients(*got), gradients(*want))


def counted(
    kind: type[Network], resolution: int = 8, *, grad: bool = True
) -> tuple[Network, Callable[..., list[Tensor]], Any]:
    """A network, the same compiled and checked against it in every call, and the counter of its graphs."""
    network, counter = make(kind, resolution), CompileCounterWithBackend("aot_eager")
    run = compiled(network, backend=counter)

    def checked(*inputs: Tensor, **options: Any) -> list[Tensor]:
        with torch.set_grad_enabled(grad):
            got = outputs(run(*inputs, **options))
            torch.testing.assert_close(got, outputs(network(*inputs, **options)), **CLOSE)
        return got

    return network, checked, counter


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_make_two_graphs(kind: type[Network], grad: bool) -> None:
    """One for the first batch and one for all others, whether they are one group of D's minibatch stddev or several."""
    network, run, counter = counted(kind, grad=grad)
    for n in (2, 3, 4, 8, 12):
        (result, *_) = run(*arguments(network, n))
        if grad:
            result.sum().backward()
    assert counter.frame_count == 2
    run(*arguments(network, 1))  # torch compiles sizes 0 and 1 in
    assert counter.frame_count == 3


def test_a_batch_that_the_group_does_not_divide_is_refused() -> None:
    network, run, _ = counted(Discriminator)
    for n in (4, 8):
        run(*arguments(network, n))
    with pytest.raises(Unsupported, match="batch that group_size 4 divides"):
        run(*arguments(network, 6))
    with pytest.raises(ValueError, match="batch that group_size 4 divides, or at most 4 samples, got 6"):
        compiled(network, fullgraph=False)(*arguments(network, 6))
    run(*arguments(network, 12))


def test_a_layer_that_asks_for_the_number_of_groups_is_counted() -> None:
    """The fault that the count has to catch."""
    network, run, counter = counted(Discriminator)
    network.stddev.register_forward_pre_hook(lambda layer, x: x[0] * 2 if x[0].shape[0] > 4 else x[0])
    for n in (2, 3, 4, 8, 12):
        run(*arguments(network, n))
    assert counter.frame_count > 2


@pytest.mark.parametrize("number", [float, torch.tensor])
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_makes_two_graphs(kind: type[Network], number: Callable[[float], Any]) -> None:
    network, run, counter = counted(kind)
    inputs = arguments(network)
    for alpha in ALPHAS:
        run(*inputs, alpha=number(alpha))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_is_a_graph(kind: type[Network]) -> None:
    network, run, counter = counted(kind, 16)
    for _ in range(2):
        for level in (4, 8, 16):
            options = {} if kind is Discriminator else {"resolution": level}
            run(*arguments(network, size=level), alpha=ALPHA, **options)
    assert counter.frame_count == 3


# Losses.


class Data:
    """Arguments of D's loss, with a `u` by which x_hat has a graph: torch compiles no requires_grad_."""

    def __init__(self, labelled: bool = False, u_requires_grad: bool = True) -> None:
        self.reals, self.fakes = torch.randn(2, 4, 3, 16, 16)
        self.labels = one_hot(4) if labelled else None
        self.u = torch.rand(4, 1, 1, 1).requires_grad_(u_requires_grad)

    def loss(self, D: Discriminator, alpha: float | Tensor) -> Tensor:
        return wgan_gp_d_loss(D, self.reals, self.fakes, self.labels, alpha=alpha, u=self.u)


def losses_agree(
    loss: Callable[[], Tensor], network: Network, fullgraph: bool = True, backend: str = "aot_eager"
) -> None:
    parameters = list(network.parameters())
    runs = []
    for run in (compiled(loss, fullgraph=fullgraph, backend=backend), loss):
        value = run()
        runs.append((value, list(torch.autograd.grad(value, parameters, allow_unused=True))))
    (got, got_gradients), (want, want_gradients) = runs
    torch.testing.assert_close(got, want, **CLOSE)
    assert_same_gradients(got_gradients, want_gradients, **CLOSE)


@traced
@pytest.mark.parametrize(
    ("alpha", "downsample", "labelled"), [(1.0, "pool", False), (torch.tensor(ALPHA), "down", True)]
)
def test_a_whole_d_loss(alpha: float | Tensor, downsample: str, labelled: bool) -> None:
    D, data = make(Discriminator, downsample=downsample, labelled=labelled), Data(labelled)
    losses_agree(lambda: data.loss(D, alpha), D)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_whole_g_loss(labelled: bool) -> None:
    G, D = make(Generator, labelled=labelled), make(Discriminator, labelled=labelled)
    inputs = arguments(G)
    losses_agree(lambda: g_loss(D, G(*inputs, alpha=ALPHA), *inputs[1:], alpha=ALPHA), G)


@traced
def test_a_d_loss_that_makes_its_own_leaf_is_refused() -> None:
    """By torch 2.13. A torch that compiles it fails here: then `gradient_penalty` needs to ask for no `u`."""
    D, data = make(Discriminator), Data(u_requires_grad=False)
    with pytest.raises(Unsupported, match="requires_grad_"):
        losses_agree(lambda: data.loss(D, ALPHA), D)


@traced
@pytest.mark.slow
def test_a_d_loss_that_makes_its_own_leaf_in_several_graphs() -> None:
    D, data = make(Discriminator), Data(u_requires_grad=False)
    losses_agree(lambda: data.loss(D, ALPHA), D, fullgraph=False)


def test_differentiating_twice_through_a_compiled_network_is_refused() -> None:
    D, data = make(Discriminator), Data(u_requires_grad=False)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        gradient_penalty(compiled(D), data.reals, data.fakes, u=data.u).sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("of", ["G", "D", "loss"])
def test_inductor(of: str) -> None:
    if of == "loss" and not TRACING:
        pytest.skip(compiling.WHY_NOT_TRACING)
    if of == "loss":
        D, data = make(Discriminator), Data()
        losses_agree(lambda: data.loss(D, ALPHA), D, backend="inductor")
    else:
        agree(make(Generator if of == "G" else Discriminator), alpha=ALPHA, backend="inductor")
