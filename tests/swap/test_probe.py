"""The probe sees wrong replacements, undoes them with a figure, and leaves no trace."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from foreign_layers import NORMS, Block, Does, Hooked, critic
from torch import Tensor, nn

from pggan_fast.swap import fuse, fused, read
from pggan_fast.swap import probe as probing
from pggan_fast.swap.fused import Fused
from pggan_fast.swap.probe import Mismatch, probe
from pggan_fast.swap.steps import Act, Conv, Norm, NotAsRecorded, Pool, Stddev, Step

Fault = Callable[[Step], Step]


def replacement(module: nn.Module, fault: Fault = lambda step: step) -> Fused:
    """Installed, with a fault seeded into each step."""
    reading = read.read(module, 4)
    reading.steps = tuple(map(fault, reading.steps))
    made = Fused(module, {4: reading})
    made.install()
    return made


def on(kind: type, **changes: object) -> Fault:
    return lambda step: replace(step, **changes) if isinstance(step, kind) else step  # type: ignore[type-var]


FAULTS: dict[str, Fault] = {
    "slope": on(Act, slope=0.21),
    "eps": on(Norm, eps=2e-8),
    "eps_mode": on(Norm, mode="outside"),
    "weight_scale": on(Conv, weight_scale=0.370001),
    "bias_scale": on(Conv, bias_scale=0.999),
    "no bias": on(Conv, bias=None),
}


def test_right_replacements_pass() -> None:
    for module in (Block(), Block(down=True), critic()):
        assert probe(replacement(module)) < 1e-11


@pytest.mark.parametrize("name", FAULTS)
def test_seeded_faults_are_caught_with_their_figure(name: str) -> None:
    with pytest.raises(Mismatch, match=r"fused form's (output|gradient) is \S+ off .* in float64") as caught:
        probe(replacement(Block(), FAULTS[name]))
    assert caught.value.error > 1e-9


def test_seeded_faults_in_statistics_are_caught() -> None:
    for fault in (on(Stddev, eps=2e-8), on(Stddev, unbiased=True), on(Stddev, group=2)):
        with pytest.raises(Mismatch):
            probe(replacement(critic(), fault))


def test_a_pool_on_the_wrong_side_of_the_activation_is_caught() -> None:
    module = Block(down=True)
    reading = read.read(module, 4)
    at = reading.steps.index(Pool())
    steps = list(reading.steps)
    steps[at - 1 : at + 1] = steps[at], steps[at - 1]
    reading.steps = tuple(steps)
    made = Fused(module, {4: reading})
    made.install()
    with pytest.raises(Mismatch):
        probe(made)


class WrongSecond(torch.autograd.Function):
    """x, whose gradient is right, and that gradient's not."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return WrongThird.apply(g)  # type: ignore[no-any-return]


class WrongThird(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, g: Tensor) -> Tensor:
        return g.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return 1.001 * g


def test_a_wrong_double_backward_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replacement(Block())
    monkeypatch.setattr(fused, "inside", lambda x, rows=True: WrongSecond.apply(x))
    with pytest.raises(Mismatch, match="fused form's second-order gradient is "):
        probe(made)


def test_a_wrong_gradient_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replacement(Block())
    monkeypatch.setattr(fused, "outside", lambda y, keep=False: WrongThird.apply(y))
    with pytest.raises(Mismatch, match="fused form's gradient is "):
        probe(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_held_to_the_originals_accuracy(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made = replacement(Block().to(dtype))
    probe(made)
    off = 1.0 + (1e-4 if dtype == torch.float32 else 0.2)
    monkeypatch.setattr(fused, "outside", lambda y, keep=False: y if y.dtype == torch.float64 else y * off)
    with pytest.raises(Mismatch, match=f"in {str(dtype)[6:]} the fused form's .* off the one in float64"):
        probe(made)


def test_a_replacement_that_fails_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(y: Tensor, keep: bool = False) -> Tensor:
        raise RuntimeError("no memory")

    made = replacement(Block())
    monkeypatch.setattr(fused, "outside", fail)
    with pytest.raises(Mismatch, match=r"the fused form fails for input .*: no memory"):
        probe(made)


def test_nothing_compared_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Tensor) -> Tensor:
        raise NotAsRecorded

    made = replacement(Block())
    monkeypatch.setattr(fused, "inside", refuse)
    with pytest.raises(Mismatch, match="nothing"):
        probe(made)


def test_fuse_undoes_what_the_probe_objects_to(monkeypatch: pytest.MonkeyPatch) -> None:
    original = read.attempt
    module = Block()
    x = torch.randn(2, 5, 4, 4)
    want = module(x)

    def wrong(m: nn.Module, rank: int) -> object:
        reading = original(m, rank)
        if isinstance(reading, read.Reading):
            reading.steps = tuple(map(FAULTS["slope"], reading.steps))
        return reading

    monkeypatch.setattr("pggan_fast.swap.attempt", wrong)
    report = fuse(module)
    (row,) = [row for row in report.rows if not row.name]
    assert not row.replaced
    said = r"undone: for input 2x5x\d+x\d+ the fused form's output is \S+ off the original's \(relative, in float64"
    assert re.match(said, row.reason), row.reason
    assert row.error is not None
    assert row.error > 1e-4
    assert "forward" not in vars(module)
    torch.testing.assert_close(module(x), want)
    assert fuse(Block(), probe=False).rows[0].replaced  # the fault, unprobed


def test_the_probe_leaves_no_trace() -> None:
    calls: list[str] = []
    module = nn.Sequential(Hooked(3, 4), nn.BatchNorm2d(4), nn.LeakyReLU(0.2), Does(NORMS["sqrt"][0]), nn.Dropout(0.5))
    module[0].register_forward_hook(lambda *_: calls.append("child"))
    module.register_forward_pre_hook(lambda *_: calls.append("root"))
    module[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    module[4].eval()
    module(torch.randn(2, 3, 4, 4)).sum().backward()
    calls.clear()
    state = {k: v.clone() for k, v in module.state_dict().items()}
    grads = [p.grad for p in module.parameters()]
    values = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    weight, modes = module[0].conv.weight, [m.training for m in module.modules()]
    random = torch.get_rng_state()
    fuse(module)
    assert torch.equal(torch.get_rng_state(), random)
    assert not calls
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    assert [p.grad for p in module.parameters()] == grads
    assert all(torch.equal(p.grad, v) for p, v in zip(module.parameters(), values, strict=True))
    assert module[0].conv.weight is weight
    assert [m.training for m in module.modules()] == modes


def test_errors_are_relative_and_nan_is_one() -> None:
    one, nan = torch.ones(4), torch.full((4,), math.nan)
    assert probing._errors([one * 1.01], [one]) == [pytest.approx(0.01, rel=1e-4)]
    assert math.isnan(probing._errors([nan], [one])[0])
    assert probing._errors([torch.full((4,), 2e-9)], [torch.full((4,), 1e-9)])[0] == pytest.approx(1.0)
    tiny = [torch.full((4,), 1e-9), one]
    assert probing._errors([tiny[0] * 2, one], tiny)[0] == pytest.approx(1e-6)
    with pytest.raises(Mismatch, match="shapes"):
        probing._errors([torch.ones(2)], [one])
