"""`pggan-fast train`: a run from the first command to the last, and what is refused before any work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from processes import PATH

from pggan_fast import cli, networks
from pggan_fast.cli import train
from pggan_fast.training import checkpoint, run_dir
from pggan_fast.training.presets import PRESETS

pytestmark = pytest.mark.early

SMALL = ("--cbase", 64, "--cmax", 8, "--phase-kimg", 0.064, "--batch", 8, "--kimg", 0.256, "--tick", 0.064)


def call(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *map(str, arguments)])
    return stop.value.code


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "small.npz"
    np.savez(path, images=np.random.RandomState(0).randint(0, 256, (20, 8, 8, 3), np.uint8))
    return path


def test_the_same_command_goes_on_and_then_is_done(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    command = ("--data", data, "--outdir", runs, *SMALL)
    assert call(*command, "--kimg", 0.128) == 0
    told = capsys.readouterr().out
    assert "00000-demo-small-gpus1: a new run" in told
    assert told.count("\ntick ") == 2
    log = runs / "00000-demo-small-gpus1" / "log.txt"
    assert log.read_text().splitlines()[0] == told.splitlines()[0]
    assert call(*command) == 0
    told = capsys.readouterr().out
    logged = [line for line in log.read_text().splitlines() if "TensorBoard" not in line]
    assert logged[4:] == told.splitlines()  # in the order of the console, after what the first run said
    assert "00000-demo-small-gpus1: going on\nresumed at kimg 0.1" in told
    assert told.count("\ntick ") == 2
    assert call(*command) == 0
    assert "is done, at 0.3 kimg: more --kimg goes on, --new starts another" in " ".join(
        capsys.readouterr().out.split()
    )
    assert call(*command, "--new", "--desc", "again") == 0
    assert sorted(p.name for p in runs.iterdir()) == ["00000-demo-small-gpus1", "00001-demo-small-gpus1-again"]
    whole, parts = (
        networks.load(runs / name / "network-snapshot-000000.safetensors").G_ema
        for name in ("00001-demo-small-gpus1-again", "00000-demo-small-gpus1")
    )
    assert whole is not None
    assert parts is not None
    for key, t in whole.state_dict().items():
        assert torch.equal(t, parts.state_dict()[key])


def test_processes_that_it_starts_itself(tmp_path: Path, data: Path) -> None:
    command = [sys.executable, "-m", "pggan_fast.cli", "train", "--data", data, "--outdir", tmp_path / "runs", *SMALL]
    done = subprocess.run(
        [*map(str, command), "--gpus", "2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATH)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\ntick ") == 4
    assert (tmp_path / "runs" / "00000-demo-small-gpus2" / "network-snapshot-000000.safetensors").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--data", data, "--outdir", tmp_path / "runs", "--cfg", "v2-4gpus", "-n") == 0
    told = capsys.readouterr().out
    assert '"minibatch_base": 16' in told
    assert "stands for" not in told
    assert "8x8" in told
    assert "to 12000 kimg, by 1 process" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("height", "width", "told"), [(33, 40, "40x33, the only level"), (24, 32, "8x6, 16x16 for 32x24")]
)
def test_levels_that_do_not_begin_at_4x4_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], height: int, width: int, told: str
) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, images=np.zeros((4, height, width, 3), np.uint8))
    assert call("--data", path, "--outdir", tmp_path, "-n") == 0
    assert f"4x4 stands for images of {told};" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "last", "kimg"), [(128, 64, 400), (32, 32, 700)])
def test_a_night_goes_up_to_a_width_of_64(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int, last: int, kimg: int
) -> None:
    path = tmp_path / "large.npz"
    np.savez(path, images=np.zeros((4, size, size, 3), np.uint8))
    assert call("--data", path, "--outdir", tmp_path, "--cfg", "overnight", "-n") == 0
    told = capsys.readouterr().out
    assert f"{last}x{last}" in told
    assert f"{2 * last}x{2 * last} " not in told.partition("it ends at")[0]
    cut = f"it ends at level {last}x{last}, and the images go up to {size}x{size}: --resolution {size} takes them so"
    assert (cut in " ".join(told.split())) == (size > last)
    assert f"to {kimg} kimg, by 1 process" in told


def test_a_network_is_not_gone_on_with(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("--data", data, "--outdir", tmp_path / "runs", *SMALL)
    assert call(*command, "--kimg", 0.064) == 0
    network = tmp_path / "runs" / "00000-demo-small-gpus1" / "network-snapshot-000000.safetensors"
    assert call(*command, "--resume", network) == 2
    error = capsys.readouterr().err
    assert f"pggan-fast: error: {network}: a network file" in error
    assert error.count("\n") == 1


def test_a_run_with_other_options_is_told_by_the_names_of_these(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pggan-fast", "train", "--desc", "two words"])
    command = ("--data", data, "--outdir", tmp_path / "runs", *SMALL, "--kimg", 0.064)
    assert call(*command) == 0
    folder = tmp_path / "runs" / "00000-demo-small-gpus1"
    assert call(*command, "--phase-kimg", 0.128, "--resume", folder) == 2
    error = capsys.readouterr().err
    assert "schedule.training_kimg (--phase-kimg): 0.064, 0.128; schedule.transition_kimg (--phase-kimg): " in error
    assert error.endswith(f"; {folder}/training_options.json has the command that began it\n")
    options = json.loads((folder / "training_options.json").read_text())
    assert options["command"] == "pggan-fast train --desc 'two words'"


def test_other_images_under_the_name_are_refused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--outdir", tmp_path / "runs", *SMALL, "--kimg", 0.064)
    assert call("--data", data, *options) == 0
    np.savez(data, images=np.zeros((20, 8, 8, 3), np.uint8))
    monkeypatch.chdir(data.parent)
    assert call("--data", data.name, *options) == 2
    error = capsys.readouterr().err
    assert "are not those it was trained on: data.sha256" in error
    assert error.count("\n") == 1


def test_what_the_options_say_is_what_there_is() -> None:
    assert set(get_args(train.Preset)) == set(PRESETS)


@pytest.mark.parametrize(("asked", "graphs"), [("auto", None), ("always", True), ("never", False)])
def test_graphs_are_the_trainers(asked: Any, graphs: bool | None) -> None:
    assert train.Command(Path("x"), graphs=asked)._settings().graphs is graphs


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--batch", 10), "batch: 10 images of a process at 4x4, in 1 part, do not fit groups of 4"),
        (("--batch", 0), "--batch: got 0, expected at least 1"),
        (("--resolution", 16), "resolution: expected a power of two from 4 to 8"),
        (("--metrics", "fid"), "--metrics: "),
        (("--new", "--resume", "x"), "--resume and --new: expected one of them, got both"),
        (("--resume", "x"), "x: No such file or directory"),
        (("--cfg", "v3"), "--cfg"),
        (("--seed", -1), "--seed: got -1, expected 0 to 2^63 - 1"),
        (("--lr", 0), "lr: expected numbers > 0"),
        (("--mbstd-group", -1), "stddev_group (--mbstd-group): expected an integer >= 0, got -1"),
        (("--kimg", -3), "total_kimg (--kimg): expected a number >= 0, got -3.0"),
        (("--batch", 6), "choose another batch, batch_gpu (--batch-gpu) or stddev_group (--mbstd-group)"),
        (("--workers", -1), "workers: expected an integer >= 0, got -1"),
        (("--graphs", "always", "--device", "cpu"), "graphs: True needs a CUDA device, one process and"),
        (("--metrics", "swd16"), "needs at least 16x16"),
        (("--metrics", "fid50k"), "fid50k: needs an extractor"),
        (("--device", "cuda:77"), "--device: got 'cuda:77'"),
    ],
)
def test_one_line_for_what_cannot_be(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], told: str
) -> None:
    assert call("--data", data, "--outdir", tmp_path / "runs", *options) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("pggan-fast: error: ")
    assert error.count("\n") == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_a_set_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--data", tmp_path / "none.zip") == 2
    assert "none.zip" in capsys.readouterr().err


def test_only_the_first_process_of_a_machine_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert call("--data", tmp_path / "none", "--device", "cpu") == 2
    assert capsys.readouterr().err == ""


def test_fewer_gpus_than_processes_are_refused(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert call("--data", data, "--outdir", tmp_path) == 2
    assert "gpus: expected at most 0, as many as this machine has, got 3" in capsys.readouterr().err


def test_a_run_that_is_still_training_is_not_gone_on_with(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("--data", data, "--outdir", tmp_path / "runs", *SMALL)
    assert call(*command, "--kimg", 0.128) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    with run_dir.held(folder):
        assert call(*command) == 2
    assert "another process is training in it; --new starts another run" in capsys.readouterr().err
    assert call(*command) == 0


@pytest.mark.parametrize(
    "number", [*(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGUSR1)), signal.SIGINT]
)
def test_a_signal_reaches_the_processes_that_it_started(tmp_path: Path, data: Path, number: signal.Signals) -> None:
    """They have saved when the command ends; none is left. SIGUSR1 is handed on as SIGTERM."""
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "pggan_fast.cli", "train", "--data", data, "--outdir", runs, *SMALL]
    with subprocess.Popen(
        [*map(str, command), "--gpus", "2", "--kimg", "10000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATH)), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("tick 1 "):
                break
        os.killpg(process.pid, number)  # as a terminal does, to the group
        told = process.stdout.read()  # to its end: all that write there are gone
        assert process.wait(60) == 128 + number, told
    assert "the same command goes on" in told
    (folder,) = runs.iterdir()
    with run_dir.held(folder):
        assert checkpoint.states(folder)
