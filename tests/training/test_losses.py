import contextlib
import functools
import math

import pytest
import torch
from torch import nn

from pggan_fast.models import Discriminator
from pggan_fast.training.losses import g_loss, gradient_penalty, scores, wgan_gp_d_loss, wgan_gp_terms
from pggan_fast.training.step import _apply, d_step, frozen_parameters, g_step

N, CHANNELS, SIZE, LABELS, LATENT = 5, 3, 4, 4, 6


class TinyD(nn.Module):
    """Smooth, so that finite differences hold; its score's input gradient is known in closed form."""

    def __init__(self, labels=LABELS):
        super().__init__()
        pixels = CHANNELS * SIZE * SIZE
        self.a = nn.Parameter(torch.randn(pixels, dtype=torch.float64) / 4)
        self.b = nn.Parameter(torch.randn(pixels, dtype=torch.float64) / 4)
        self.c = nn.Parameter(torch.randn(pixels, labels, dtype=torch.float64)) if labels else None

    def forward(self, image, *, alpha=1.0):
        x = image.flatten(1).to(self.a.dtype)
        return x @ self.a + alpha * torch.sin(x @ self.b), None if self.c is None else x @ self.c

    def input_gradient(self, image, alpha=1.0):
        x = image.flatten(1)
        return self.a + alpha * torch.cos(x @ self.b)[:, None] * self.b


class TinyG(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(LATENT, CHANNELS * SIZE * SIZE, dtype=torch.float64))

    def forward(self, z, labels=None, *, resolution=None, alpha=1.0):
        assert resolution in (None, SIZE)
        return torch.tanh(z.to(self.w.dtype) @ self.w).view(-1, CHANNELS, SIZE, SIZE)


@pytest.fixture
def data():
    torch.manual_seed(0)
    reals, fakes = (torch.randn(N, CHANNELS, SIZE, SIZE, dtype=torch.float64) for _ in range(2))
    labels = torch.eye(LABELS, dtype=torch.float64)[torch.tensor([0, 1, 2, 3, 1])]
    return TinyD(), reals, fakes, labels, torch.rand(N, 1, 1, 1, dtype=torch.float64)


def expected_d_loss(D, reals, fakes, labels, u, *, alpha, gp_lambda, target, eps_drift, cond_weight):
    """The formula sample by sample, with the input gradient in closed form."""
    total = 0.0
    for i in range(N):
        real, fake = reals[i : i + 1], fakes[i : i + 1]
        (real_score, real_logits), (fake_score, fake_logits) = D(real, alpha=alpha), D(fake, alpha=alpha)
        x_hat = (1 - u[i]) * real + u[i] * fake
        norm = math.sqrt(float(D.input_gradient(x_hat, alpha).detach().square().sum()))
        total += float((fake_score - real_score).detach()) + gp_lambda / target**2 * (norm - target) ** 2
        total += eps_drift * float(real_score.detach()) ** 2
        if labels is not None:
            k = int(labels[i].argmax())
            for logits in (real_logits, fake_logits):
                total += cond_weight * float((torch.logsumexp(logits[0], 0) - logits[0, k]).detach())
    return total / N


@pytest.mark.parametrize("with_labels", [False, True])
@pytest.mark.parametrize(("target", "alpha"), [(1.0, 1.0), (750.0, 0.3)])
def test_d_loss_is_the_formula(data, with_labels, target, alpha):
    D, reals, fakes, labels, u = data
    labels = labels if with_labels else None
    options = {"alpha": alpha, "gp_lambda": 7.0, "target": target, "eps_drift": 0.01, "cond_weight": 0.5}
    loss = wgan_gp_d_loss(D, reals, fakes, labels, u=u, **options)
    expected = expected_d_loss(D, reals, fakes, labels, u, **options)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)
    wrong = expected_d_loss(D, reals, fakes, labels, 1 - u, **options)  # u belongs to the fakes
    assert float(loss.detach()) != pytest.approx(wrong, rel=1e-6)


def test_defaults_are_the_official_ones(data):
    D, reals, fakes, labels, u = data
    official = {"alpha": 1.0, "gp_lambda": 10.0, "target": 1.0, "eps_drift": 0.001, "cond_weight": 1.0}
    loss = wgan_gp_d_loss(D, reals, fakes, labels, u=u)
    assert float(loss.detach()) == pytest.approx(expected_d_loss(D, reals, fakes, labels, u, **official), rel=1e-12)


