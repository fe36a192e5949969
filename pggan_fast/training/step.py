"""One whole training step of D or of G: forward, loss, backward, Adam. The same code for every backend.

The optimiser is the caller's; progressive growing uses Adam with betas (0.0, 0.99) and eps 1e-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pggan_fast.training.objectives import Objective, Terms, WganGp

__all__ = ["StepResult", "d_step", "g_step"]

Reduce = Callable[[Sequence[Tensor]], None]  # gradients, to be replaced by their mean over processes


class StepResult(NamedTuple):
    """What a step tells; losses are float32, of float64 images float64."""

    loss: Tensor  # scalar, detached
    # False: a gradient was not finite, so neither parameters nor optimiser state changed. A tensor where the device has
    # decided that, see `d_step`.
    applied: bool | Tensor
    terms: Mapping[str, Tensor] = {}  # of D's loss, by name: scalars, detached


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
    u: Tensor | None = None,
    objective: Objective | None = None,
    parts: int = 1,
    reduce: Reduce | None = None,
    **loss_options: Any,
) -> StepResult:
    """One step of D: fakes without a graph, loss, backward, optimiser step.

    reals [N, C, H, W] in about [-1, 1], z [N, latent_dim] of the same N, labels one-hot [N, K] or None (the reals'
    labels, used for the fakes too). `resolution`: the nominal resolution that G draws at; None: the level of D that
    has the reals' size, or their width where D has no levels. `autocast`: the half dtype to run the networks in;
    losses and scores stay float32. `scaler`: of float16's gradients, within the penalty too; its scale is updated
    here, and G and D may share one. `objective`: the loss; None is WGAN-GP with `loss_options`, those of
    `wgan_gp_d_loss`, and `u` is the penalty's. Where any gradient is NaN or infinite the step is skipped (one check,
    one synchronisation). Raises ValueError where the batches differ or are empty.
    `parts`: gradients are added up over so many parts of the batch, one at a time, to need less memory; every parts-th
    image is in one, so that with N divisible by 4 * parts the groups of the minibatch deviation are the whole batch's.
    `reduce` gets the gradients, still scaled, before they are looked at: see `distributed`.
    Gradients are left in `.grad`, unscaled, for the caller to look at.
    A fused optimiser that has torch's attribute `found_inf`, a float32 scalar, gets it written and skips the step by it
    on the device, without a synchronisation; `applied` is a tensor then.
    """
    if reals.shape[0] != z.shape[0] or not len(z):
        raise ValueError(f"z: expected one latent per real image, {reals.shape[0]} > 0, got {z.shape[0]}")
    if resolution is None:  # nominal: a network with a non-square base has other sizes
        levels = getattr(getattr(D, "module", D), "levels", None)  # D may be in DistributedDataParallel
        resolution = levels.of_image(*reals.shape[2:]) if levels is not None else reals.shape[-1]
    chosen = WganGp(**loss_options) if objective is None else objective

    def losses(reals: Tensor, z: Tensor, labels: Tensor | None, u: Tensor | None) -> Terms:
        with _precision(reals.device, autocast):
            with torch.no_grad():
                fakes = G(z, labels, resolution=resolution, alpha=alpha)
            terms = chosen.d_terms(D, reals, fakes, labels, alpha=alpha, u=u, scaler=scaler)
        return {name: term.mean() for name, term in terms.items()}

    return _step(losses, (reals, z, labels, u), parts, optimizer, scaler, reduce)


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
    objective: Objective | None = None,
    parts: int = 1,
    reduce: Reduce | None = None,
    cond_weight: float = 1.0,
) -> StepResult:
    """One step of G through a frozen D; arguments and the skipped step as in `d_step`.

    D's parameters ask for no gradient while this runs (their own flags come back afterwards), so its backward makes
    input gradients only.
    """
    chosen = WganGp(cond_weight=cond_weight) if objective is None else objective

    def losses(z: Tensor, labels: Tensor | None) -> Terms:
        with _precision(z.device, autocast):
            fakes = G(z, labels, resolution=resolution, alpha=alpha)
            return {"loss": chosen.g_loss(D, fakes, labels, alpha=alpha)}

    with frozen_parameters(D):
        return _step(losses, (z, labels), parts, optimizer, scaler, reduce)


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


def _step(
    losses: Callable[..., Terms],
    batch: tuple[Tensor | None, ...],
    parts: int,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    reduce: Reduce | None,
) -> StepResult:
    """Backward of each part's loss, then one step.

    The scaler counts an infinite gradient when it unscales: `update` halves the scale then.
    """
    first = batch[0]
    assert first is not None
    if not 1 <= parts <= len(first):
        raise ValueError(f"parts: expected 1 to {len(first)}, the images of the batch, got {parts}")
    optimizer.zero_grad(set_to_none=True)
    total: dict[str, Tensor] = {}
    for part in range(parts):
        taken = batch if parts == 1 else tuple(None if t is None else t[part::parts] for t in batch)
        share = 1.0 if parts == 1 else len(taken[0]) / len(first)  # type: ignore[arg-type]
        terms = losses(*taken)
        loss = terms["loss"] * share
        (loss if scaler is None else scaler.scale(loss)).backward()
        for name, term in terms.items():
            total[name] = total.get(name, 0.0) + term.detach() * share
    if reduce is not None:
        reduce(_gradients(optimizer))
    if scaler is not None:
        scaler.unscale_(optimizer)
    applied = _apply(optimizer)
    if scaler is not None:
        scaler.update()
    return StepResult(total["loss"], applied, total)


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Of the parameters that took part; the same on every process that ran the same stage."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _apply(optimizer: torch.optim.Optimizer) -> bool | Tensor:
    """Step unless a gradient is not finite, or so large that its square, of which Adam keeps a mean, is not.

    The 2-norm over all of them tells, at a tenth of the time that the largest magnitude takes; of float16 gradients in
    float32, as many small ones have a norm beyond float16.
    """
    grads = [g.float() if g.dtype == torch.float16 else g for g in _gradients(optimizer)]
    finite = torch.nn.utils.get_total_norm(grads).isfinite()
    if (found_inf := getattr(optimizer, "found_inf", None)) is not None:
        found_inf.copy_(~finite)
        optimizer.step()
        return finite
    if applied := bool(finite):
        optimizer.step()
    return applied
