"""Labels: a class each, or a vector each, as StyleGAN's dataset.json has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from pggan_fast.data.errors import DataError
from pggan_fast.errors import line

if TYPE_CHECKING:
    from pggan_fast.data.sources import Source

Label: TypeAlias = int | list[float]
Kind = Literal["auto", "folders", "none"]
FILE = "dataset.json"
MOST_CLASSES = 1 << 16  # a label is a vector of so many numbers
_LARGEST = 3.4e38  # of a vector's numbers, which become float32


def parse(text: bytes, source: Path) -> dict[str, Label] | None:
    """Labels by file name; None where the file has none. Raises DataError."""
    where = f"{source}: {FILE}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {line(error)}") from None
    pairs = found.get("labels") if isinstance(found, dict) else None
    if not isinstance(found, dict) or (pairs is not None and not isinstance(pairs, list)):
        raise DataError(f'{where}: expected {{"labels": [[name, label], ...]}} or null')
    labels: dict[str, Label] = {}
    for pair in pairs or ():
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _is_label(pair[1])):
            raise DataError(f"{where}: expected [name, class or list of numbers], got {line(pair, 80)}")
        if labels.setdefault(pair[0], pair[1]) != pair[1]:
            raise DataError(f"{where}: two labels for {line(pair[0])!r}")
    if len({_kind(label) for label in labels.values()}) > 1:
        raise DataError(f"{where}: labels of several kinds, expected classes, or vectors of one length")
    return labels or None


def _is_label(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(x) in (int, float) and abs(x) <= _LARGEST for x in value)
    return type(value) is int and 0 <= value < MOST_CLASSES


def _kind(label: Label) -> int:
    """The length of a vector; 0 of a class."""
    return len(label) if isinstance(label, list) else 0


def write(names: Sequence[str], labels: Sequence[Label | None], classes: Sequence[str] | None) -> bytes:
    """dataset.json of these files, null where they have no labels; `classes` are added as "label_names"."""
    known = [[name, label] for name, label in zip(names, labels, strict=True) if label is not None]
    found: dict[str, Any] = {"labels": known or None}
    if known and classes:
        found["label_names"] = list(classes)
    return json.dumps(found, separators=(",", ":")).encode("ascii")


def class_names(text: bytes) -> list[str] | None:
    """The names of the classes that `write` added, of a file that `parse` took."""
    names = json.loads(text).get("label_names")
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def by_folder(names: Sequence[str]) -> tuple[list[Label | None], list[str]]:
    """Each file's class is its first folder; None for files in none. And the folders, in the order of the classes."""
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    number = {folder: i for i, folder in enumerate(folders)}
    return [number[name.partition("/")[0]] if "/" in name else None for name in names], folders


def matched(names: Sequence[str], labels: Mapping[str, Label]) -> list[Label | None]:
    return [labels.get(name) for name in names]


def from_vectors(vectors: npt.NDArray[Any]) -> list[Label | None]:
    """Classes where every row is one-hot, else the rows."""
    if ((vectors == 0) | (vectors == 1)).all() and (vectors.sum(axis=1) == 1).all():
        return [int(i) for i in vectors.argmax(axis=1)]
    return [[float(x) for x in row] for row in vectors]


def table(labels: Sequence[Label | None]) -> npt.NDArray[Any] | None:
    """int64 [N] classes or float32 [N, K] vectors; None where there are none at all."""
    if all(label is None for label in labels):
        return None
    known = cast(Sequence[Label], labels)
    return np.asarray(known, np.float32 if isinstance(known[0], list) else np.int64)


def of_source(source: Source, kind: Kind) -> tuple[list[Label | None] | None, list[str] | None]:
    """A source's labels and the names of its classes: its own ("auto"), its first folders, or "none"."""
    if kind == "none":
        return None, None
    if kind == "auto":
        return source.labels, source.classes
    labels, classes = by_folder(source.names)
    if not classes:
        raise DataError(f"{source.path}: labels: expected images in folders, each of which is a class, got none in one")
    return labels, classes
