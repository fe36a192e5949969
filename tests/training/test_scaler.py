"""torch.amp.GradScaler under float16 autocast: in torch's own recipe, in the penalty, and in d_step and g_step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from device_networks import RESOLUTION, Data, networks
from pggan_fast.benchmarks import gate

from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import g_loss, gradient_penalty, wgan_gp_d_loss
from pggan_fast.training.step import StepResult, d_step, g_step

SCALE = 2.0**12
Networks = tuple[Generator, Discriminator]
Run = Callable[..., StepResult]


def scaler_of(scale: float = SCALE) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale)


def step_of_d(pair: Networks, data: Data, adam: torch.optim.Optimizer, **options: Any) -> StepResult:
    return d_step(*pair, adam, data.reals, data.z, alpha=data.alpha, u=data.u, **options)


def step_of_g(pair: Networks, data: Data, adam: torch.optim.Optimizer, **options: Any) -> StepResult:
    return g_step(*pair, adam, data.z, resolution=RESOLUTION, alpha=data.alpha, **options)


STEPS: dict[str, tuple[Run, int]] = {"G": (step_of_g, 0), "D": (step_of_d, 1)}
which_step = pytest.mark.parametrize("which", STEPS)


def stepped(
    which: str, pair: Networks, data: Data, **options: Any
) -> tuple[StepResult, dict[str, torch.Tensor], Networks]:
    """One step of the network: its result and the gradients that it left."""
    run, index = STEPS[which]
    adam = torch.optim.Adam(pair[index].parameters(), lr=0.001, betas=(0.0, 0.99), eps=1e-8)
    done = run(pair, data, adam, **options)
    gradients = {gate.GRADIENT + k: p.grad for k, p in pair[index].named_parameters() if p.grad is not None}
    return done, gradients, pair


@functools.cache
def float64_gradients(which: str, seed: int) -> dict[str, torch.Tensor]:
    pair = tuple(network.double() for network in networks("reference", "cpu"))
    return stepped(which, pair, Data.draw(seed, "cpu").to(torch.float64))[1]  # type: ignore[arg-type]


def errors_of(which: str, backend: str | None, factor: float = 1.0) -> dict[str, float]:
    """Per parameter, of its gradient's error in five steps the second least: signs flip at a kink in the others."""
    found = []
    for seed in range(5):
        data = Data.draw(seed, "cpu")
        scaler = scaler_of()
        done, gradients, _ = stepped(which, networks(backend, "cpu"), data, autocast=torch.float16, scaler=scaler)
        assert done.applied
        assert scaler.get_scale() == SCALE
        assert {g.dtype for g in gradients.values()} == {torch.float32}
        found.append(gate.errors({k: factor * g for k, g in gradients.items()}, float64_gradients(which, seed)))
    return {k: sorted(errors[k] for errors in found)[1] for k in found[0]}


@which_step
@pytest.mark.parametrize("backend", [None, "aten", "cpu"])
def test_unscaled_gradients_are_those_of_the_float64_step(which: str, backend: str | None) -> None:
    rival = errors_of(which, "reference")
    verdict = gate.judge(errors_of(which, backend), rival, torch.float16)
    assert not verdict.red, str(verdict)
    assert gate.judge(errors_of(which, backend, factor=1.1), rival, torch.float16).red  # the fault


@which_step
def test_a_scale_that_overflows_skips_the_step_and_is_halved(which: str) -> None:
    pair, scaler = networks(None, "cpu"), scaler_of(2.0**40)
    before = [p.detach().clone() for network in pair for p in network.parameters()]
    done, _, pair = stepped(which, pair, Data.draw(0, "cpu"), autocast=torch.float16, scaler=scaler)
    assert not done.applied
    assert scaler.get_scale() == 2.0**39
    after = [p for network in pair for p in network.parameters()]
    assert all(p.equal(q) for p, q in zip(after, before, strict=True))


def test_one_scaler_serves_both_networks_until_the_scale_fits() -> None:
    pair, scaler = networks(None, "cpu"), scaler_of(2.0**32)
    applied = [
        stepped(which, pair, Data.draw(seed, "cpu"), autocast=torch.float16, scaler=scaler)[0].applied
        for seed in range(20)
        for which in STEPS
    ]
    assert not applied[0]
    assert all(applied[-4:])
    assert 1.0 < scaler.get_scale() < 2.0**32


