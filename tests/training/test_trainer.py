"""The trainer against one in plain PyTorch, step by step; parts, processes and going on change nothing."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from plain_training import train
from small_trainings import config, images, state_of, trainer

from pggan_fast.training import ema
from pggan_fast.training.distributed import World
from pggan_fast.training.trainer import OutOfMemory, Trainer


def copied(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in net.state_dict().items()}


def test_every_iteration_is_that_of_a_plain_trainer() -> None:
    """From 4x4 over the fade to 8x8: losses, weights and their mean, with Adam's resets."""
    ours = trainer()
    pixels = torch.from_numpy(ours.dataset.images)  # type: ignore[attr-defined]
    plain = train(
        copied(ours.G), copied(ours.D), pixels, latent_dim=6, seed=5, batch=8, repeats=2, phase=64, total=320,
        lr={4: 0.002, 8: 0.001}, beta=0.99,
    )  # fmt: skip
    stages = []
    for expected in plain:
        losses: list[float] = []
        stage = ours.iteration(
            lambda name, value: losses.append(float(value)) if name in ("Loss/D/loss", "Loss/G/loss") else None  # noqa: B023
        )
        stages.append((stage.resolution, stage.alpha))
        assert ours.images == expected["seen"]
        torch.testing.assert_close(losses, expected["losses"], rtol=0, atol=5e-5)
        for name, net in (("G", ours.G), ("D", ours.D), ("G_ema", ours.G_ema)):
            for key, want in expected[name].items():  # type: ignore[attr-defined]
                torch.testing.assert_close(net.state_dict()[key], want, rtol=0, atol=2e-5, msg=lambda m: f"{key}: {m}")  # noqa: B023
    assert ours.done
    assert {r for r, _ in stages} == {4, 8}
    assert 0 < min(a for _, a in stages) < 1


KINDS = [
    {}, {"labels": True}, {"precision": "bf16"}, {"precision": "fp16"}, {"loss": "lsgan"}, {"loss": "nonsaturating-r1"},
    {"mirror": True},
]  # fmt: skip


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_going_on_is_bit_by_bit_the_same(options: dict[str, Any]) -> None:
    """From a checkpoint of any moment: before a change of level, in a fade, after it; with options from the fade."""
    moments = (96,) if options else (64, 96, 160)
    options = dict(options)
    dataset = images(labels=options.pop("labels", False))
    whole, states = trainer(dataset, **options), {}
    while not whole.done:
        if whole.images in moments:
            states[whole.images] = _through_bytes(whole.state_dict())
        whole.iteration()
    for at in moments:
        again = trainer(dataset, **options)
        again.load_state_dict(states[at])
        assert again.images == at
        while not again.done:
            again.iteration()
        want, got = state_of(whole), state_of(again)
        assert want.keys() == got.keys()
        assert [name for name in want if not torch.equal(want[name], got[name])] == []


def _through_bytes(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


def test_parts_of_a_batch_add_up_to_it() -> None:
    """8 images in 2 parts of 4 have the same groups of the minibatch deviation."""
    whole, parts = trainer(), trainer(batch_gpu=4)
    seen: list[int] = []
    hook = parts.D.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    parts.iteration()
    whole.iteration()
    hook.remove()
    assert set(seen) == {8, 4}  # 4 reals with 4 fakes, then 4 between them
    for name in ("G", "D", "G_ema"):
        for key, want in getattr(whole, name).state_dict().items():
            torch.testing.assert_close(getattr(parts, name).state_dict()[key], want, rtol=0, atol=2e-5)


def test_a_process_takes_every_second_row() -> None:
    """Of the random numbers and of the images, so that two make the minibatch of one."""
    alone, two = trainer(), [trainer(world=World(rank, 2)) for rank in range(2)]
    z = alone._latents(8)
    parts = [t._latents(8) for t in two]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), z)
    alone.loader.set(batch=8)
    for t in two:
        t.loader.set(batch=4)
    whole, halves = next(alone.loader)[0], [next(t.loader)[0] for t in two]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole)


