"""Network files: one safetensors with the state dicts of G, D and G_ema, and what builds the networks.

Keys are those of the state dicts under the prefixes `G.`, `D.` and `G_ema.`. The safetensors metadata has one entry,
`pggan_fast`, whose text is JSON:

    {"schema": 1, "networks": {"G": arguments of Generator, ...}, "source": {anything that tells where they came from}}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from pggan_fast import filetypes
from pggan_fast.errors import few, line
from pggan_fast.files import write_atomically
from pggan_fast.models import Discriminator, Generator
from pggan_fast.ops import _checks

__all__ = ["NetworkFileError", "Networks", "built", "load", "newest_snapshot", "save", "snapshot_name"]

SCHEMA = 1  # of the metadata: keys may be added, none renamed
KINDS: Mapping[str, type[Generator] | type[Discriminator]] = {"G": Generator, "D": Discriminator, "G_ema": Generator}
_WRITERS = "`pggan-fast convert` or `pggan_fast.networks.save` wrote"
_SNAPSHOT, _STATE = re.compile(r"network-snapshot-(\d{6,})\.safetensors"), re.compile(r"training-state-(\d{9,})\.pt")
_MOST_LEVELS = 20  # 4x4 to 2097152x2097152: a file asks for no more


class NetworkFileError(ValueError):
    """The file is not what it should be; the message is one line that starts with its path."""


@dataclass
class Networks:
    """What a network file holds; a network that it has not is None."""

    G: Generator | None = None
    D: Discriminator | None = None
    G_ema: Generator | None = None
    source: dict[str, Any] = field(default_factory=dict)

    def present(self) -> dict[str, Generator | Discriminator]:
        return {name: net for name in KINDS if (net := getattr(self, name)) is not None}

    @property
    def sampled(self) -> tuple[str, Generator] | None:
        """The generator that images are made with, and its name: G_ema, else G."""
        return next(((name, net) for name in ("G_ema", "G") if (net := getattr(self, name)) is not None), None)


def snapshot_name(kimg: int) -> str:
    """Of the network file that a training writes after so many thousand images."""
    return f"network-snapshot-{kimg:06}.safetensors"


def newest_snapshot(folder: str | os.PathLike[str]) -> Path | None:
    """The path of the one of the most images in the folder of a training, None where there is none. Raises OSError.

    Where there are training states only networks up to the newest of them count, if there are any: a run that went on
    from an earlier state leaves later ones of the course before. One that the run has passed since, without making it
    again, counts too.
    """
    paths = list(Path(folder).iterdir())
    states = [int(match[1]) // 1000 for path in paths if (match := _STATE.fullmatch(path.name))]
    found = [(int(match[1]), path) for path in paths if (match := _SNAPSHOT.fullmatch(path.name))]
    reached = [each for each in found if each[0] <= max(states, default=each[0])]
    return max(reached or found, default=(0, None))[1]


def instead_of_state(path: Path) -> str:
    """What an error about this file adds where it is a training's state; "" for others."""
    if not _STATE.fullmatch(path.name):
        return ""
    return f"; it is a training's state: its networks are in {path.parent}, as {snapshot_name(0).replace('0' * 6, '*')}"


def save(path: str | os.PathLike[str], networks: Networks) -> None:
    """Write the networks' weights, in their dtypes, and their constructors' arguments; atomically.

    Raises ValueError where there is no network, a class is another, or `source` is not JSON; OSError of the file
    system.
    """
    nets = networks.present()
    if not nets:
        raise ValueError("networks: expected one of G, D and G_ema, got none")
    for name, net in nets.items():
        if type(net) is not KINDS[name]:
            raise ValueError(f"{name}: expected a {KINDS[name].__name__}, got {type(net).__name__}")
    try:
        about = {"schema": SCHEMA, "networks": {name: net.arguments for name, net in nets.items()}}
        text = json.dumps({**about, "source": networks.source}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"source: expected what JSON can hold, got {error}") from None
    tensors = {
        f"{name}.{key}": t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, net in nets.items()
        for key, t in net.state_dict().items()
    }
    data = to_bytes(tensors, {"pggan_fast": text})
    write_atomically(Path(path), lambda file: file.write(data))


