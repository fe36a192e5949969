"""WGAN-GP as Karras et al. (2018) train with it: losses of D and G, in float32 whatever the networks compute in."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["WganGpTerms", "g_loss", "gradient_penalty", "scores", "wgan_gp_d_loss", "wgan_gp_terms"]


Scores = tuple[Tensor, "Tensor | None"]  # [N], and label logits [N, K]


class Discriminate(Protocol):
    """image [N, C, H, W] -> (score [N], label logits [N, K] or None)."""

    def __call__(self, image: Tensor, *, alpha: float | Tensor) -> tuple[Tensor, Tensor | None]: ...


class WganGpTerms(NamedTuple):
    """The weighted parts of D's loss per sample, each [N], float32 (float64 for float64 images)."""

    real_score: Tensor
    fake_score: Tensor
    penalty: Tensor  # weighted by gp_lambda / target^2
    drift: Tensor  # weighted by eps_drift
    label: Tensor  # weighted by cond_weight; 0 without labels

    @property
    def per_sample(self) -> Tensor:
        return self.fake_score - self.real_score + self.penalty + self.drift + self.label

    @property
    def loss(self) -> Tensor:
        return self.per_sample.mean()


def gradient_penalty(
    D: Discriminate,
    reals: Tensor,
    fakes: Tensor,
    *,
    alpha: float | Tensor = 1.0,
    target: float = 1.0,
    u: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """(||d D(x_hat)/d x_hat||_2 - target)^2 per sample, [N], unweighted, with a graph to D's parameters.

    x_hat = reals + (fakes - reals) * u; reals and fakes [N, C, H, W], u uniform in [0, 1) of shape [N, 1, 1, 1], drawn
    here where it is None. Only the gradient of x_hat is asked for, so the inner pass makes no weight gradients.
    `scaler` scales the scores for that pass, and its scale is taken out of the gradient in float32: under float16
    autocast small gradients would round to zero on their way.
    Where the gradient is exactly zero the norm has subgradient 0, not NaN. Raises ValueError where shapes disagree.
    Compiled in one graph with the loss (torch._dynamo.config.trace_autograd_ops), x_hat can become no leaf, so pass a
    `u` made outside with requires_grad=True. A compiled D alone cannot be differentiated twice.
    Source: Gulrajani et al. (2017), equation 3; the sum of the scores gives every sample's own gradient at once.
    """
    if fakes.shape != reals.shape:
        raise ValueError(f"fakes: expected the reals' shape {tuple(reals.shape)}, got {tuple(fakes.shape)}")
    if u is not None and u.shape != (reals.shape[0], 1, 1, 1):
        raise ValueError(f"u: expected shape {(reals.shape[0], 1, 1, 1)}, one number per sample, got {tuple(u.shape)}")
    if u is None:
        u = torch.rand(reals.shape[0], 1, 1, 1, device=reals.device, dtype=reals.dtype)
    x_hat = torch.lerp(reals.detach(), fakes.detach().to(reals.dtype), u.to(reals.dtype))
    squares = gradient_squares(D, x_hat, alpha=alpha, scaler=scaler)[0]
    positive = squares > 0
    norm = torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)
    return (norm - target).square()


def gradient_squares(
    D: Discriminate, image: Tensor, *, alpha: float | Tensor = 1.0, scaler: torch.amp.GradScaler | None = None
) -> tuple[Tensor, Scores]:
    """||d D(image)/d image||_2^2 of `image` [N, C, H, W], [N], and D's scores of it, with a graph to D's parameters."""
    image = image.requires_grad_(True)
    score, logits = D(image, alpha=alpha)
    score = full(score)
    total = score.sum()
    scaled = total if scaler is None else scaler.scale(total)
    (gradient,) = torch.autograd.grad(scaled, image, create_graph=True)
    gradient = full(gradient)
    if scaler is not None:
        gradient = gradient / scaler.scale(torch.ones_like(total))  # the scale itself, without a synchronisation
    return gradient.square().sum(dim=(1, 2, 3)), (score, logits)


