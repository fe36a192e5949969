"""Trainings on the device: iterations as on the CPU, every precision, going on from a state, a run in its folder.

And their steps as CUDA graphs: tests/training/test_captured.py has what needs no device.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_trainings import Poisoned, config, images, state_of, trainer
from torch import Tensor

from pggan_fast.backends.graphs import WARM_UPS
from pggan_fast.training.captured import OFF
from pggan_fast.training.distributed import World
from pggan_fast.training.loop import Run, Settings
from pggan_fast.training.trainer import Trainer


def on(device: str, **options: Any) -> Trainer:
    return trainer(world=World(device=torch.device(device)), **options)


def test_iterations_are_those_of_the_cpu(device: str) -> None:
    """The first of each phase; Adam makes steps of size lr of gradients near zero, so later ones drift."""
    for seen in (0, 96, 192):
        torch.testing.assert_close(losses(on(device), seen), losses(trainer(), seen), rtol=2e-2, atol=2e-2)


def losses(each: Trainer, images: int) -> list[float]:
    """Of an iteration after so many images, in the order reported."""
    found: list[float] = []
    each.images = images
    each.iteration(lambda name, value: found.append(float(value)))
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_to_the_end_in_every_precision(device: str, precision: str) -> None:
    ours = on(device, precision=precision)
    while not ours.done:
        ours.iteration()
    assert all(t.isfinite().all() for t in ours.G_ema.state_dict().values())
    assert ours.skipped <= (0 if precision != "fp16" else 20)


def test_going_on_from_a_state(device: str) -> None:
    first = on(device)
    while first.images < 96:
        first.iteration()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again = on(device)
    again.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    want, got = state_of(first), state_of(again)
    assert [name for name in want if not torch.equal(want[name].cpu(), got[name].cpu())] == []
    again.iteration()
    assert again.images == 112


def test_a_run_in_its_folder(device: str, tmp_path: Path) -> None:
    dataset = images()
    world = World(device=torch.device(device))
    run = Run(config(dataset), dataset, tmp_path, world, Settings(snap=2), Console(file=io.StringIO()))
    assert run.run() == 0
    assert (tmp_path / "network-snapshot-000000.safetensors").exists()


# CUDA graphs

PHASES = {"4x4": 0, "8x8 fading in": 72, "8x8": 136}  # images seen; each is 64 long, and an iteration takes 8


def captured(device: str, images: int = 0, **options: Any) -> Trainer:
    """A training whose last iteration was the first that replayed alone, the one before having captured."""
    ours = on(device, graphs=True, minibatch_repeats=1, **options)
    ours.images = images
    for _ in range(WARM_UPS + 2):
        ours.iteration()
    return ours


def private_pools() -> set[tuple[int, int]]:
    """Of memory that graphs hold."""
    return {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()} - {(0, 0)}


def assert_close_steps(ours: Trainer, plain: Trainer, rounding: float) -> None:
    """An iteration of each from equal states: losses, and by how much every network and moment changes, see `OFF`."""
    plain.load_state_dict(ours.state_dict())
    before, told = state_of(ours), []
    for each in (ours, plain):
        found: list[float] = []
        each.iteration(lambda name, value, found=found: found.append(float(value)))  # type: ignore[misc]
        told.append(found)
    torch.testing.assert_close(told[0], told[1], rtol=rounding, atol=rounding)
    got, want = state_of(ours), state_of(plain)
    assert got.keys() == want.keys()
    kinds = [(f".{net}.", "") for net in ("G", "D", "G_ema")]
    kinds += [(f".optimizers.{net}.", f".{kind}") for net in ("G", "D") for kind in ("step", "exp_avg", "exp_avg_sq")]
    for kind in kinds:
        names = [name for name in want if name.startswith(kind[0]) and name.endswith(kind[1])]
        off, change = (distance(a, b, names) for a, b in ((got, want), (want, before)))
        assert change > 0, kind
        assert off <= OFF * change, kind


def distance(a: dict[str, Tensor], b: dict[str, Tensor], names: list[str]) -> float:
    return float(sum((a[name].cpu() - b[name].cpu()).double().square().sum() for name in names)) ** 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ours", [None, "reference"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_replay_is_the_uncaptured_iteration(device: str, phase: str, ours: str | None, precision: str) -> None:
    """On new images, latents and alpha, at a new rate; compared at once, as later ones drift."""
    options = {"backend": ours, "precision": precision, "schedule": {"lr_rampup_kimg": 0.064}}
    graphs = captured(device, PHASES[phase], **options)
    plain = on(device, graphs=False, minibatch_repeats=1, **options)
    for _ in range(2):
        assert_close_steps(graphs, plain, 2e-2 if precision == "fp32" else 5e-2)
    assert graphs._captured is not None
    assert sorted(graphs._captured._graphs) == ["D", "G"]


def test_labels_and_parts_are_captured_too(device: str) -> None:
    options: dict[str, Any] = {"dataset": images(labels=True), "batch_gpu": 4}
    plain = on(device, graphs=False, minibatch_repeats=1, **options)
    assert_close_steps(captured(device, **options), plain, 2e-2)


@pytest.mark.parametrize("phase", PHASES)
def test_a_replay_waits_for_nothing(device: str, phase: str) -> None:
    ours = captured(device, PHASES[phase])
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours.iteration()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_a_replay_skips_a_step_whose_gradients_are_not_finite(device: str) -> None:
    """It is counted, G_ema moves on, and the next step is taken."""
    ours = captured(device)
    ours.loader = Poisoned(ours.loader)  # type: ignore[assignment]
    before = state_of(ours)
    told: dict[str, float] = {}
    ours.iteration(lambda name, value: told.update({name: float(value)}))
    after = state_of(ours)
    assert (told["Progress/skipped_steps_D"], told["Progress/skipped_steps_G"], ours.skipped) == (1.0, 0.0, 1)
    same = {name for name, t in before.items() if torch.equal(after[name], t)}
    assert {name for name in before if name.startswith((".D.", ".optimizers.D."))} <= same
    assert any(name.startswith(".G_ema.") for name in before.keys() - same)
    ours.iteration()
    assert ours.skipped == 1
    assert not all(torch.equal(t, after[name]) for name, t in state_of(ours).items() if name.startswith(".D."))


def test_the_memory_of_graphs_is_free_where_their_stage_ends(device: str) -> None:
    others = private_pools()
    ours = captured(device)
    assert len(private_pools() - others) == 1  # D's and G's share it
    ours.images = 72  # the next level begins to fade in
    ours.iteration()
    assert private_pools() <= others
    for _ in range(WARM_UPS):
        ours.iteration()
    assert len(private_pools() - others) == 1
    ours.load_state_dict(ours.state_dict())
    assert private_pools() <= others


def test_checkpoints_go_on_with_graphs_without_and_on_the_cpu(device: str) -> None:
    first = captured(device)
    for others in (on(device, graphs=False), on(device, graphs=True), trainer()):
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        others.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
        others.iteration()
        assert others.images == first.images + 16
        captured(device).load_state_dict(others.state_dict())


def test_a_step_that_waits_for_the_device_is_taken_uncaptured(device: str) -> None:
    def synchronise(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor | None]) -> None:
        float(output[0].sum())

    ours = on(device, minibatch_repeats=1)
    hook = ours.D.register_forward_hook(synchronise)
    for _ in range(WARM_UPS):
        ours.iteration()
    with pytest.warns(RuntimeWarning, match="a CUDA graph cannot be used: D's step: it failed"):
        ours.iteration()
    hook.remove()
    assert torch.randn(8, device=device).isfinite().all()  # torch's generator has left the capture
    assert_close_steps(ours, on(device, graphs=False, minibatch_repeats=1), 2e-2)
