"""A run that goes on from an older state than its last: what its folder has of later."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from small_trainings import config, images, trainer
from training.test_loop import run_of, said

from pggan_fast import networks
from pggan_fast.training import checkpoint, later, report, resume
from pggan_fast.training.distributed import World
from pggan_fast.training.loop import Run, Settings

NETWORK = "network-snapshot-{:06d}.safetensors"


def score(number: int, **more: object) -> str:
    return json.dumps({"results": {"swd16_avg": number}, "snapshot_pkl": NETWORK.format(number), **more})


def test_metrics_of_later_are_dropped_and_others_stay(tmp_path: Path) -> None:
    mine = json.dumps({"results": {"swd16_avg": 1.0}, "snapshot_pkl": "mine.safetensors"})
    photos = json.dumps({"results": {"swd16_avg": 1.0}, "snapshot_pkl": "photos-2024.zip"})
    others = json.dumps({"kimg": 900.0, "snapshot_pkl": "../other/" + NETWORK.format(900)})
    named = json.dumps({"kimg": 900.0, "snapshot_pkl": "mine.safetensors"})
    kept = [mine, photos, others, named, "no JSON", "[]"]
    lines = [score(100), score(100, kimg=100.2), score(100, kimg=100.9), score(200), *kept]
    (tmp_path / "metric-swd16.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "metric-fd10k.jsonl").write_text(score(50) + "\n")
    assert later.cut(tmp_path, 100.2) == [("stats.jsonl", 0), ("metric-swd16.jsonl", 2)]
    assert (tmp_path / "metric-swd16.jsonl").read_text().splitlines() == [*lines[:2], *kept]
    assert (tmp_path / "metric-fd10k.jsonl").read_text() == score(50) + "\n"


def test_a_failed_cut_leaves_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metric-swd16.jsonl"
    path.write_text(score(100) + "\n")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pggan_fast.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        later.cut(tmp_path, 10.0)
    assert path.read_text() == score(100) + "\n"


def test_a_kimg_that_is_none() -> None:
    for kimg in ("x", math.inf, math.nan, True, None, 10**400):
        assert later.score_kimg({"kimg": kimg, "snapshot_pkl": NETWORK.format(7)}) == 7.0
    assert later.score_kimg([]) is None


def test_going_on_from_an_older_state(tmp_path: Path) -> None:
    """Its metrics, networks and pictures of later are told, left out or replaced; none is gone in between."""
    dataset = images(size=16)
    plan = {"initial": 16, "total_kimg": 4.0, "tick_kimg_base": 1.0, "minibatch_base": 40}
    settings = Settings(snap=1, keep=9, metrics=("swd16",))
    first = run_of(tmp_path / "run", dataset, settings, schedule=plan)
    assert first.run() == 0
    older = checkpoint.states(first.folder)[2]
    held = networks.load(first.folder / NETWORK.format(4)).source

    found = resume.of(older, first.config)
    again = run_of(first.folder, dataset, settings, schedule=plan)
    found.restore(again.load_state_dict)
    told = "the folder has 2 pictures, 2 networks, 2 training states of later, to be replaced as the run gets there"
    assert told in said(again)
    assert networks.load(first.folder / NETWORK.format(4)).source == held

    kimgs: list[list[float]] = []
    real = again._save_state

    def save() -> None:
        real()
        if not kimgs:
            assert (first.folder / NETWORK.format(4)).exists()
            assert networks.newest_snapshot(first.folder) == first.folder / NETWORK.format(3)
            run = report.read(first.folder)
            assert [kimg for kimg, _ in run.fakes] == [0, 1, 2, 3]
            assert run.notes == ["1 picture of later than the last tick: left out"]
        lines = (first.folder / "metric-swd16.jsonl").read_text().splitlines()
        kimgs.append([json.loads(line)["kimg"] for line in lines])

    again._save_state = save  # type: ignore[method-assign]
    assert again.run() == 0
    ticks = report.read(first.folder).series("Progress/kimg")[0]
    assert kimgs[-1] == ticks == sorted(set(ticks))
    assert [len(each) for each in kimgs] == [3, 4]
    log = (first.folder / "log.txt").read_text()
    assert told in log
    assert "lines of stats.jsonl dropped: 2, of metric-swd16.jsonl dropped: 2" in log


def test_only_the_first_process_looks_into_the_folder(tmp_path: Path) -> None:
    """Those of other machines may not have it."""
    state = {**trainer().state_dict(), "tick": 0, "seconds": 0.0}
    dataset, console = images(), Console(file=io.StringIO())
    Run(config(dataset), dataset, tmp_path / "none", World(1, 2), Settings(), console).load_state_dict(state)
    with pytest.raises(FileNotFoundError):
        Run(config(dataset), dataset, tmp_path / "none", World(0, 2), Settings(), console).load_state_dict(state)


def test_networks_without_states_count_all(tmp_path: Path) -> None:
    for number in (5, 9):
        (tmp_path / NETWORK.format(number)).touch()
    assert networks.newest_snapshot(tmp_path) == tmp_path / NETWORK.format(9)
    (tmp_path / "training-state-000006500.pt").touch()
    assert networks.newest_snapshot(tmp_path) == tmp_path / NETWORK.format(5)
    (tmp_path / "training-state-000004999.pt").touch()
    (tmp_path / "training-state-000006500.pt").unlink()
    assert networks.newest_snapshot(tmp_path) == tmp_path / NETWORK.format(9)


def test_a_network_is_no_state(tmp_path: Path) -> None:
    """Whatever it is called, and in whatever folder."""
    run = run_of(tmp_path / "run", schedule={"total_kimg": 0.064})
    run.run()
    network = run.folder / NETWORK.format(0)
    other = shutil.copy(network, tmp_path / "state.pt")
    for path in (network, Path(other)):
        with pytest.raises(checkpoint.CheckpointError) as error:
            resume.of(path, config(images()))
        told = str(error.value)
        assert told.startswith(f"{path}: a network file, ")
        for part in ("training-state-*.pt", "a run's folder", "pggan-fast generate --network"):
            assert part in told
