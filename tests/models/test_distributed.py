"""DistributedDataParallel with both networks: two processes on gloo have the averaged gradients of the two halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ddp_program as program
import pytest
import torch
from ddp_program import RESOLUTIONS, WORLD, Data, Gradients, networks
from processes import run_ranks
from small_networks import ALPHA, assert_same_gradients
from torch import Tensor

from pggan_fast.training.losses import g_loss, wgan_gp_d_loss

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the scenes of ddp_program.py saw, in each process."""
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks(program.__file__, WORLD, str(folder))
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(WORLD)]


def averaged(loss: Callable[[Data], Tensor], network: torch.nn.Module) -> Gradients:
    """In one process: of the mean over the halves, each with its own minibatch stddev."""
    total = torch.stack([loss(Data(rank)) for rank in range(WORLD)]).mean()
    return list(torch.autograd.grad(total, list(network.parameters()), allow_unused=True))


def d_gradients() -> Gradients:
    _, D = networks()
    return averaged(lambda data: program.loss_of_d(D, data), D)


@pytest.mark.parametrize("scene", ["d_loss", "d_loss_in_buckets_of_views"])
def test_a_whole_d_loss(seen: list[dict[str, Any]], scene: str) -> None:
    """Three forward passes and a gradient penalty, summed: one backward pass."""
    for process in seen:
        assert_same_gradients(process[scene], d_gradients(), **CLOSE)


@pytest.mark.parametrize("scene", ["g_loss_through_d", "compiled"])
def test_a_g_loss(seen: list[dict[str, Any]], scene: str) -> None:
    G, D = networks()
    want = averaged(lambda data: program.loss_of_g(G, D, data), G)
    for process in seen:
        assert_same_gradients(process[scene], want, **CLOSE)


def test_a_hook_that_compresses_what_is_sent(seen: list[dict[str, Any]]) -> None:
    want = d_gradients()
    first, second = (process["compressed"] for process in seen)
    assert_same_gradients(first, want, rtol=4e-3, atol=1e-3)
    for mine, theirs, exact in zip(first, second, want, strict=True):
        assert exact is None or torch.equal(mine, theirs)
    assert not all(torch.allclose(g, w, **CLOSE) for g, w in zip(first, want, strict=True) if w is not None)


def test_hooks_are_called(seen: list[dict[str, Any]]) -> None:
    """Those of parameters with their own process's gradient, before it is averaged."""
    for rank, process in enumerate(seen):
        called, got = process["hooks"]
        _, D = networks()
        names = {key for key, layer in D.named_modules() if not isinstance(layer, torch.nn.ModuleDict)}
        assert set(called) == names - {"from_rgb.4x4"}
        assert all(called.count(key) == 3 for key in set(called))  # reals, fakes, between
        want = torch.autograd.grad(program.loss_of_d(D, Data(rank)), list(D.parameters()), allow_unused=True)
        assert_same_gradients(got, list(want), **CLOSE)


def test_training_steps_that_grow(seen: list[dict[str, Any]]) -> None:
    G, D = networks()
    optimizers = program.adam(G), program.adam(D)
    for resolution in RESOLUTIONS:

        def d_loss(data: Data, resolution: int = resolution) -> Tensor:
            reals = torch.nn.functional.avg_pool2d(data.reals, 16 // resolution)
            with torch.no_grad():
                fakes = G(data.z, resolution=resolution, alpha=ALPHA)
            return wgan_gp_d_loss(D, reals, fakes, alpha=ALPHA, u=data.u)

        def of_g(data: Data, resolution: int = resolution) -> Tensor:
            return g_loss(D, G(data.z, resolution=resolution, alpha=ALPHA), alpha=ALPHA)

        for network, optimizer, loss in ((D, optimizers[1], d_loss), (G, optimizers[0], of_g)):
            for p, g in zip(network.parameters(), averaged(loss, network), strict=True):
                p.grad = g
            optimizer.step()
    want = [p.detach() for network in (G, D) for p in network.parameters()]
    for process in seen:
        torch.testing.assert_close(process["training"], want, rtol=1e-3, atol=1e-4)
    assert all(map(torch.equal, seen[0]["training"], seen[1]["training"]))
    assert not all(map(torch.allclose, want, [p.detach() for n in networks() for p in n.parameters()]))


def test_a_separate_penalty_is_not_averaged(seen: list[dict[str, Any]]) -> None:
    """The trap of DDP, and the fault that these comparisons have to catch: processes differ, and nothing says so."""
    with pytest.raises(AssertionError, match="not close"):
        assert_same_gradients(seen[0]["separate_penalty"], seen[1]["separate_penalty"], **CLOSE)
