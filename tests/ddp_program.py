"""One of two processes that train together: `ddp_program.py RANK FOLDER`. Writes FOLDER/RANK: what each scene saw.

Each takes its half of the batch. models/test_distributed.py computes the same in one process, by these functions.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from small_networks import ALPHA, Network, make
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import g_loss, wgan_gp_d_loss
from pggan_fast.training.step import d_step, g_step

WORLD = 2
HALF = 4  # samples of each process: one group of D's minibatch stddev
RESOLUTIONS = (8, 16, 16)  # of a training that grows

Gradients = list[Tensor | None]


class Data:
    """Of all processes or of one."""

    def __init__(self, rank: int | None = None) -> None:
        rng = torch.Generator().manual_seed(7)
        mine = slice(None) if rank is None else slice(rank * HALF, (rank + 1) * HALF)
        n = WORLD * HALF
        self.reals, self.fakes = (torch.randn(n, 3, 16, 16, generator=rng)[mine] for _ in range(2))
        self.z, self.u = torch.randn(n, 16, generator=rng)[mine], torch.rand(n, 1, 1, 1, generator=rng)[mine]


def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    return make(Generator), make(Discriminator)


def adam(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=0.001, betas=(0.0, 0.99), eps=1e-8)


def loss_of_d(D: Callable[..., Any], data: Data) -> Tensor:
    return wgan_gp_d_loss(D, data.reals, data.fakes, alpha=ALPHA, u=data.u)


def loss_of_g(G: Callable[..., Any], D: Callable[..., Any], data: Data) -> Tensor:
    return g_loss(D, G(data.z, alpha=ALPHA), alpha=ALPHA)


def gradients(network: torch.nn.Module) -> Gradients:
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def repeatedly(network: torch.nn.Module, loss: Callable[[], Tensor]) -> Gradients:
    """Twice: DDP notices in the second forward what was missing in the first backward."""
    for _ in range(2):
        network.zero_grad()
        loss().backward()
    return gradients(network)


def wrapped(network: torch.nn.Module, **options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(network, find_unused_parameters=True, **options)


# Scenes.


def d_loss(rank: int) -> Gradients:
    _, D = networks()
    ddp = wrapped(D)
    return repeatedly(D, lambda: loss_of_d(ddp, Data(rank)))


def d_loss_in_buckets_of_views(rank: int) -> Gradients:
    _, D = networks()
    ddp = wrapped(D, gradient_as_bucket_view=True, bucket_cap_mb=0.01)
    return repeatedly(D, lambda: loss_of_d(ddp, Data(rank)))


def g_loss_through_d(rank: int) -> Gradients:
    G, D = networks()
    ddp = wrapped(G)
    return repeatedly(G, lambda: loss_of_g(ddp, D, Data(rank)))


def compiled(rank: int) -> Gradients:
    G, D = networks()
    ddp = torch.compile(wrapped(G), backend="aot_eager")
    return repeatedly(G, lambda: loss_of_g(ddp, D, Data(rank)))


def compressed(rank: int) -> Gradients:
    _, D = networks()
    ddp = wrapped(D)
    ddp.register_comm_hook(None, fp16_compress_hook)
    return repeatedly(D, lambda: loss_of_d(ddp, Data(rank)))


def hooks(rank: int) -> tuple[list[str], Gradients]:
    """The layers that forward hooks saw, and the gradients that parameters' hooks saw before they were averaged."""
    _, D = networks()
    ddp, called, seen = wrapped(D), [], {}
    for key, p in D.named_parameters():
        p.register_hook(lambda g, key=key: seen.update({key: g.clone()}))
    for key, layer in D.named_modules():
        layer.register_forward_hook(lambda *args, key=key: called.append(key))
    loss_of_d(ddp, Data(rank)).backward()
    return called, [seen.get(key) for key, _ in D.named_parameters()]


def training(rank: int) -> list[Tensor]:
    """Whole steps of both networks, growing: the parameters at the end."""
    G, D = networks()
    ddp_g, ddp_d, data = wrapped(G), wrapped(D), Data(rank)
    optimizers = adam(G), adam(D)
    for resolution in RESOLUTIONS:
        options: dict[str, Any] = {"resolution": resolution, "alpha": ALPHA}
        reals = torch.nn.functional.avg_pool2d(data.reals, 16 // resolution)
        assert d_step(ddp_g, ddp_d, optimizers[1], reals, data.z, u=data.u, **options).applied
        assert g_step(ddp_g, ddp_d, optimizers[0], data.z, **options).applied
    return [p.detach() for network in (G, D) for p in network.parameters()]


def separate_penalty(rank: int) -> Gradients:
    """What must not be done: the critic's backward unsynchronised, then a penalty's, which reaches not all of D.

    In plain PyTorch, whose biases after the last activation are then no part of the graph. Those of fused layers are.
    """
    torch.manual_seed(0)
    D = make(Discriminator, backend="reference")
    ddp, data = wrapped(D), Data(rank)
    with ddp.no_sync():
        (ddp(data.fakes, alpha=ALPHA)[0] - ddp(data.reals, alpha=ALPHA)[0]).mean().backward()
    x = data.reals.clone().requires_grad_()
    (g,) = torch.autograd.grad(ddp(x, alpha=ALPHA)[0].sum(), x, create_graph=True)
    g.square().sum().backward()
    return gradients(D)


SCENES = (
    d_loss, d_loss_in_buckets_of_views, g_loss_through_d, compiled, compressed, hooks, training, separate_penalty,
)  # fmt: skip

if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=180),
    )
    try:
        torch.save({scene.__name__: scene(rank) for scene in SCENES}, folder / str(rank))
    finally:
        dist.destroy_process_group()