def wgan_gp_terms(
    D: Discriminate,
    reals: Tensor,
    fakes: Tensor,
    labels: Tensor | None = None,
    *,
    alpha: float | Tensor = 1.0,
    gp_lambda: float = 10.0,
    target: float = 1.0,
    eps_drift: float = 0.001,
    cond_weight: float = 1.0,
    u: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> WganGpTerms:
    """The weighted parts of D's loss, for logging; arguments, errors and source as for `wgan_gp_d_loss`."""
    (real_score, real_logits), (fake_score, fake_logits) = scores(D, reals, fakes, alpha=alpha)
    real_score, fake_score = full(real_score), full(fake_score)
    if not target > 0.0:
        raise ValueError(f"target: expected a number > 0, got {target}")
    penalty = gradient_penalty(D, reals, fakes, alpha=alpha, target=target, u=u, scaler=scaler)
    penalty = penalty * (gp_lambda / target**2)
    label = torch.zeros_like(real_score)
    if labels is not None:
        label = cond_weight * (label_loss(real_logits, labels) + label_loss(fake_logits, labels))
    return WganGpTerms(real_score, fake_score, penalty, eps_drift * real_score.square(), label)


def wgan_gp_d_loss(
    D: Discriminate,
    reals: Tensor,
    fakes: Tensor,
    labels: Tensor | None = None,
    *,
    alpha: float | Tensor = 1.0,
    gp_lambda: float = 10.0,
    target: float = 1.0,
    eps_drift: float = 0.001,
    cond_weight: float = 1.0,
    u: Tensor | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """D's loss, a scalar: the mean over the batch of

        D(fake) - D(real) + gp_lambda / target^2 * (||grad D(x_hat)|| - target)^2
        + eps_drift * D(real)^2 + cond_weight * (CE_real + CE_fake)

    reals, fakes: [N, C, H, W] in about [-1, 1], fakes made with the reals' labels and no graph to G; labels: one-hot
    [N, K] or None; the cross entropies only with labels. The drift holds the reals' scores only. u and scaler: see
    `gradient_penalty`; the loss itself is not scaled. Our Discriminator takes reals and fakes as one batch: `scores`.
    In DistributedDataParallel it takes one backward pass of this sum, and find_unused_parameters=True below the full
    resolution: after a backward pass of the penalty alone processes may keep gradients of their own, without a word.
    float32, float64 for float64 images. Raises ValueError where shapes disagree, labels come to a D without logits for
    them, or target is not above 0.
    Source: Karras et al. (2018), appendix A.1; label terms as in AC-GAN.
    """
    return wgan_gp_terms(
        D,
        reals,
        fakes,
        labels,
        alpha=alpha,
        gp_lambda=gp_lambda,
        target=target,
        eps_drift=eps_drift,
        cond_weight=cond_weight,
        u=u,
        scaler=scaler,
    ).loss


def g_loss(
    D: Discriminate,
    fakes: Tensor,
    labels: Tensor | None = None,
    *,
    alpha: float | Tensor = 1.0,
    cond_weight: float = 1.0,
) -> Tensor:
    """G's loss, a scalar: mean of -D(fake), with labels plus cond_weight * cross entropy of D's label logits.

    fakes: [N, C, H, W] with their graph to G; labels: the one-hot [N, K] that they were made with, or None. float32,
    float64 for float64 images. Raises ValueError for labels that D has no logits for.
    Source: Karras et al. (2018), appendix A.1; label terms as in AC-GAN.
    """
    score, logits = D(fakes, alpha=alpha)
    loss = -full(score)
    if labels is not None:
        loss = loss + cond_weight * label_loss(logits, labels)
    return loss.mean()


def scores(D: Discriminate, reals: Tensor, fakes: Tensor, *, alpha: float | Tensor) -> tuple[Scores, Scores]:
    """D of reals and of fakes, each [N, C, H, W]: as one batch, which prepares weights once, where D's method
    `interleaving` says how that scores each image as its own batch does; else one after the other."""
    interleaving = getattr(D, "interleaving", None)
    if torch._C._is_any_autocast_enabled():
        fakes = fakes.to(reals.dtype)  # G's are half, and D rounds both to it
    alike = (reals.shape, reals.dtype, reals.device) == (fakes.shape, fakes.dtype, fakes.device)
    pieces = interleaving(len(reals)) if interleaving is not None and alike else 0
    if not pieces:
        return D(reals, alpha=alpha), D(fakes, alpha=alpha)
    both = torch.stack([t.unflatten(0, (pieces, -1)) for t in (reals, fakes)], dim=1)  # [pieces, 2, N / pieces, ...]
    score, logits = D(both.flatten(0, 2), alpha=alpha)
    real, fake = _halves(score, pieces)
    if logits is None:
        return (real, None), (fake, None)
    real_logits, fake_logits = _halves(logits, pieces)
    return (real, real_logits), (fake, fake_logits)


def _halves(t: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    """[2N, ...] of such a batch to [N, ...] of the reals and of the fakes."""
    apart = t.unflatten(0, (pieces, 2, -1))
    return apart[:, 0].flatten(0, 1), apart[:, 1].flatten(0, 1)


def full(x: Tensor) -> Tensor:
    """float32 at least: a half score or gradient would overflow in the squares."""
    return x if x.dtype == torch.float64 else x.float()


def label_loss(logits: Tensor | None, labels: Tensor) -> Tensor:
    """Softmax cross entropy per sample, [N]."""
    if logits is None:
        raise ValueError(
            "labels: expected None, as the discriminator gives no label logits (label_dim is 0), got shape "
            f"{tuple(labels.shape)}"
        )
    if labels.shape != logits.shape:
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, expected one-hot {tuple(logits.shape)}")
    logits = full(logits)
    return F.cross_entropy(logits, labels.to(logits.dtype), reduction="none")
