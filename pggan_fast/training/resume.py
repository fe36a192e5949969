"""Which earlier run a command goes on with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pggan_fast.errors import line
from pggan_fast.training import checkpoint
from pggan_fast.training.checkpoint import CheckpointError
from pggan_fast.training.config import Config
from pggan_fast.training.loop import OPTIONS

# What is raised over options that somebody made up
_NO_OPTIONS = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)


class Found(NamedTuple):
    """A run to go on with, at its newest whole state; `said`: a line for each newer one that is damaged."""

    folder: Path
    state: Mapping[str, Any]
    said: list[str]
    path: Path  # of the state

    def restore(self, load: Callable[[Mapping[str, Any]], object]) -> None:
        """Have `load` take the state. Raises CheckpointError where it is not what a training of ours holds."""
        try:
            load(self.state)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.path}: not the state of such a training: {line(error)} ({type(error).__name__})"
            ) from None


class Mismatch(ValueError):
    """The run is of another configuration or of other images; the message says what differs."""


def find(outdir: Path, config: Config) -> Found | None:
    """The newest run in `outdir` of this configuration that has a state.

    Raises Mismatch where the newest such run differs in its images alone: the data changed under it.
    """
    for folder in sorted(outdir.iterdir(), reverse=True) if outdir.is_dir() else []:
        earlier = _config(folder)
        if earlier is None or not checkpoint.states(folder):
            continue
        differences = earlier.differences(config)
        if differences and all(text.startswith("data.") for text in differences):
            if earlier.data.get("path") == config.data["path"]:
                told = "; ".join(differences)
                raise Mismatch(f"{folder}: the images of {config.data['path']} are not those it was trained on: {told}")
        elif not differences:
            found = _newest(folder)
            if found is not None:
                return found
    return None


def of(path: Path, config: Config) -> Found:
    """The run in a folder, or one of its states by name. Raises Mismatch, CheckpointError, OSError."""
    found = _newest(path) if path.is_dir() else Found(path.parent, checkpoint.load(path), [], path)
    if found is None:
        raise CheckpointError(f"{path}: there is no training state in it that is whole")
    try:
        differences = Config.from_json(found.state["config"]).differences(config)
    except _NO_OPTIONS as error:
        told = f"{line(error)} ({type(error).__name__})"
        raise CheckpointError(f"{path}: its options are not those of this version: {told}") from None
    if differences:
        told = "; ".join(differences)
        began = f"; {found.folder / OPTIONS} has the command that began it" if _began(found.folder) else ""
        raise Mismatch(f"{path}: was trained with other options (its own, yours): {told}{began}")
    return found


def _newest(folder: Path) -> Found | None:
    state, path, said = checkpoint.newest(folder)
    return None if state is None or path is None else Found(folder, state, said, path)


def _options(folder: Path) -> Any:
    """Raises OSError, ValueError."""
    return json.loads((folder / OPTIONS).read_bytes())


def _began(folder: Path) -> bool:
    """Whether the run's options tell its command, as those of the first versions do not."""
    try:
        return "command" in _options(folder)
    except (OSError, *_NO_OPTIONS):
        return False


def _config(folder: Path) -> Config | None:
    """Of the run in a folder; None where there is none that this version knows."""
    try:
        return Config.from_json(_options(folder)["config"])
    except (OSError, *_NO_OPTIONS):
        return None
