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
Iterations = list[dict[str, torch.Tensor]]  # gradients and weights after each


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


def steps(folder: Path, world: int) -> tuple[str, list[Iterations]]:
    """What is said, and the iterations of each process."""
    said = train(world, folder / "runs", "--steps", folder)
    return said, [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterations:
    """The iterations of one process, which several shall equal."""
    return steps(tmp_path_factory.mktemp("one"), 1)[1][0]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Iterations]]:
    """What two processes say that nothing disturbs, and the iterations of each."""
    return steps(tmp_path_factory.mktemp("two"), 2)


def digests(text: str) -> set[str]:
    return set(re.findall(r"^digest (\w+)$", text, re.MULTILINE))


def test_two_processes_train_as_one(one: Iterations, two: tuple[str, list[Iterations]]) -> None:
    """From 4x4 over the fade to 8x8. Groups of the minibatch deviation are those of the whole minibatch."""
    first, second = two[1]
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


def test_going_on_with_two_one_and_two(tmp_path: Path, one: Iterations) -> None:
    """Through both changes of level; the same images and random numbers, so the end is that of one."""
    train(2, tmp_path / "runs", "--kimg", "0.128")
    train(1, tmp_path / "runs", "--kimg", "0.192")
    got, _ = steps(tmp_path, 2)[1]
    assert len(got) == 8
    for name, t in one[-1].items():
        if not name.startswith("d "):
            torch.testing.assert_close(got[-1][name], t, rtol=0, atol=1e-4)
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_killed_process_ends_the_job_and_a_restart_goes_on(tmp_path: Path, two: tuple[str, list[Iterations]]) -> None:
    told = train(2, tmp_path / "runs", "--kill", "_train_g", "21", fails=True)
    assert "Signal 9 (SIGKILL) received" in told
    assert "rank      : 1" in told
    (folder,) = (tmp_path / "runs").iterdir()
    assert "training-state-000000128.pt" in {p.name for p in folder.iterdir()}
    again = train(2, tmp_path / "runs")
    assert "resumed at kimg 0.1" in again
    assert digests(again) == digests(two[0])
    assert len(digests(again)) == 1