def test_gradients_of_the_d_loss_match_finite_differences(data):
    D, reals, fakes, labels, u = data
    wgan_gp_d_loss(D, reals, fakes, labels, u=u).backward()
    for p in D.parameters():
        direction = torch.randn_like(p)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p += step * direction
            values.append(float(wgan_gp_d_loss(D, reals, fakes, labels, u=u).detach()))
            with torch.no_grad():
                p -= step * direction
        numeric = (values[0] - values[1]) / 2e-5
        assert float((p.grad * direction).sum()) == pytest.approx(numeric, rel=1e-6)


def test_terms_add_up_and_g_loss_is_minus_the_score(data):
    D, reals, fakes, labels, u = data
    terms = wgan_gp_terms(D, reals, fakes, labels, u=u)
    assert torch.equal(terms.loss, wgan_gp_d_loss(D, reals, fakes, labels, u=u))
    score, logits = D(fakes)
    entropy = -(labels * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(g_loss(D, fakes), -score.mean())
    torch.testing.assert_close(g_loss(D, fakes, labels, cond_weight=0.5), (0.5 * entropy - score).mean())


def test_zero_gradient_has_a_zero_subgradient_not_nan(data):
    _, reals, fakes, _, u = data
    D = TinyD(labels=0)
    with torch.no_grad():
        D.a.zero_()
        D.b.zero_()
    penalty = gradient_penalty(D, reals, fakes, u=u)
    assert torch.equal(penalty, torch.ones(N, dtype=torch.float64))
    penalty.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in D.parameters())


def test_penalty_uses_each_samples_own_u_and_draws_it_in_the_unit_interval(data):
    D, reals, fakes, _, u = data
    seen = []

    def watching(image, *, alpha):
        seen.append(image.detach())
        return D(image, alpha=alpha)

    gradient_penalty(watching, reals, fakes, u=u)
    torch.testing.assert_close(seen[0], reals + (fakes - reals) * u)
    gradient_penalty(watching, reals, fakes)
    drawn = (seen[1] - reals) / (fakes - reals)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    torch.testing.assert_close(drawn, drawn[:, :1, :1, :1].expand_as(drawn))
    assert drawn[:, 0, 0, 0].unique().numel() == N


def test_half_scores_give_float32_losses_that_do_not_overflow():
    def D(image, *, alpha):
        return image.sum((1, 2, 3)) * 300, None  # gradient 300 per pixel: its square leaves float16's range

    reals = torch.randn(2, 3, 4, 4, dtype=torch.float16)
    loss = wgan_gp_d_loss(D, reals, -reals)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_labels_without_logits_and_of_the_wrong_shape_are_refused(data):
    D, reals, fakes, labels, _ = data
    with pytest.raises(ValueError, match="label_dim is 0"):
        g_loss(TinyD(labels=0), fakes, labels)
    with pytest.raises(ValueError, match="expected one-hot"):
        wgan_gp_d_loss(D, reals, fakes, labels[:, :2])


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=0.001, betas=(0.0, 0.99), eps=1e-8)


