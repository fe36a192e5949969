"""Other people's checkpoints: read without executing anything, converted to networks that compute the same function."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pggan_fast import filetypes
from pggan_fast.convert import (
    akanimax,
    family,
    gan_lab,
    gan_zoo,
    genforce,
    nashory,
    official,
    rosinality,
    torch_file,
    wsconv,
)
from pggan_fast.convert.errors import ConversionError
from pggan_fast.convert.layout import Layout, Row
from pggan_fast.errors import few, line
from pggan_fast.files import write_atomically
from pggan_fast.networks import KINDS, Networks, instead_of_state

__all__ = ["FAMILIES", "Conversion", "ConversionError", "Layout", "Row", "read", "write"]

# The PyTorch ports. The official code's pickles are another kind of file.
FAMILIES = {
    module.FAMILY.name: module.FAMILY for module in (akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv)
}


@dataclass
class Conversion:
    """A foreign file: which family it is of, and how its networks (by our names) map onto ours.

    refused: networks of the file that ours cannot compute, with the reason.
    """

    path: Path
    family: str
    layouts: dict[str, Layout]
    refused: dict[str, str] = field(default_factory=dict)

    def networks(self) -> Networks:
        """Our networks with the file's weights. Raises ConversionError."""
        source = {"file": self.path.name, "family": self.family}
        assumed = {kind: layout.assumed for kind, layout in self.layouts.items() if layout.assumed}
        try:
            made: dict[str, Any] = {kind: layout.network(kind) for kind, layout in self.layouts.items()}
        except ConversionError as error:
            raise ConversionError(f"{self.path}: {error}") from None
        return Networks(**made, source={**source, "assumed": assumed} if assumed else source)


def read(path: str | os.PathLike[str], source: str = "auto", *, nominal_scale: bool = False) -> Conversion:
    """Find out what a file is, and how its networks map onto ours.

    source: "auto", "official" or one of FAMILIES, where another one is to be an error. nominal_scale: nashory's layers
    take the expectation of scales that no file holds. Raises ConversionError, whose one line begins with the path, for
    a damaged or hostile file and for one that our networks cannot express; OSError.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        _check_kind(data)
        if torch_file.is_torch_file(data):
            conversion = _of_a_family(path, torch_file.load(data), {"nominal_scale": nominal_scale})
        else:
            value = official.load(data)
            if not official.recognises(value):
                got = f"the entries {few(value)}" if isinstance(value, dict) and value else type(value).__name__
                raise ConversionError(
                    f"a pickle of {got}, expected networks of the official code (tfutil.Network, network.Network)"
                )
            conversion = Conversion(path, "official", official.layouts(value))
        if source not in ("auto", conversion.family):
            raise ConversionError(f"expected networks of {source}, got those of {conversion.family}")
    except ConversionError as error:
        raise ConversionError(f"{path}: {line(error, 1000)}") from None
    return conversion


def _check_kind(data: bytes) -> None:
    """Refuses what cannot be a checkpoint, by what it is. Raises ConversionError."""
    kind = filetypes.kind(data[: filetypes.HEAD])
    if kind == filetypes.SAFETENSORS:
        raise ConversionError(
            "a safetensors file, expected a pickle or a file of torch.save; to write a network file of ours in another "
            "program's keys, give --to"
        )
    pickled = data.startswith((b"PK\x03\x04", b"\x80")) or data.endswith(b".")  # STOP: protocols 0 and 1 have no magic
    if not pickled and not torch_file.is_torch_file(data):
        raise ConversionError(
            f"{kind}, expected a checkpoint: a file of torch.save or a network pickle of the official code"
        )


def _of_a_family(path: Path, value: Any, options: dict[str, Any]) -> Conversion:
    found = family.recognised(value, list(FAMILIES.values()))
    if found is None:
        keys = (f"{its.G.example} ({its.name})" for its in FAMILIES.values())
        raise ConversionError(
            f"networks of no known program: {family.seen(value)}; expected a state dict with a key such as "
            f"{', '.join(keys)}{instead_of_state(path)}"
        )
    its, states = found
    layouts, refused = {}, {}
    for kind in sorted(states, key=lambda kind: kind != "D"):  # D first: it may tell of labels
        state, beside = states[kind]
        try:
            layouts[kind] = family.layout(its, kind, state, {**beside, **options})
        except ConversionError as error:
            refused[kind] = str(error).removeprefix(f"{kind}: ")
        if kind == "D" and kind in layouts:
            options = {**options, "labels": layouts[kind].arguments["label_dim"]}
    if not layouts:
        reasons = "; ".join(f"{kind}: {reason}" for kind, reason in refused.items())
        raise ConversionError(f"read as a checkpoint of {its.name}: {reasons}")
    return Conversion(path, its.name, {kind: layouts[kind] for kind in KINDS if kind in layouts}, refused)


def write(path: str | os.PathLike[str], networks: Networks, target: str, *, nominal_scale: bool = False) -> list[str]:
    """Write our networks as a file of torch.save in a family's keys, atomically; what to know of it, a line each.

    Raises ConversionError where that family's networks compute another function, ValueError for an unknown family.
    """
    if target not in FAMILIES:
        raise ValueError(f"target: expected one of {', '.join(FAMILIES)}, got {target!r}")
    its, value, said = FAMILIES[target], dict[str, Any](), []
    for kind, net in networks.present().items():
        state, absent = family.exported(its, net, kind, {"nominal_scale": nominal_scale})
        inside = value
        *path_to, last = its.keys[kind]
        for key in path_to:
            inside = inside.setdefault(key, {})
        inside[last] = state
        said.append(f"{kind}: {'.'.join(its.keys[kind])}")
        if absent:
            are = "is" if len(absent) == 1 else "are"
            said.append(f"{kind}: {', '.join(absent)} {are} left out: {target}'s networks have no such level")
    write_atomically(Path(path), lambda file: torch.save(value, file))
    return said