def test_a_step_that_does_not_fit_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    small, whole = trainer(say=said.append), trainer()
    real = small.D.forward

    def limited(image: torch.Tensor, **options: Any) -> Any:
        if len(image) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(image, **options)

    monkeypatch.setattr(small.D, "forward", limited)
    small.iteration()
    whole.iteration()
    assert said == ["out of memory at 4x4 with 8 images at a time: going on with 4"]
    assert small.parts == {4: 2}
    for key, want in whole.G.state_dict().items():
        torch.testing.assert_close(small.G.state_dict()[key], want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("failing", ["step", "forward"])
def test_half_precision_goes_on_after_an_optimizer_that_did_not_fit(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Adam's first step, which allocates its moments, after gradients were unscaled; or before there is a scale."""
    small = trainer(precision="fp16")
    owner = small.optimizers["D"] if failing == "step" else small.D
    real, calls = getattr(owner, failing), []

    def once(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, **options)

    monkeypatch.setattr(owner, failing, once)
    small.iteration()
    assert small.parts == {4: 2}
    assert len(calls) > 1


def test_what_fits_in_no_parts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    small = trainer()

    def never(*args: Any, **options: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(small.D, "forward", never)
    with pytest.raises(OutOfMemory, match="out of memory at 4x4 with 4 images at a time; try a smaller --batch-gpu"):
        small.iteration()


def test_a_batch_that_the_groups_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="batch: 10 images of a process at 4x4, in 1 part, do not fit groups of 4"):
        trainer(schedule={"minibatch_base": 10})


def test_a_gradient_that_is_not_finite_skips_the_step() -> None:
    ours, told = trainer(), []
    before = copied(ours.D)
    with torch.no_grad():
        ours.G.to_rgb["4x4"].bias.fill_(float("nan"))
    ours.iteration(lambda name, value: told.append((name, float(value))))
    assert ours.skipped == 4
    assert ("Progress/skipped_steps_D", 1.0) in told
    assert all(torch.equal(t, before[key]) for key, t in ours.D.state_dict().items())


def test_the_mean_keeps_beta_of_itself() -> None:
    G, other = (torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)) for _ in range(2))
    mean = ema.averaged(G)
    assert not any(p.requires_grad for p in mean.parameters())
    before = copied(mean)
    other[1].running_mean.fill_(3.0)
    ema.update(mean, other, 0.75)
    for name, p in other.named_parameters():
        torch.testing.assert_close(mean.state_dict()[name], 0.75 * before[name] + 0.25 * p.detach())
    assert torch.equal(mean[1].running_mean, other[1].running_mean)


def test_labels_reach_both_networks() -> None:
    dataset = images(labels=True)
    ours = Trainer(config(dataset), dataset)
    told: set[str] = set()
    ours.iteration(lambda name, value: told.add(name))
    assert "Loss/D/label" in told
    assert ours.G.label_dim == ours.D.label_dim == 3


def test_adam_is_that_of_the_configuration_and_adds_eps_after_the_correction_of_the_bias() -> None:
    """The formula of docs/numerics.md, by each network's own optimiser."""
    ours, eps, beta2 = trainer(betas=(0.0, 0.9), adam_eps=1e-3), 1e-3, 0.9
    for name, net in (("G", ours.G), ("D", ours.D)):
        p, v, moved = next(net.parameters()), 0.0, 0.0
        before, optimizer = p.detach().clone(), ours.optimizers[name]
        for t, g in enumerate([1e-3, 3e-3, -2e-3], 1):
            p.grad = torch.full_like(p, g)
            optimizer.step()
            v, c = beta2 * v + (1 - beta2) * g * g, (1 - beta2**t) ** 0.5
            moved -= 0.002 * g / (v**0.5 / c + eps)  # the rate of small_trainings
        torch.testing.assert_close(p.detach() - before, torch.full_like(p, moved), rtol=1e-3, atol=0)