def test_d_step_moves_d_only_against_its_gradient(data):
    D, reals, _, labels, u = data
    G, z = TinyG(), torch.randn(N, LATENT, dtype=torch.float64)
    expected = torch.autograd.grad(wgan_gp_d_loss(D, reals, G(z).detach(), labels, u=u), list(D.parameters()))
    before = [p.detach().clone() for p in D.parameters()]
    result = d_step(G, D, adam(D), reals, z, labels, u=u)
    assert result.applied
    assert not result.loss.requires_grad
    assert all(p.grad is None for p in G.parameters())
    for p, old, gradient in zip(D.parameters(), before, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
        torch.testing.assert_close(p.detach(), old - 0.001 * gradient.sign(), rtol=0, atol=1e-6)  # Adam's first step


def test_g_step_moves_g_only_and_gives_d_its_flags_back(data):
    D, _, _, labels, _ = data
    G, z = TinyG(), torch.randn(N, LATENT, dtype=torch.float64)
    D.b.requires_grad_(False)
    (expected,) = torch.autograd.grad(g_loss(D, G(z), labels), [G.w])
    before = [p.detach().clone() for p in D.parameters()]
    assert g_step(G, D, adam(G), z, labels, resolution=SIZE).applied
    torch.testing.assert_close(G.w.grad, expected)
    assert all(p.grad is None and torch.equal(p, old) for p, old in zip(D.parameters(), before, strict=True))
    assert [D.a.requires_grad, D.b.requires_grad, D.c.requires_grad] == [True, False, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_skips_the_step(data, bad):
    D, reals, _, labels, u = data
    G, z = TinyG(), torch.randn(N, LATENT, dtype=torch.float64)
    optimizer = adam(D)
    before = [p.detach().clone() for p in D.parameters()]
    reals = reals.clone()
    reals[2, 1, 0, 0] = bad
    result = d_step(G, D, optimizer, reals, z, labels, u=u)
    assert not result.applied
    assert not optimizer.state
    assert all(torch.equal(p, old) for p, old in zip(D.parameters(), before, strict=True))


def test_many_small_float16_gradients_do_not_skip_the_step():
    """Their norm is 80000, beyond float16."""
    p = torch.nn.Parameter(torch.zeros(10000, dtype=torch.float16))
    p.grad = torch.full_like(p, 800.0)
    assert _apply(torch.optim.SGD([p], lr=1e-4))
    p.grad[7] = math.inf
    assert not _apply(torch.optim.SGD([p], lr=1e-4))


def test_frozen_parameters_come_back_after_an_error():
    D = TinyD()
    flags = []

    def fail():
        with frozen_parameters(D):
            flags.append(D.a.requires_grad)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert flags == [False]
    assert D.a.requires_grad


@pytest.mark.parametrize(
    ("n", "options", "passes"),
    [
        (8, {}, 1), (4, {}, 1), (12, {"label_dim": 3}, 1), (6, {"stddev_group": 3}, 1),
        (8, {"stddev_grouping": "adjacent"}, 1), (3, {"stddev_group": 0}, 1),
        (2, {}, 2), (3, {"stddev_group": 8}, 2), (8, {"backend": "reference"}, 2),
    ],
    ids=str,
)  # fmt: skip
def test_reals_and_fakes_score_alike_in_one_pass(n, options, passes):
    torch.manual_seed(0)
    D = Discriminator(8, fmap_max=8, **options).double()
    reals, fakes = (torch.randn(n, CHANNELS, 8, 8, dtype=torch.float64) for _ in range(2))
    weights = torch.randn(2, n, dtype=torch.float64)

    def result(of_reals, of_fakes):
        loss = (weights[0] * of_reals[0] + weights[1] * of_fakes[0]).sum()
        grads = torch.autograd.grad(loss, list(D.parameters()), allow_unused=True)
        return [t for t in (*of_reals, *of_fakes, *grads) if t is not None]

    want = result(D(reals, alpha=0.3), D(fakes, alpha=0.3))
    calls = []
    D.register_forward_hook(lambda *_: calls.append(1))
    got = result(*scores(D, reals, fakes, alpha=0.3))
    assert len(calls) == passes
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


class Normed(Discriminator):
    def forward(self, image, *, alpha=1.0):
        return super().forward((image - image.mean()) / image.std(), alpha=alpha)


def replaced(D):
    D.stddev = nn.Identity()


def hooked(D):
    D.from_rgb["4x4"].register_forward_hook(lambda *_: None)


def put(D):
    D.forward = functools.partial(Discriminator.forward, D)


def wrapped(D):
    D.from_rgb["4x4"] = nn.Sequential(D.from_rgb["4x4"])


@pytest.mark.parametrize("change", [replaced, hooked, put, wrapped])
def test_what_may_look_at_several_images_has_its_own(change):
    D = Discriminator(4, fmap_max=8)
    assert D.interleaving(8) == 4
    change(D)
    assert D.interleaving(8) == 0


def test_a_class_of_others_may_look_at_several_images():
    assert Normed(4, fmap_max=8).interleaving(8) == 0


def test_one_pass_takes_what_autocast_makes_of_g():
    D, calls = Discriminator(4, fmap_max=8), []
    D.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    reals = torch.randn(8, CHANNELS, 4, 4)
    fakes = torch.randn(8, CHANNELS, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = [score for score, _ in scores(D, reals, fakes, alpha=1.0)]
        assert calls == [16]
        want = [D(images)[0] for images in (reals, fakes)]
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


def test_batches_of_two_sizes_or_dtypes_have_a_pass_each():
    D, calls = Discriminator(4, fmap_max=8), []
    D.register_forward_hook(lambda *_: calls.append(1))
    reals = torch.randn(8, CHANNELS, 4, 4)
    for fakes in (reals[:4], reals.double()):
        with contextlib.suppress(TypeError):  # double images in a float network
            scores(D, reals, fakes, alpha=1.0)
    assert len(calls) == 3