def load(path: str | os.PathLike[str], *, backend: str | None = None) -> Networks:
    """The networks of a file that `save` wrote, on the CPU, in the dtypes that the file has.

    Every key, shape and dtype is compared with the networks that the metadata names before anything is allocated.
    backend: of the networks' layers, see `Generator`. Raises NetworkFileError, OSError.
    """
    path = Path(path)
    with open(path, "rb") as head:  # what is wrong with the file system is said by OSError
        start = head.read(filetypes.HEAD)
    if (kind := filetypes.kind(start)) != filetypes.SAFETENSORS:
        told = f"{path}: expected a network file, which is safetensors that {_WRITERS}, got {kind}"
        raise NetworkFileError(f"{told}{instead_of_state(path)}")
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(path, file.metadata())
            return _networks(path, file, about, backend)
    except SafetensorError as error:
        raise NetworkFileError(f"{path}: not a whole safetensors file, perhaps truncated: {line(error)}") from None


def _about(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get("pggan_fast")
    if text is None:
        raise NetworkFileError(
            f"{path}: expected a network file that {_WRITERS}, got safetensors of another program, without the "
            "metadata 'pggan_fast'"
        )
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NetworkFileError(f"{path}: the metadata is not JSON: {line(error)}") from None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        got = line(about.get("schema")) if isinstance(about, dict) else type(about).__name__
        raise NetworkFileError(f"{path}: expected schema {SCHEMA}, got {got}")
    networks, source = about.get("networks"), about.get("source", {})
    if not isinstance(networks, dict) or not networks or not networks.keys() <= KINDS.keys():
        got = (few(networks) or "none") if isinstance(networks, dict) else line(networks)
        raise NetworkFileError(f"{path}: expected networks of the names {', '.join(KINDS)}, got {got}")
    if not isinstance(source, dict):
        raise NetworkFileError(f"{path}: source: expected an object, got {type(source).__name__}")
    return {"networks": networks, "source": source}


def _networks(path: Path, file: Any, about: Mapping[str, Any], backend: str | None) -> Networks:
    nets = {name: built(f"{path}: {name}", KINDS[name], a, backend) for name, a in about["networks"].items()}
    wanted = {f"{name}.{key}": t for name, net in nets.items() for key, t in net.state_dict().items()}
    found = set(file.keys())
    for key in sorted(wanted.keys() ^ found):
        raise NetworkFileError(f"{path}: {line(key)} is {'not expected' if key in found else 'missing'}")
    for key, t in wanted.items():
        if (shape := tuple(file.get_slice(key).get_shape())) != tuple(t.shape):
            raise NetworkFileError(f"{path}: {key}: expected shape {tuple(t.shape)}, got {shape}")
    for name, net in nets.items():
        state = {key: file.get_tensor(f"{name}.{key}") for key in net.state_dict()}
        for key, t in state.items():
            if t.dtype not in _checks.DTYPES:
                raise NetworkFileError(f"{path}: {name}.{key}: expected floating-point numbers, got {t.dtype}")
        net.load_state_dict(state, assign=True)
    return Networks(**nets, source=about["source"])


def built(what: str, network: type[Any], arguments: object, backend: str | None = None) -> Any:
    """The network without memory for its weights. Raises NetworkFileError that starts with `what`."""
    if not isinstance(arguments, dict):
        raise NetworkFileError(f"{what}: expected the arguments of {network.__name__}, got {line(arguments)}")
    if "backend" in arguments:
        raise NetworkFileError(f"{what}: backend: got {line(arguments['backend'])}, which is no part of a network file")
    resolution = arguments.get("resolution")
    if type(resolution) is not int or not 4 <= resolution < 4 << _MOST_LEVELS:
        raise NetworkFileError(f"{what}: resolution: expected a power of two >= 4, got {line(resolution)}")
    try:
        with torch.device("meta"):
            return network(**arguments, backend=backend)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, IndexError, AttributeError) as error:
        raise NetworkFileError(f"{what}: {line(error)}") from None
