"""Training states on disk: whole, checked when read, the last few kept."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pggan_fast import filetypes
from pggan_fast.errors import line
from pggan_fast.files import write_atomically

SCHEMA = 1
NAME = re.compile(r"training-state-(\d{9,})\.pt")


class CheckpointError(ValueError):
    """The file is no whole training state of ours; the message is one line that starts with its path."""


def path_of(folder: Path, images: int) -> Path:
    """By images seen, not thousands: a run may be stopped twice within one."""
    return folder / f"training-state-{images:09d}.pt"


def save(folder: Path, state: Mapping[str, Any], keep: int) -> Path:
    """Write a state beside the others, then forget all but the last `keep`, and those of more images: a run that went
    on from an earlier one leaves them. Raises OSError; what was there stays."""
    held = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, held)
    path = path_of(folder, state["images"])
    write_atomically(path, lambda file: file.write(held.getbuffer()))
    found = states(folder)
    here = found.index(path)
    for old in [*found[:here], *found[here + max(1, keep) :]]:
        old.unlink(missing_ok=True)
    return path


def clear_halves(folder: Path) -> None:
    """Forget files that a process did not get to write to their end; nobody else may write there meanwhile."""
    for path in folder.glob(".*.*"):
        if re.fullmatch(
            r"\.(training-state|network-snapshot|fakes|reals|training_options|stats|metric)[^/]*\.[^./]{8}", path.name
        ):
            path.unlink(missing_ok=True)


def states(folder: Path) -> list[Path]:
    """The folder's states, the newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def load(path: Path) -> dict[str, Any]:
    """A state on the CPU. Nothing in the file is executed. Raises CheckpointError, OSError."""
    with open(path, "rb") as file:  # what is wrong with the file system is said by OSError
        kind = filetypes.kind(file.read(filetypes.HEAD))
    if kind == filetypes.SAFETENSORS:
        raise CheckpointError(
            f"{path}: a network file, which has no optimisers to go on with: expected a run's folder or a "
            "training-state-*.pt of one; `pggan-fast generate --network` draws this one's images"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and torch raise nearly anything over bytes that somebody made up
        raise CheckpointError(f"{path}: not a whole training state: {line(error)}") from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        got = line(state.get("schema")) if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: expected a training state of schema {SCHEMA}, got {got}")
    if type(images := state.get("images")) is not int or images < 0:
        raise CheckpointError(f"{path}: images: expected how many were seen, got {line(images)}")
    return state


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """That they are what torch.save wrote, before torch reads them: it passes over wrong checksums, and unpacks."""
    members = archive.infolist()
    packed = next((member for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise CheckpointError(f"{path}: damaged: {line(packed.filename)} is compressed, which torch.save never does")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path}: damaged: its members are larger than the file")
    if (broken := archive.testzip()) is not None:
        raise CheckpointError(f"{path}: damaged: {line(broken)} is not what was written")


def newest(folder: Path) -> tuple[dict[str, Any] | None, Path | None, list[str]]:
    """The newest state of a folder that is whole, its path, and a line for each newer one that is not."""
    said: list[str] = []
    for path in states(folder):
        state = _loaded(path, said)
        if state is not None:
            return state, path, said
    return None, None, said


def _loaded(path: Path, said: list[str]) -> dict[str, Any] | None:
    try:
        return load(path)
    except CheckpointError as error:
        said.append(str(error))
        return None
