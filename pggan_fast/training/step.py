"""One whole training step of D or of G: forward, loss, backward, Adam. The same code for every backend.

The optimiser is the caller's; progressive growing uses Adam with betas (0.0, 0.99) and eps 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pggan_fast.training.losses import g_loss, wgan_gp_d_loss


class StepResult(NamedTuple):
    loss: Tensor  # scalar, detached
    applied: bool  # False: a gradient was not finite, so neither parameters nor optimiser state changed


def d_step(
    G: Callable[..., Tensor],
    D: nn.Module,
    optimizer: torch.optim.Optimizer,
    reals: Tensor,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    resolution: int | None = None,
    alpha: float | Tensor = 1.0,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    **loss_options: Any,
) -> StepResult:
    """One WGAN-GP step of D: fakes without a graph, loss, backward, optimiser step.

    reals [N, C, H, W] in about [-1, 1], z [N, latent_dim] of the same N, labels one-hot [N, K] or None (the reals'
    labels, used for the fakes too). `resolution`: the nominal resolution that G draws at; None: the level of D that
    has the reals' size, or their width where D has no levels. `autocast`: the half dtype to run the networks in;
    losses and scores stay float32. `scaler`: of float16's gradients, within the penalty too; its scale is updated
    here, and G and D may share one. `loss_options` go to `wgan_gp_d_loss`. Where any gradient is NaN or infinite the
    step is skipped (one check, one synchronisation). Raises ValueError where the batches differ or are empty.
    Gradients are left in `.grad`, unscaled, for the caller to look at.
    """
    if reals.shape[0] != z.shape[0] or not len(z):
        raise ValueError(f"z: expected one latent per real image, {reals.shape[0]} > 0, got {z.shape[0]}")
    if resolution is None:  # nominal: a network with a non-square base has other sizes
        levels = getattr(getattr(D, "module", D), "levels", None)  # D may be in DistributedDataParallel
        resolution = levels.of_image(*reals.shape[2:]) if levels is not None else reals.shape[-1]
    optimizer.zero_grad(set_to_none=True)
    with _precision(reals.device, autocast):
        with torch.no_grad():
            fakes = G(z, labels, resolution=resolution, alpha=alpha)
        loss = wgan_gp_d_loss(D, reals, fakes, labels, alpha=alpha, scaler=scaler, **loss_options)
    return _finish(loss, optimizer, scaler)


def g_step(
    G: Callable[..., Tensor],
    D: nn.Module,
    optimizer: torch.optim.Optimizer,
    z: Tensor,
    labels: Tensor | None = None,
    *,
    resolution: int | None = None,
    alpha: float | Tensor = 1.0,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    cond_weight: float = 1.0,
) -> StepResult:
    """One step of G through a frozen D; arguments and the skipped step as in `d_step`.

    D's parameters ask for no gradient while this runs (their own flags come back afterwards), so its backward makes
    input gradients only.
    """
    optimizer.zero_grad(set_to_none=True)
    with frozen_parameters(D):
        with _precision(z.device, autocast):
            fakes = G(z, labels, resolution=resolution, alpha=alpha)
            loss = g_loss(D, fakes, labels, alpha=alpha, cond_weight=cond_weight)
        return _finish(loss, optimizer, scaler)


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """`module`'s parameters with requires_grad False inside the block, each as it was before afterwards."""
    held = [p for p in module.parameters() if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def _precision(device: torch.device, autocast: torch.dtype | None) -> AbstractContextManager[Any]:
    if autocast not in (None, torch.float16, torch.bfloat16):
        raise ValueError(f"autocast: expected torch.float16, torch.bfloat16 or None, got {autocast!r}")
    return nullcontext() if autocast is None else torch.autocast(device.type, autocast)


def _finish(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> StepResult:
    """Backward and step. The scaler counts an infinite gradient when it unscales: `update` halves the scale then."""
    if scaler is None:
        loss.backward()
        return StepResult(loss.detach(), _apply(optimizer))
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    applied = _apply(optimizer)
    scaler.update()
    return StepResult(loss.detach(), applied)


def _apply(optimizer: torch.optim.Optimizer) -> bool:
    """Step unless a gradient is not finite, or so large that its square, of which Adam keeps a mean, is not.

    The 2-norm over all of them tells, at a tenth of the time that the largest magnitude takes; of float16 gradients in
    float32, as many small ones have a norm beyond float16.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    grads = [g.float() if g.dtype == torch.float16 else g for g in grads]
    finite = bool(torch.nn.utils.get_total_norm(grads).isfinite())
    if finite:
        optimizer.step()
    return finite
