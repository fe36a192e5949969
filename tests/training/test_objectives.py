"""The losses by name against their formulas, sample by sample, and their gradients against finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pggan_fast.training.losses import g_loss, wgan_gp_d_loss
from pggan_fast.training.objectives import OBJECTIVES, LeastSquares, NonSaturatingR1, WganGp

N, K = 5, 3


class Judge(torch.nn.Module):
    """Smooth; its score's gradient is a + cos(b x) b."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.randn(12, dtype=torch.float64) / 3) for _ in range(2))
        self.c = torch.nn.Parameter(torch.randn(12, K, dtype=torch.float64))

    def forward(self, image: Tensor, *, alpha: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        x = image.flatten(1)
        return x @ self.a + alpha * torch.sin(x @ self.b), x @ self.c

    def squares(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        return (self.a + torch.cos(x @ self.b)[:, None] * self.b).square().sum(1)


@pytest.fixture
def D() -> Judge:
    return Judge()


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Reals, fakes and labels."""
    reals, fakes = (torch.randn(N, 3, 2, 2, dtype=torch.float64) for _ in range(2))
    return reals, fakes, torch.eye(K, dtype=torch.float64)[torch.arange(N) % K]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def cross_entropy(logits: Tensor, label: Tensor) -> float:
    x = [float(v) for v in logits.detach()]
    return math.log(sum(map(math.exp, x))) - x[int(label.argmax())]


def by_hand(name: str, real: float, fake: float, squares: float) -> tuple[float, float]:
    """D's and G's loss of one sample."""
    if name == "lsgan":
        return ((real - 1) ** 2 + fake**2) / 2, (fake - 1) ** 2 / 2
    return softplus(-real) + softplus(fake) + 5.0 * squares, softplus(-fake)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("name", ["lsgan", "nonsaturating-r1"])
def test_formula(D: Judge, images: tuple[Tensor, Tensor, Tensor], name: str, labelled: bool) -> None:
    reals, fakes, labels = images
    objective = OBJECTIVES[name](cond_weight=0.5)
    given = labels if labelled else None
    terms = objective.d_terms(D, reals, fakes, given)
    of_g = objective.g_loss(D, fakes, given)
    expected_g = 0.0
    for i in range(N):
        real, fake = (float(D(x[i : i + 1])[0].detach()) for x in (reals, fakes))
        loss_d, loss_g = by_hand(name, real, fake, float(D.squares(reals[i : i + 1]).detach()))
        if labelled:
            on_real, on_fake = (cross_entropy(D(x[i : i + 1])[1][0], labels[i]) for x in (reals, fakes))
            loss_d, loss_g = loss_d + 0.5 * (on_real + on_fake), loss_g + 0.5 * on_fake
        assert terms["loss"][i].item() == pytest.approx(loss_d, rel=1e-10)
        assert terms["real"][i].item() == pytest.approx(real, rel=1e-10)
        expected_g += loss_g / N
    assert of_g.item() == pytest.approx(expected_g, rel=1e-10)


def test_wgan_gp_is_the_loss_of_losses(D: Judge, images: tuple[Tensor, Tensor, Tensor]) -> None:
    reals, fakes, labels = images
    options: dict[str, Any] = {"gp_lambda": 3.0, "target": 2.0, "eps_drift": 0.1, "cond_weight": 0.7}
    u = torch.rand(N, 1, 1, 1, dtype=torch.float64)
    objective = WganGp(**options)
    terms = objective.d_terms(D, reals, fakes, labels, u=u)
    torch.testing.assert_close(terms["loss"].mean(), wgan_gp_d_loss(D, reals, fakes, labels, u=u, **options))
    parts = terms["fake"] - terms["real"] + terms["penalty"] + terms["drift"] + terms["label"]
    torch.testing.assert_close(terms["loss"], parts)
    torch.testing.assert_close(objective.g_loss(D, fakes, labels), g_loss(D, fakes, labels, cond_weight=0.7))


@pytest.mark.parametrize("objective", [LeastSquares(), NonSaturatingR1(gamma=2.0)], ids=lambda o: type(o).__name__)
def test_gradients(D: Judge, images: tuple[Tensor, Tensor, Tensor], objective: Any) -> None:
    reals, fakes, labels = images

    def of_d(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        def changed(image: Tensor, **options: Any) -> Any:
            return torch.func.functional_call(D, {"a": a, "b": b, "c": c}, (image,), options)

        return objective.d_terms(changed, reals, fakes, labels)["loss"].mean()

    assert torch.autograd.gradcheck(of_d, tuple(p.detach().requires_grad_() for p in D.parameters()))
    assert torch.autograd.gradcheck(lambda x: objective.g_loss(D, x, labels), (fakes.requires_grad_(),))


def test_r1_leaves_the_callers_images_alone(D: Judge, images: tuple[Tensor, Tensor, Tensor]) -> None:
    reals, fakes, _ = images
    NonSaturatingR1().d_terms(D, reals, fakes)["loss"].mean().backward()
    assert not reals.requires_grad
    assert reals.grad is None
