"""Training states: whole or refused, the last ones kept, nothing executed."""

from __future__ import annotations

import copy
import errno
import math
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import small_trainings
import torch

from pggan_fast.training import checkpoint, resume
from pggan_fast.training.checkpoint import CheckpointError


def saved(folder: Path, images: int, keep: int = 2) -> Path:
    return checkpoint.save(folder, {"images": images, "weight": torch.arange(1000.0) + images}, keep)


def test_the_last_ones_stay(tmp_path: Path) -> None:
    for images in (5, 100, 2000, 30_000_000_000):
        saved(tmp_path, images)
    (tmp_path / "training-state-000002500.pt.bak").touch()
    assert [p.name for p in checkpoint.states(tmp_path)] == [
        "training-state-30000000000.pt", "training-state-000002000.pt",
    ]  # fmt: skip


def test_going_on_from_an_earlier_one_forgets_what_came_after_it(tmp_path: Path) -> None:
    """Else the next start would take the later one, and lose what was trained since."""
    for images in (1000, 2000, 3000, 1500):
        saved(tmp_path, images, keep=3)
    assert [p.name for p in checkpoint.states(tmp_path)] == [
        "training-state-000001500.pt",
        "training-state-000001000.pt",
    ]


def test_halves_of_files_are_forgotten(tmp_path: Path) -> None:
    """As SIGKILL leaves them; whole files and those of others stay."""
    whole = {saved(tmp_path, 1000).name, ".notes.txt", ".training-state-notes"}
    for name in (
        ".notes.txt",
        ".training-state-notes",
        ".training-state-000002000.pt.a1b2c3d4",
        ".fakes000001.png.abcdefg_",
    ):
        (tmp_path / name).touch()
    checkpoint.clear_halves(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == whole


@pytest.mark.parametrize("kept", [0, 1, 100, 2000, -1])
def test_a_cut_off_file_is_refused_and_the_one_before_taken(tmp_path: Path, kept: int) -> None:
    saved(tmp_path, 1000)
    newest = saved(tmp_path, 2000)
    newest.write_bytes(newest.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"000002000.pt: not a whole training state: "):
        checkpoint.load(newest)
    state, path, said = checkpoint.newest(tmp_path)
    assert state is not None
    assert path == checkpoint.path_of(tmp_path, 1000)
    assert state["images"] == 1000
    assert len(said) == 1


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    """torch.load reads past it."""
    path = saved(tmp_path, 1000)
    data = bytearray(path.read_bytes())
    at = data.index(torch.tensor([1500.0, 1501.0]).numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["weight"][500] != 1500.0
    with pytest.raises(CheckpointError, match=r"damaged: .* is not what was written"):
        checkpoint.load(path)


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"schema": 1, "images": Command()}, path)
    with pytest.raises(CheckpointError, match="not a whole training state"):
        checkpoint.load(path)
    path.write_bytes(pickle.dumps(Command()))
    with pytest.raises(CheckpointError, match="not a whole training state"):
        checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("held", "told"), [([1], "got list"), ({"schema": 7}, "got 7")])
def test_what_is_another_file_of_torch_is_refused(tmp_path: Path, held: object, told: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(held, path)
    with pytest.raises(CheckpointError, match=f"expected a training state of schema 1, {told}"):
        checkpoint.load(path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1000)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 2000)
    assert [p.name for p in tmp_path.iterdir()] == ["training-state-000001000.pt"]


@pytest.mark.parametrize("packed", [True, False])
def test_members_that_unpack_to_more_are_refused(packed: bool, tmp_path: Path) -> None:
    """Before anything is unpacked: zeros that are a thousandth of themselves, and members that share their bytes."""
    path = saved(tmp_path, 1000)
    with zipfile.ZipFile(path, "a") as archive:
        if packed:
            archive.writestr("x/data/9", bytes(1 << 20), zipfile.ZIP_DEFLATED)
        else:
            first = archive.infolist()[0]
            archive.filelist += [first] * (path.stat().st_size // max(1, first.file_size) + 1)
            archive._didModify = True
    with pytest.raises(CheckpointError, match="is compressed" if packed else "larger than the file"):
        checkpoint.load(path)


def changed(state: dict[str, Any], *names: Any, value: Any) -> dict[str, Any]:
    """The state with another value in its depths."""
    *inside, last = names
    made = inner = copy.deepcopy(state)
    for name in inside:
        inner = inner[name]
    inner[last] = value
    return made


@pytest.mark.parametrize(
    ("names", "value", "told"),
    [
        (("images",), -1, "images"),
        (("lod",), math.nan, "lod"),
        (("parts",), [1], "list"),
        (("random",), torch.zeros(3), "RNG state"),
        (("G",), {}, "Missing key"),
        (("loader", "position"), "x", "position"),
        (("loader", "position"), 1 << 70, "position"),
        (("optimizers", "G", "param_groups", 0, "eps"), "\x1b[2J", "eps"),
        (("optimizers", "D", "state", 0, "exp_avg"), torch.ones(1), "moments"),
        (("optimizers", "D", "state", 0, "step"), "soon", "not the state"),
        (("config", "seed"), 9, "seed"),
        (("config", "lr"), 1, "options"),
    ],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_one_line(names: Any, value: Any, told: str, tmp_path: Path) -> None:
    trainer = small_trainings.trainer()
    trainer.iteration()
    own = {**trainer.state_dict(), "tick": 1, "seconds": 1.0}
    path = checkpoint.save(tmp_path, own, 2)
    resume.of(path, trainer.config).restore(trainer.load_state_dict)  # as it is, it fits
    state = changed({"schema": 1, **own}, *names, value=value)
    torch.save(state, path)
    with pytest.raises((CheckpointError, resume.Mismatch)) as refused:
        resume.of(path, trainer.config).restore(trainer.load_state_dict)
    assert str(refused.value).startswith(f"{path}: ")
    assert str(refused.value).isprintable()
    assert told in str(refused.value)
