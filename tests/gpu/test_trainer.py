"""Trainings on the device: iterations as on the CPU, every precision, going on from a state, a run in its folder."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_trainings import config, images, state_of, trainer

from pggan_fast.training.distributed import World
from pggan_fast.training.loop import Run, Settings
from pggan_fast.training.trainer import Trainer


def on(device: str, **options: object) -> Trainer:
    dataset = images()
    return Trainer(config(dataset, **options), dataset, World(device=torch.device(device)))  # type: ignore[arg-type]


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