def test_a_disabled_scaler_is_none() -> None:
    data = Data.draw(0, "cpu")
    off = torch.amp.GradScaler("cpu", enabled=False)
    results = [stepped("D", networks(None, "cpu"), data, autocast=torch.bfloat16, scaler=s)[1] for s in (off, None)]
    assert all(results[0][k].equal(g) for k, g in results[1].items())


FAINT = 2.0**-26


@pytest.mark.parametrize("backend", [None, "reference", "aten", "cpu"])
def test_the_scale_keeps_the_penaltys_gradient_from_vanishing(backend: str | None) -> None:
    """Faint scores have gradients that float16 rounds to zero; as often as the scale undoes it, they come out exact."""
    data, D = Data.draw(0, "cpu"), networks(backend, "cpu")[1]

    def norms(factor: float, scaler: torch.amp.GradScaler | None) -> torch.Tensor:
        def scores(image: torch.Tensor, *, alpha: Any) -> Any:
            return D(image, alpha=alpha)[0].float() * factor, None

        with torch.autocast("cpu", torch.float16):
            return gradient_penalty(scores, data.reals, data.reals.flip(0), u=data.u, target=0.0, scaler=scaler).sqrt()

    want = norms(1.0, None)
    assert (want > 0.01).all()
    assert norms(FAINT, scaler_of(1.0 / FAINT)).equal(FAINT * want)
    assert not norms(FAINT, None).any()


def test_torchs_own_recipe() -> None:
    """A loop that knows nothing of ours: scale, backward, unscale_, step, update, and the penalty by its docs."""
    data, (G, D) = Data.draw(0, "cpu"), networks(None, "cpu")
    adam, scaler = torch.optim.Adam(D.parameters(), lr=0.001), scaler_of()
    before = [p.detach().clone() for p in D.parameters()]
    with torch.autocast("cpu", torch.float16):
        with torch.no_grad():
            fakes = G(data.z)
        x = torch.lerp(data.reals, fakes.float(), data.u).requires_grad_()
        score = D(x)[0]
    (scaled,) = torch.autograd.grad(scaler.scale(score.float().sum()), x, create_graph=True)
    norm = (scaled * (1.0 / scaler.get_scale())).square().sum((1, 2, 3)).sqrt()
    with torch.autocast("cpu", torch.float16):
        loss = (norm - 1.0).square().mean() * 10.0 - g_loss(D, data.reals) + g_loss(D, fakes)
    scaler.scale(loss).backward()
    scaler.unscale_(adam)
    assert torch.nn.utils.get_total_norm([p.grad for p in D.parameters() if p.grad is not None]).isfinite()
    scaler.step(adam)
    scaler.update()
    assert scaler.get_scale() == SCALE
    assert not all(p.equal(q) for p, q in zip(D.parameters(), before, strict=True))
    bad = data.reals.clone()
    bad[0, 0, 0, 0] = float("inf")
    before = [p.detach().clone() for p in D.parameters()]
    adam.zero_grad()
    with torch.autocast("cpu", torch.float16):
        loss = wgan_gp_d_loss(D, bad, fakes, u=data.u, scaler=scaler)
    scaler.scale(loss).backward()
    scaler.step(adam)
    scaler.update()
    assert scaler.get_scale() == SCALE / 2.0
    assert all(p.equal(q) for p, q in zip(D.parameters(), before, strict=True))


@which_step
def test_half_parameters_are_refused_as_torch_refuses_them(which: str) -> None:
    pair = tuple(network.half() for network in networks(None, "cpu"))
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        stepped(which, pair, Data.draw(0, "cpu").to(torch.float16), scaler=scaler_of(1.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [True, "float16", torch.float32])
def test_what_is_no_half_dtype_is_named(autocast: object) -> None:
    G, D = Generator(8, latent_dim=4, fmap_base=16), Discriminator(8, fmap_base=16)
    adam = torch.optim.Adam(D.parameters())
    with pytest.raises(ValueError, match=r"autocast: expected torch\.float16, torch\.bfloat16 or None, got"):
        d_step(G, D, adam, torch.randn(2, 3, 8, 8), torch.randn(2, 4), autocast=autocast)
