"""The losses that a training can take: what D and G minimise, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.training.losses import (
    Discriminate,
    Scores,
    full,
    g_loss,
    gradient_squares,
    label_loss,
    scores,
    wgan_gp_terms,
)

__all__ = ["LeastSquares", "NonSaturatingR1", "Objective", "WganGp"]

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
class _OfScores:
    """Losses that are functions of each image's score, and of D's gradients at the reals."""

    cond_weight: float = 1.0

    def of_d(self, real: Tensor, fake: Tensor) -> Tensor:
        raise NotImplementedError

    def of_g(self, fake: Tensor) -> Tensor:
        raise NotImplementedError

    def scored(
        self,
        D: Discriminate,
        reals: Tensor,
        fakes: Tensor,
        alpha: float | Tensor,
        scaler: torch.amp.GradScaler | None,
    ) -> tuple[Scores, Scores, Tensor | None]:
        """What D makes of reals and fakes, and the penalty."""
        return *scores(D, reals, fakes, alpha=alpha), None

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
        of_reals, of_fakes, penalty = self.scored(D, reals, fakes, alpha, scaler)
        (real, on_real), (fake, on_fake) = self._labelled(of_reals, labels), self._labelled(of_fakes, labels)
        terms = {"real": real, "fake": fake}
        loss = self.of_d(real, fake)
        if on_real is not None and on_fake is not None:
            terms["label"] = on_real + on_fake
            loss = loss + terms["label"]
        if penalty is not None:
            terms["penalty"] = penalty
            loss = loss + penalty
        return {"loss": loss, **terms}

    def g_loss(
        self, D: Discriminate, fakes: Tensor, labels: Tensor | None = None, *, alpha: float | Tensor = 1.0
    ) -> Tensor:
        score, label = self._labelled(D(fakes, alpha=alpha), labels)
        loss = self.of_g(score)
        return (loss if label is None else loss + label).mean()

    def _labelled(self, found: Scores, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        score, logits = found
        return full(score), None if labels is None else self.cond_weight * label_loss(logits, labels)


@dataclass(frozen=True)
class LeastSquares(_OfScores):
    """D: ((D(real) - 1)^2 + D(fake)^2) / 2, G: (D(fake) - 1)^2 / 2. Source: Mao et al. 2017, equation 9."""

    def of_d(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - 1).square() + fake.square()) / 2

    def of_g(self, fake: Tensor) -> Tensor:
        return (fake - 1).square() / 2


@dataclass(frozen=True)
class NonSaturatingR1(_OfScores):
    """D: softplus(-D(real)) + softplus(D(fake)) + gamma / 2 * ||grad D(real)||^2, G: softplus(-D(fake)).

    No gradient flows into the reals.

    Source: Goodfellow et al. 2014; Mescheder et al. 2018, equation 9.
    """

    gamma: float = 10.0

    def of_d(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real) + F.softplus(fake)

    def of_g(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake)

    def scored(
        self,
        D: Discriminate,
        reals: Tensor,
        fakes: Tensor,
        alpha: float | Tensor,
        scaler: torch.amp.GradScaler | None,
    ) -> tuple[Scores, Scores, Tensor | None]:
        squares, of_reals = gradient_squares(D, reals.detach().clone(), alpha=alpha, scaler=scaler)
        return of_reals, D(fakes, alpha=alpha), self.gamma / 2 * squares


OBJECTIVES: Mapping[str, type[WganGp | LeastSquares | NonSaturatingR1]] = {
    "wgan-gp": WganGp,
    "lsgan": LeastSquares,
    "nonsaturating-r1": NonSaturatingR1,
}
