"""What users run, on meta tensors, so that it costs nothing: whole networks and training steps, and every op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from pggan_fast.benchmarks.cases import default_batch
from torch import Tensor

from pggan_fast import ops
from pggan_fast.backends import registry
from pggan_fast.models import Discriminator, Generator
from pggan_fast.ops import _register
from pggan_fast.training.losses import g_loss, wgan_gp_d_loss

RESOLUTIONS = tuple(2**i for i in range(2, 11))
Run = Callable[[], Any]


@contextmanager
def chosen(implementation: Callable[[str, tuple[Any, ...]], Callable[..., Any] | None]) -> Iterator[None]:
    """Every op on any tensor runs `implementation(op, arguments)`, and aten where that is None."""

    def choose(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> registry.Chosen:
        return registry.Chosen(implementation(op, args) or registry._TABLE["aten", op].run, "forced")

    with ExitStack() as patches:
        registry.forget()  # what fits a chip decides who runs
        patches.callback(registry.forget)
        patches.enter_context(patch.object(registry, "choose", choose))
        patches.enter_context(patch.object(_register, "needs_dispatcher", lambda x: False))
        patches.enter_context(patch.object(torch, "is_autocast_enabled", lambda *device: False))
        yield


def model_runs(dtype: torch.dtype, resolutions: Sequence[int] = RESOLUTIONS, batch: int | None = None) -> list[Run]:
    """A D step with gradient penalty and a G step while each resolution fades in, and a forward of each network."""
    with torch.device("meta"):
        top = max(resolutions)
        G, D = Generator(top), Discriminator(top)  # parameters in float32, as in mixed-precision training
    batches = {r: batch or default_batch(r, torch.device("cuda")) for r in resolutions}
    return [lambda r=r, n=n: _steps(G, D, r, n, dtype) for r, n in batches.items()]


def _steps(G: Any, D: Any, resolution: int, batch: int, dtype: torch.dtype) -> None:
    z = torch.empty(batch, G.latent_dim, dtype=dtype, device="meta")
    reals = torch.empty(batch, 3, resolution, resolution, dtype=dtype, device="meta")
    alpha = torch.empty((), device="meta")
    for fading in (alpha, 1.0):
        with torch.no_grad():
            fakes = G(z, resolution=resolution, alpha=fading)
        wgan_gp_d_loss(D, reals, fakes, None, alpha=fading).backward()
        g_loss(D, G(z, resolution=resolution, alpha=fading), None, alpha=fading).backward()


def op_runs(dtype: torch.dtype, channels: Sequence[int] = (24, 64), size: int = 64) -> list[Run]:
    """What the networks do not use: planes, pooling, the other norm, few channels, images that are faded in place."""
    runs: list[Run] = [lambda c=c, cl=cl: _ops(c, cl, dtype, size) for c in channels for cl in (True, False)]
    runs.append(lambda: unbiased(dtype))
    runs.append(lambda: _ops(1, True, dtype, 2))  # an int 1 is compiled in
    if dtype != torch.float32:  # exact products with 64-bit indices spill a little, at sizes that no network has
        runs.append(lambda: _many_pixels(dtype))
    return runs


def _many_pixels(dtype: torch.dtype) -> None:
    """2^31 pixels."""
    x, w = (torch.empty(s, device="meta") for s in ((2, 16, 2**15, 2**15), (16, 16, 3, 3)))
    y = ops.scaled_conv2d(x.to(dtype).requires_grad_(), w.requires_grad_(), weight_scale=0.1)
    y.sum().backward()


def unbiased(dtype: torch.dtype) -> None:
    """Each op that may have a bias, without."""
    x, high, image = (torch.empty(2, c, s, s, dtype=dtype, device="meta") for c, s in ((24, 8), (16, 16), (3, 16)))
    w, rgb, low, first = (
        torch.empty(s, device="meta") for s in ((24, 24, 3, 3), (3, 16, 1, 1), (3, 24, 1, 1), (24, 3, 1, 1))
    )
    alpha = torch.empty((), device="meta")
    ops.scaled_conv2d(x, w, weight_scale=0.1, negative_slope=0.2, pixel_norm="after_act")
    ops.bias_act(x, negative_slope=0.2, pixel_norm="before_act")
    ops.from_rgb_fade_in(image, x, first, None, alpha, weight_scale=1.0)
    ops.to_rgb_fade_in(x, high, low, None, rgb, None, alpha, weight_scale_low=1.0, weight_scale_high=1.0)


def _ops(c: int, channels_last: bool, dtype: torch.dtype, size: int) -> None:
    form = torch.channels_last if channels_last else torch.contiguous_format

    def image(channels: int, side: int = size) -> Tensor:
        return torch.empty(2, channels, side, side, dtype=dtype, device="meta", memory_format=form).requires_grad_()

    def weights(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta").requires_grad_()

    alpha, x = torch.empty((), device="meta"), image(c)
    results = [
        ops.scaled_conv2d(x, weights(c, c, 3, 3), weights(c), weight_scale=0.1, resample=how, negative_slope=0.2,
                          pixel_norm=norm)
        for how, norm in (("none", "after_act"), ("up", "before_act"), ("down", "none"), ("pool", "none"))
    ]  # fmt: skip
    norms = ("none", "after_act", "before_act")
    results += [ops.bias_act(x, weights(c), negative_slope=0.2, pixel_norm=n, eps_mode="outside") for n in norms]
    results.append(ops.minibatch_stddev(x, 2))
    results.append(ops.minibatch_stddev(x, 2, grouping="adjacent", unbiased=True))
    results += [ops.fade_in(x, image(c), alpha), ops.fade_in(image(3, size // 2), image(3), alpha)]
    results.append(ops.fade_reals(image(3), alpha))
    results.append(
        ops.from_rgb_fade_in(image(3, 2 * size), x, weights(c, 3, 1, 1), weights(c), alpha, weight_scale=1.0)
    )
    results.append(
        ops.to_rgb_fade_in(image(c, size // 2), x, weights(3, c, 1, 1), weights(3), weights(3, c, 1, 1), weights(3),
                           alpha, weight_scale_low=1.0, weight_scale_high=1.0)
    )  # fmt: skip
    for y in results:
        loss = y.float().sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True, allow_unused=True)
        (loss if first is None or not first.requires_grad else first.float().sum()).backward()
