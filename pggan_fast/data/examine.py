"""What a data set is, whether all of it is whole, and what is written beside a converted one."""

from __future__ import annotations

import collections
import math
import warnings
from collections.abc import Callable
from pathlib import Path

from pggan_fast.data.convert import Summary
from pggan_fast.data.dataset import Dataset, SourceDataset, open_dataset
from pggan_fast.data.errors import ImageRefused
from pggan_fast.data.sheet import contact_sheet, evenly
from pggan_fast.errors import counted, file_size, line
from pggan_fast.files import write_atomically


def describe(path: str) -> list[str]:
    """Lines about a data set. Raises DataError, OSError."""
    opened = open_dataset(path)
    channels, height, width = opened.shape
    sizes = [f"{opened.base_shape[1] * r // 4}x{opened.base_shape[0] * r // 4}" for r in opened.resolutions]
    lines = [
        f"{opened.name}: {counted(len(opened), 'image')} of {width}x{height}, {'grey' if channels == 1 else 'RGB'}",
        f"levels  {', '.join(sizes)}",
        f"labels  {_labels(opened)}",
        f"memory  {file_size(len(opened) * math.prod(opened.shape))} as bytes",
    ]
    if broken := len(opened.skipped) + len(_listed(opened)):
        lines.append(f"broken  {broken} of those that were looked at; `pggan-fast data verify` tells")
    return lines


def _labels(opened: Dataset) -> str:
    if opened.labels is None:
        return "none"
    if opened.labels.ndim == 2:
        return f"vectors of {counted(opened.label_dim, 'number')}"
    counts = collections.Counter(opened.labels.tolist())
    few, many = min(counts.values()), max(counts.values())
    missing = opened.label_dim - len(counts)
    gaps = f", {counted(missing, 'class')} below the largest without any" if missing else ""
    each = f"{few} to {many} images" if many > few else counted(few, "image")
    return f"{counted(len(counts), 'class')}, {each} each{gaps}"


def verify(path: str, say: Callable[[int, int], None] = lambda done, total: None) -> tuple[int, list[str]]:
    """(how many images it has, a line for each that is not whole). Raises DataError where there is no set, OSError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an image that is skipped: all are told here
        opened = open_dataset(path)
    problems = [f"{opened.name}: {line(name)}: {kind}: {why}" for name, kind, why in _listed(opened)]
    for number in range(len(opened)):
        try:
            opened.image(number)
        except ImageRefused as error:
            problems.append(f"{opened.title(number)}: {error.kind}: {error}")
        say(number + 1, len(opened))
    return len(opened), problems


def _listed(opened: Dataset) -> list[tuple[str, str, str]]:
    """What was left out when the set was opened, but for second names of a file and what is hidden."""
    rows = opened.left_out if isinstance(opened, SourceDataset) else []
    return [(row.name, row.kind, row.why) for row in rows if row.kind not in ("the same file", "hidden")]


def beside(dest: Path, what: str) -> Path:
    """x.zip and "sheet.png": x.sheet.png."""
    return dest.with_name(f"{dest.stem}.{what}")


def write_beside(summary: Summary) -> None:
    """The list of what was skipped, and a picture of some of what was not. Raises OSError."""
    rows = [f"{line(row.name, 4096)}\t{row.kind}\t{line(row.why, 4096)}\n" for row in summary.skipped]
    listed = beside(summary.dest, "skipped.tsv")
    if rows:
        text = "".join(["file\tkind\twhy\n", *rows]).encode("utf-8", "backslashreplace")
        write_atomically(listed, lambda file: file.write(text))
    else:
        listed.unlink(missing_ok=True)
    opened = open_dataset(summary.dest, labels="none")
    images = [opened.image(i) for i in evenly(len(opened))]
    sheet = contact_sheet([image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in images])
    write_atomically(beside(summary.dest, "sheet.png"), lambda file: sheet.save(file, "PNG"))
