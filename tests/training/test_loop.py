"""Whole trainings in their folders: what they write, and that nothing ends them but their end."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from processes import PATH
from rich.console import Console
from small_trainings import config, images, state_of

from pggan_fast import files, networks
from pggan_fast.data.dataset import ArrayDataset
from pggan_fast.data.errors import ImageRefused
from pggan_fast.training import checkpoint, resume
from pggan_fast.training.distributed import World
from pggan_fast.training.loop import Run, Settings
from pggan_fast.training.stopping import Stop

PROGRAM = Path(__file__).parents[1] / "train_program.py"


def run_of(folder: Path, dataset: Any = None, settings: Settings | None = None, **options: Any) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = images() if dataset is None else dataset
    console = Console(file=io.StringIO(), width=250)
    return Run(config(dataset, **options), dataset, folder, World(), settings or Settings(snap=2), console)


def said(run: Run) -> str:
    assert isinstance(run.console.file, io.StringIO)
    return run.console.file.getvalue()


def program(*arguments: str, check: bool = True) -> str:
    path = os.pathsep.join(map(str, PATH))
    done = subprocess.run([sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path}, timeout=300, check=False)  # fmt: skip
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def digest(text: str) -> str:
    found = re.search(r"^digest (\w+)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_a_runs_folder(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert run.run() == 0
    names = {p.name for p in run.folder.iterdir() if not p.name.startswith("events")}
    assert names == {
        "training_options.json", "log.txt", "stats.jsonl", "reals.png", "fakes_init.png", "fakes000000.png",
        "network-snapshot-000000.safetensors", "training-state-000000256.pt", "training-state-000000320.pt",
    }  # fmt: skip
    lines = [json.loads(line) for line in (run.folder / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.064, 0.128, 0.192, 0.256, 0.32]
    assert {"Loss/D/real", "Loss/D/penalty", "Loss/G/loss", "Timing/wait_share"} <= set(lines[0])
    assert lines[0]["Loss/D/loss"]["num"] == 8
    for name in ("reals.png", "fakes_init.png", "fakes000000.png"):
        with Image.open(run.folder / name) as picture:
            assert picture.size == (16 * 8, 8 * 8)  # 128 images of the full size, though 4x4 was drawn first
    held = networks.load(run.folder / "network-snapshot-000000.safetensors")
    assert held.source["kimg"] == 0.32
    assert held.G_ema is not None
    for key, t in held.G_ema.state_dict().items():
        assert torch.equal(t, run.trainer.G_ema.state_dict()[key])
    assert said(run).count("\ntick ") == 4


def test_going_on_from_the_last_state(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "other" / "whole")
    whole.run()
    first = run_of(tmp_path / "run", schedule={"total_kimg": 0.128})
    first.run()
    found = resume.find(tmp_path, first.config)
    assert found is not None
    again = run_of(found.folder)
    again.load_state_dict(found.state)
    again.run()
    assert "resumed at kimg 0.1" in said(again)
    assert f"done: {again.folder / 'network-snapshot-000000.safetensors'}" in said(again)
    want, got = state_of(whole.trainer), state_of(again.trainer)
    assert [name for name in want if not torch.equal(want[name], got[name])] == []
    lines = [json.loads(line) for line in (again.folder / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/tick"]["mean"] for line in lines] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_ends(tmp_path: Path, number: signal.Signals) -> None:
    run = run_of(tmp_path / "run")
    real = run.trainer.iteration

    def stopped(*args: Any) -> Any:
        if run.trainer.images == 96:
            os.kill(os.getpid(), number)
        return real(*args)

    run.trainer.iteration = stopped  # type: ignore[method-assign]
    assert run.run() == 128 + number
    assert checkpoint.states(run.folder)[0].name == "training-state-000000112.pt"
    assert f"stopped by {number.name} at kimg 0.1; the same command goes on" in said(run)
    assert signal.getsignal(number) is not None
    whole, again = run_of(tmp_path / "other" / "whole"), run_of(run.folder)
    found = resume.find(tmp_path, run.config)
    assert found is not None
    again.load_state_dict(found.state)
    whole.run()
    again.run()
    want, got = state_of(whole.trainer), state_of(again.trainer)
    assert [name for name in want if not torch.equal(want[name], got[name])] == []


def test_a_second_interrupt_does_not_wait() -> None:
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_killed_at_any_write(tmp_path: Path, call: str) -> None:
    """Within each of them in turn, again and again, until one run gets to its end: that of one left alone."""
    want = digest(program(str(tmp_path / "alone")))
    for at in (1, 2, 4, 5, 7, 8, 11, 12):
        program(str(tmp_path / "killed"), "--kill", call, str(at), check=False)
    assert digest(program(str(tmp_path / "killed"))) == want


def test_killed_within_a_write(tmp_path: Path) -> None:
    """Of the second state: the first is whole, and the end is the same."""
    killed = tmp_path / "killed"
    assert "digest" not in program(str(killed), "--kill", "replace", "7", check=False)
    (folder,) = killed.iterdir()
    assert [p.name for p in checkpoint.states(folder)] == ["training-state-000000064.pt"]
    assert digest(program(str(killed))) == digest(program(str(tmp_path / "alone")))


def test_a_damaged_newest_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", schedule={"total_kimg": 0.192})
    run.run()
    newest = checkpoint.states(run.folder)[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    found = resume.find(tmp_path, run.config)
    assert found is not None
    assert found.state["images"] == 128
    assert len(found.said) == 1
    assert newest.name in found.said[0]


def test_other_images_under_the_same_name_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    run.run()
    other = images()
    other.images[0] ^= 255
    with pytest.raises(resume.Mismatch, match=r"the images of random are not those it was trained on: data.sha256"):
        resume.find(tmp_path, config(other))
    with pytest.raises(resume.Mismatch, match=r"trained with other options \(its own, yours\): data.sha256"):
        resume.of(run.folder, config(other))
    with pytest.raises(resume.Mismatch, match="seed: 5, 6"):
        resume.of(run.folder, config(images(), seed=6))
    assert resume.find(tmp_path, config(images(), seed=6)) is None  # another run
    longer = resume.find(tmp_path, config(images(), schedule={"total_kimg": 9.0, "tick_kimg_base": 3.0}))
    assert longer is not None


def test_a_full_disk_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run")
    real, full = files.write_atomically, [False]

    def write(path: Path, fill: Any) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, fill)

    def iteration(*args: Any) -> Any:
        full[0] = 100 < run.trainer.images < 250
        return step(*args)

    step, run.trainer.iteration = run.trainer.iteration, iteration  # type: ignore[method-assign]
    for module in ("pggan_fast.networks", "pggan_fast.training.checkpoint", "pggan_fast.pictures"):
        monkeypatch.setattr(f"{module}.write_atomically", write)
    assert run.run() == 0  # what was written last was whole
    told = said(run)
    assert "No space left on device; training goes on" in told
    assert checkpoint.states(run.folder)[0].name == "training-state-000000320.pt"


def test_a_run_whose_last_state_could_not_be_written_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", schedule={"total_kimg": 0.064})

    def full(folder: Path, state: Any, keep: int) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(checkpoint, "save", full)
    assert run.run() == 1


def test_labels_and_metrics(tmp_path: Path) -> None:
    dataset = images(count=24, size=16, labels=True)
    run = run_of(
        tmp_path / "run", dataset, Settings(snap=1, metrics=("swd16",)),
        schedule={"total_kimg": 0.3, "initial": 8, "tick_kimg_base": 0.3},
    )  # fmt: skip
    assert run.run() == 0
    (line,) = (run.folder / "metric-swd16.jsonl").read_text().splitlines()
    assert json.loads(line)["snapshot_pkl"] == "network-snapshot-000000.safetensors"
    assert "swd16_avg" in said(run)
    assert "of 16 images" not in said(run)


def test_metrics_of_fewer_images_than_their_names_say_tell_so(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "run", images(count=24, size=16), Settings(snap=1, metrics=("msssim30", "fd30")),
        schedule={"total_kimg": 0.128, "initial": 16},
    )  # fmt: skip
    assert run.run() == 0
    told = [text for text in said(run).splitlines() if "network-snapshot-000000.safetensors: " in text]
    similar, distance = told[:2]
    assert "msssim30" in similar
    assert "images" not in similar
    assert "fd30_matched" in distance
    assert "(of 24 images, " in distance


def test_metrics_that_the_images_cannot_have_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images: got 8x8, the sliced Wasserstein distance needs at least 16x16"):
        run_of(tmp_path / "run", settings=Settings(metrics=("swd16",)))


def test_metrics_that_cannot_be_written_do_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = images(size=16)
    run = run_of(
        tmp_path / "run", dataset, Settings(snap=1, metrics=("swd16",)),
        schedule={"total_kimg": 0.128, "initial": 16},
    )  # fmt: skip

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metric-swd16.jsonl")

    monkeypatch.setattr("pggan_fast.metrics.running.append", full)
    assert run.run() == 1
    assert checkpoint.states(run.folder)[0].name == "training-state-000000128.pt"


def test_an_image_that_metrics_cannot_read_does_not_end_a_training(tmp_path: Path) -> None:
    """Another stands in for it while training, metrics leave none out."""

    class Broken(ArrayDataset):
        def image(self, number: int) -> Any:
            if number == 3:
                raise ImageRefused("broken", "no bytes left")
            return super().image(number)

    dataset, settings = Broken("some", images(size=16).images), Settings(snap=1, metrics=("swd16",), cache="never")
    with pytest.warns(UserWarning, match="image 3 is skipped"):
        run = run_of(tmp_path / "run", dataset, settings, schedule={"total_kimg": 0.128, "initial": 16})
    assert run.run() == 0
    text = said(run)
    assert "no metrics of network-snapshot-000000.safetensors: some: image 3: no bytes left; metrics leave no" in text
    assert checkpoint.states(run.folder)[0].name == "training-state-000000128.pt"


def test_a_seed_of_more_than_32_bits(tmp_path: Path) -> None:
    assert run_of(tmp_path / "run", seed=(1 << 63) - 1, schedule={"total_kimg": 0.016}).run() == 0


def test_killed_right_after_a_state_was_written(tmp_path: Path) -> None:
    """The fsync of the folder after the first state: its tick is in stats.jsonl, once."""
    assert "digest" not in program(str(tmp_path), "--kill", "fsync", "10", check=False)
    (folder,) = tmp_path.iterdir()
    assert [p.name for p in checkpoint.states(folder)] == ["training-state-000000064.pt"]
    program(str(tmp_path))
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [line["Progress/kimg"]["mean"] for line in lines] == [0.064, 0.128, 0.192, 0.256, 0.32]


def test_a_signal_while_files_are_written_ends_no_process_alone(tmp_path: Path) -> None:
    """All of them look for it together, within an iteration."""
    asked: list[bool] = []

    class Asked(World):
        def any(self, told: bool) -> bool:
            asked.append(told)
            return told

    dataset = images()
    run = Run(config(dataset), dataset, tmp_path, Asked(), Settings(), Console(file=io.StringIO()))
    real = run._save_state

    def save() -> None:
        real()
        if run.trainer.images == 64:
            os.kill(os.getpid(), signal.SIGTERM)

    run._save_state = save  # type: ignore[method-assign]
    assert run.run() == 128 + signal.SIGTERM
    assert asked[-1]
    assert run.trainer.images == 80


@pytest.mark.parametrize("held", [{}, {"config": {}}, {"config": {"schedule": "x", "betas": 3}}])
def test_a_state_of_other_options_is_no_traceback(tmp_path: Path, held: dict[str, Any]) -> None:
    path = tmp_path / "state.pt"
    torch.save({"schema": checkpoint.SCHEMA, "images": 0, **held}, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"state\.pt: its options are not those of this version"):
        resume.of(path, config(images()))
