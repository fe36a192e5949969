"""The losses that a training can take: what D and G minimise, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.training.losses import Discriminate, full, g_loss, gradient_squares, label_loss, wgan_gp_terms

Terms = Mapping[str, Tensor]  # of a batch, each [N]: "loss", and what it is made of


class Objective(Protocol):
    """Losses per sample, float32 (float64 for float64 images); arguments as for `losses.wgan_gp_d_loss`."""

    def d_terms(
        self,
        D: Discriminate,
        reals: Tensor,
        fakes: Tensor,
        labels: Tensor | None,
        *,
        alpha: float | Tensor,
        u: Tensor | None,
        scaler: torch.amp.GradScaler | None,
    ) -> Terms: ...

    def g_loss(self, D: Discriminate, fakes: Tensor, labels: Tensor | None, *, alpha: float | Tensor) -> Tensor: ...


@dataclass(frozen=True)
class WganGp:
    """See `losses.wgan_gp_d_loss`. Source: Karras et al. 2017, appendix A.1."""

    gp_lambda: float = 10.0
    target: float = 1.0
    eps_drift: float = 0.001
    cond_weight: float = 1.0

    def d_terms(
        self,
        D: Discriminate,
        reals: Tensor,
        fakes: Tensor,
        labels: Tensor | None = None,
        *,
        alpha: float | Tensor = 1.0,
        u: Tensor | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Terms:
        terms = wgan_gp_terms(D, reals, fakes, labels, alpha=alpha, u=u, scaler=scaler, **vars(self))
        parts = {"real": terms.real_score, "fake": terms.fake_score, "penalty": terms.penalty, "drift": terms.drift}
        return {"loss": terms.per_sample, **parts, **({} if labels is None else {"label": terms.label})}

    def g_loss(
        self, D: Discriminate, fakes: Tensor, labels: Tensor | None = None, *, alpha: float | Tensor = 1.0
    ) -> Tensor:
        return g_loss(D, fakes, labels, alpha=alpha, cond_weight=self.cond_weight)


@dataclass(frozen=True)
class LeastSquares:
    """D: ((D(real) - 1)^2 + D(fake)^2) / 2, G: (D(fake) - 1)^2 / 2. Source: Mao et al. 2017, equation 9."""

    cond_weight: float = 1.0

    def d_terms(
        self,
        D: Discriminate,
        reals: Tensor,
        fakes: Tensor,
        labels: Tensor | None = None,
        *,
        alpha: float | Tensor = 1.0,
        u: Tensor | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Terms:
        real, fake, label = _scores(D, reals, fakes, labels, alpha, self.cond_weight)
        return _terms(((real - 1).square() + fake.square()) / 2, real, fake, label)

    def g_loss(
        self, D: Discriminate, fakes: Tensor, labels: Tensor | None = None, *, alpha: float | Tensor = 1.0
    ) -> Tensor:
        score, label = _scored(D, fakes, labels, alpha, self.cond_weight)
        return _plus((score - 1).square() / 2, label).mean()


@dataclass(frozen=True)
class NonSaturatingR1:
    """D: softplus(-D(real)) + softplus(D(fake)) + gamma / 2 * ||grad D(real)||^2, G: softplus(-D(fake)).

    Source: Goodfellow et al. 2014; Mescheder et al. 2018, equation 9.
    """

    gamma: float = 10.0
    cond_weight: float = 1.0

    def d_terms(
        self,
        D: Discriminate,
        reals: Tensor,
        fakes: Tensor,
        labels: Tensor | None = None,
        *,
        alpha: float | Tensor = 1.0,
        u: Tensor | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Terms:
        real, fake, label = _scores(D, reals, fakes, labels, alpha, self.cond_weight)
        squares = gradient_squares(D, reals.detach().clone(), alpha=alpha, scaler=scaler)[1]
        penalty = self.gamma / 2 * squares
        return {**_terms(F.softplus(-real) + F.softplus(fake) + penalty, real, fake, label), "penalty": penalty}

    def g_loss(
        self, D: Discriminate, fakes: Tensor, labels: Tensor | None = None, *, alpha: float | Tensor = 1.0
    ) -> Tensor:
        score, label = _scored(D, fakes, labels, alpha, self.cond_weight)
        return _plus(F.softplus(-score), label).mean()


OBJECTIVES: Mapping[str, type[WganGp | LeastSquares | NonSaturatingR1]] = {
    "wgan-gp": WganGp,
    "lsgan": LeastSquares,
    "nonsaturating-r1": NonSaturatingR1,
}


def _scored(
    D: Discriminate, images: Tensor, labels: Tensor | None, alpha: float | Tensor, weight: float
) -> tuple[Tensor, Tensor | None]:
    score, logits = D(images, alpha=alpha)
    return full(score), None if labels is None else weight * label_loss(logits, labels)


def _scores(
    D: Discriminate, reals: Tensor, fakes: Tensor, labels: Tensor | None, alpha: float | Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the reals, of the fakes, and the label terms of both."""
    real, on_real = _scored(D, reals, labels, alpha, weight)
    fake, on_fake = _scored(D, fakes, labels, alpha, weight)
    return real, fake, None if on_real is None or on_fake is None else on_real + on_fake


def _terms(loss: Tensor, real: Tensor, fake: Tensor, label: Tensor | None) -> Terms:
    return {"loss": _plus(loss, label), "real": real, "fake": fake, **({} if label is None else {"label": label})}


def _plus(loss: Tensor, label: Tensor | None) -> Tensor:
    return loss if label is None else loss + label
