"""Two processes of torchrun's against one: gradients, weights, going on with another number of them, a killed one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import PATH

pytestmark = pytest.mark.early

PROGRAM = Path(__file__).parents[1] / "train_program.py"


def train(world: int, *arguments: str | Path, fails: bool = False) -> str:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
    done = subprocess.run(
        [sys.executable, *torchrun, str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATH)), "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done.stdout + done.stderr


def steps(folder: Path, world: int, *arguments: str | Path) -> list[list[dict[str, torch.Tensor]]]:
    """Of each process, gradients and weights after every iteration."""
    folder.mkdir()
    train(world, folder / "runs", "--steps", folder, *arguments)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def digests(text: str) -> set[str]:
    return set(re.findall(r"^digest (\w+)$", text, re.MULTILINE))


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """From 4x4 over the fade to 8x8. Groups of the minibatch deviation are those of the whole minibatch."""
    (one,) = steps(tmp_path / "one", 1)
    first, second = steps(tmp_path / "two", 2)
    assert len(one) == len(first) == 20
    for iteration, (a, b) in enumerate(zip(first, second, strict=True)):
        assert [name for name in a if not torch.equal(a[name], b[name])] == [], iteration
    assert one[0].keys() == first[0].keys()
    assert "d D.from_rgb.8x8.weight" not in one[0]  # what does not take part has no gradient, and is not exchanged
    assert "d D.from_rgb.8x8.weight" in one[-1]
    for name, want in one[0].items():
        scale = float(want.abs().max()) if name.startswith("d ") else 1.0
        assert float((first[0][name] - want).abs().max()) <= 1e-6 * max(scale, 1.0), name
    for name, want in one[-1].items():
        if not name.startswith("d "):
            torch.testing.assert_close(first[-1][name], want, rtol=0, atol=1e-4, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_going_on_with_two_one_and_two(tmp_path: Path) -> None:
    """Through both changes of level; the same images and random numbers, so the end is that of one."""
    (want,) = steps(tmp_path / "alone", 1)
    train(2, tmp_path / "runs", "--kimg", "0.128")
    train(1, tmp_path / "runs", "--kimg", "0.192")
    folder = tmp_path / "steps"
    folder.mkdir()
    train(2, tmp_path / "runs", "--steps", folder)
    got = torch.load(folder / "0.pt")
    assert len(got) == 8
    for name, t in want[-1].items():
        if not name.startswith("d "):
            torch.testing.assert_close(got[-1][name], t, rtol=0, atol=1e-4)
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize("call", ["_train_g"])
def test_a_killed_process_ends_the_job_and_a_restart_goes_on(tmp_path: Path, call: str) -> None:
    told = train(2, tmp_path / "runs", "--kill", call, "21", fails=True)
    assert "Signal 9 (SIGKILL) received" in told
    assert "rank      : 1" in told
    (folder,) = (tmp_path / "runs").iterdir()
    assert "training-state-000000128.pt" in {p.name for p in folder.iterdir()}
    again = train(2, tmp_path / "runs")
    assert "resumed at kimg 0.1" in again
    assert digests(again) == digests(train(2, tmp_path / "other"))
    assert len(digests(again)) == 1
