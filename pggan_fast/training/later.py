"""What a run's folder has of later than where the run goes on: of a course that it left.

Lines of stats.jsonl, and of metric-*.jsonl on networks of the folder, are dropped, so that curves do not run back.
Pictures and networks stay until the run makes them again, later states until it writes its next one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from pggan_fast.errors import counted
from pggan_fast.files import write_atomically
from pggan_fast.training import checkpoint

STATS, METRICS = "stats.jsonl", "metric-*.jsonl"
_NUMBER = re.compile(r"network-snapshot-(\d{1,15})\.\w+$")
_NETWORK = re.compile(r"network-snapshot-(\d+)\.safetensors")
_MADE = {  # with the images that one number stands for
    "picture": (re.compile(r"fakes(\d+)\.png"), 1000),
    "network": (_NETWORK, 1000),
    "training state": (checkpoint.NAME, 1),
}
_HALF_AN_IMAGE, _MOST_KIMG = 0.0005, 1e15


def files(folder: Path, images: int) -> list[str]:
    """What the folder has of more images, as "3 pictures"."""
    names = [path.name for path in folder.iterdir()]
    made = {
        what: sum(int(m[1]) > images // unit for name in names if (m := pattern.fullmatch(name)))
        for what, (pattern, unit) in _MADE.items()
    }
    return [counted(count, what) for what, count in made.items() if count]


def cut(folder: Path, kimg: float) -> list[tuple[str, int]]:
    """Drop the lines of later than `kimg`; each file with how many were dropped, stats.jsonl in any case."""
    metrics = [(path.name, cut_lines(path, kimg, _of_metric)) for path in sorted(folder.glob(METRICS))]
    return [(STATS, cut_stats(folder / STATS, kimg)), *(each for each in metrics if each[1])]


def cut_stats(path: Path, kimg: float) -> int:
    """Drop lines of later ticks than `kimg`, and any that is no whole record; atomically. How many were dropped."""
    return cut_lines(path, kimg, _of_tick)


def cut_lines(path: Path, kimg: float, of: Callable[[bytes], float]) -> int:
    """Drop what `of` says is of more kimg; atomically. How many lines were dropped."""
    if not path.is_file():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if of(line) <= kimg + _HALF_AN_IMAGE]
    if len(kept) < len(lines):
        write_atomically(path, lambda file: file.writelines(kept))
    return len(lines) - len(kept)


def score_kimg(line: object) -> float | None:
    """Of a metric's record: what the training wrote down, else thousands by the snapshot's name; None without."""
    if not isinstance(line, dict):
        return None
    kimg = line.get("kimg")
    if isinstance(kimg, (int, float)) and not isinstance(kimg, bool) and abs(kimg) <= _MOST_KIMG:
        return float(kimg)
    match = _NUMBER.search(str(line.get("snapshot_pkl")))
    return float(match[1]) if match else None


def _of_tick(line: bytes) -> float:
    """Infinity where there is none."""
    try:
        return float(json.loads(line)["Progress/kimg"]["mean"]) if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf


def _of_metric(line: bytes) -> float:
    """0 where none is known, and for what is no network of the folder: somebody may keep other measurements there."""
    try:
        record = json.loads(line)
        own = isinstance(record, dict) and _NETWORK.fullmatch(str(record.get("snapshot_pkl")))
        return (score_kimg(record) or 0.0) if own else 0.0
    except (ValueError, OverflowError, RecursionError):
        return 0.0
