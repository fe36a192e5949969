"""Networks of published progressive GANs, fused whole: what they compute, learn and store stays what it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from pggan_fast.benchmarks.peers import akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv
from torch import Tensor

import pggan_fast

WIDTHS, LATENT = (16, 12, 8, 6), 10
# Levels: the first has no fade, the second the first one, the last all of them
DEPTHS = [0, 1, pytest.param(2, marks=pytest.mark.slow), 3]
ALPHAS = (0.0, 0.3, 1.0)
FAMILIES = {
    f.__name__.rpartition(".")[2]: f for f in (akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv)
}
BATCHES = {"genforce": 16}  # its groups must fill the batch
ROLES = ("generator", "discriminator")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    yield FAMILIES[request.param]
    gan_lab.ProGAN.reset_state()


def pair(family: ModuleType, role: str, depth: int, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network with random parameters, biases too, and its copy."""
    model = family.networks(depth, WIDTHS, LATENT)[ROLES.index(role)].to(dtype)
    for p in model.parameters():
        p.data.normal_()
    return model, copy.deepcopy(model)


def inputs(family: ModuleType, model: torch.nn.Module, role: str, depth: int, dtype: torch.dtype) -> Tensor:
    n = BATCHES.get(family.__name__.rpartition(".")[2], 8)
    if role == "generator":
        return torch.randn(n, LATENT, dtype=dtype)
    size = getattr(model, "resolution", 4 << depth)
    return torch.randn(n, 3, size, size, dtype=dtype)


def caller(family: ModuleType, role: str, depth: int, alpha: float) -> Callable[[torch.nn.Module, Tensor], Tensor]:
    call = family.generate if role == "generator" else family.score
    return lambda model, x: call(model, x, depth, alpha)


def derivatives(run: Callable[[torch.nn.Module, Tensor], Tensor], model: torch.nn.Module, x: Tensor) -> dict[str, Any]:
    """The output, all first derivatives, and those of a gradient penalty in the parameters."""
    x = x.clone().requires_grad_()
    y = run(model, x)
    direction = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    parameters = dict(model.named_parameters())
    first = torch.autograd.grad((y * direction).sum(), [x, *parameters.values()], allow_unused=True, create_graph=True)
    penalty = (first[0].flatten(1).norm(2, dim=1) - 1).square().mean()
    second = torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True)
    return {
        "output": y,
        "d input": first[0],
        **{f"d {name}": g for name, g in zip(parameters, first[1:], strict=True)},
        **{f"dd {name}": g for name, g in zip(parameters, second, strict=True)},
    }


def check_equal(got: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    for name, e in expected.items():
        g = got[name]
        if name.startswith("dd ") and (g is None or e is None):  # None is zero: whether a node knows differs
            g, e = (torch.zeros(()) if t is None else t for t in (g, e))
            assert not g.any(), name
            assert not e.any(), name
            continue
        assert (g is None) == (e is None), f"{name}: {g} for {e}"
        if e is not None:
            assert g.shape == e.shape, name
            assert g.stride() == e.stride() or name != "output", name
            error = float((g - e).detach().abs().max()) / max(float(e.detach().abs().max()), 1e-12)
            assert error <= tolerance, f"{name}: {error:.2g}"


def fused(model: torch.nn.Module, *, probe: bool = False) -> torch.nn.Module:
    """Replaced as a whole, and never running its own forward."""
    report = pggan_fast.fuse(model, probe=probe)
    assert [row.name for row in report.replaced] == [""], str(report)
    assert not report.left, str(report)
    vars(model)["forward"].strict = True
    return model


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("role", ROLES)
def test_equal_in_float64(family: ModuleType, role: str, depth: int) -> None:
    original, twin = pair(family, role, depth, torch.float64)
    fused(twin)
    x = inputs(family, original, role, depth, torch.float64)
    for alpha in ALPHAS if depth else (1.0,):
        run = caller(family, role, depth, alpha)
        check_equal(derivatives(run, twin, x), derivatives(run, original, x), 1e-9)


@pytest.mark.parametrize("depth", [*(pytest.param(depth, marks=pytest.mark.slow) for depth in range(3)), 3])
@pytest.mark.parametrize("role", ROLES)
def test_float32_is_as_exact_as_the_original(family: ModuleType, role: str, depth: int) -> None:
    """Within 8 times the original's own distance from float64, or 8 roundings of the largest value."""
    original, twin = pair(family, role, depth, torch.float32)
    exact = copy.deepcopy(original).double()
    fused(twin)
    x = inputs(family, original, role, depth, torch.float32)
    for alpha in ALPHAS if depth else (1.0,):
        run = caller(family, role, depth, alpha)
        e, own, got = (t.detach() for t in (run(exact, x.double()), run(original, x), run(twin, x)))
        scale = float(e.abs().max())
        budget = 8 * max(float((own - e).abs().max()), scale * torch.finfo(torch.float32).eps)
        assert float((got - e).abs().max()) <= budget
        with torch.no_grad():  # whole blocks may be one kernel here
            assert float((run(twin, x) - e).abs().max()) <= budget


@pytest.mark.parametrize("role", ROLES)
def test_parameters_keep_their_names_and_identity(family: ModuleType, role: str) -> None:
    model, _ = pair(family, role, 2, torch.float32)
    parameters, keys, kind = dict(model.named_parameters()), list(model.state_dict()), type(model)
    modules = list(model.modules())
    fused(model, probe=True)
    assert list(model.state_dict()) == keys
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert type(model) is kind
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    pggan_fast.unfuse(model)
    assert "forward" not in vars(model)


@pytest.mark.parametrize("role", ROLES)
def test_training_goes_the_same_way(family: ModuleType, role: str) -> None:
    depth = 2
    original, twin = pair(family, role, depth, torch.float64)
    fused(twin)
    run = caller(family, role, depth, 0.4)
    losses: list[list[float]] = [[], []]
    for model, record in zip((original, twin), losses, strict=True):
        torch.manual_seed(1)
        adam = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.0, 0.99))
        for _ in range(3):
            x = inputs(family, original, role, depth, torch.float64)
            loss = run(model, x).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            record.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)


@pytest.mark.parametrize("role", ROLES)
def test_gradient_penalty_training_goes_the_same_way(family: ModuleType, role: str) -> None:
    if role == "generator":
        return
    depth = 2
    original, twin = pair(family, role, depth, torch.float64)
    fused(twin)
    run = caller(family, role, depth, 0.4)
    x = inputs(family, original, role, depth, torch.float64)
    for model in (original, twin):
        adam = torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.0, 0.99))
        for _ in range(3):
            image = x.clone().requires_grad_()
            score = run(model, image)
            (gradient,) = torch.autograd.grad(score.sum(), image, create_graph=True)
            loss = score.mean() + 10 * (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    for a, b in zip(original.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-7)
