"""The file that `pggan-fast bench --json` writes: schema 1. Fields may be added, none renamed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pggan_fast import networks

SCHEMA = 1


@dataclass
class Row:
    """One provider of one case. Without a number (`median_s` None), `reason` says why."""

    case: str
    provider: str
    resolution: int
    batch: int
    dtype: str
    device: str
    median_s: float | None = None
    p20_s: float | None = None
    p80_s: float | None = None
    samples: list[float] = field(default_factory=list)  # seconds, in the order taken
    images_per_s: float | None = None
    peak_bytes: int | None = None  # above parameters, gradients, optimiser state and inputs
    error: float | None = None  # worst tensor, against the float64 reference: max|a - ref| / max|ref|, see gate.errors
    error_limit: float | None = None  # what the gate allowed for that tensor
    ratio: float | None = None  # times faster than eager
    ratio_p20: float | None = None
    ratio_p80: float | None = None
    first_call_s: float | None = None  # the first run: compiling, choosing kernels, creating primitives
    mode: str | None = None  # of torch.compile
    fp32_precision: str | None = None
    threads: int | None = None
    reason: str | None = None
    failed: bool = False  # the correctness gate was red


@dataclass
class Report:
    machine: dict[str, Any]
    versions: dict[str, Any]
    commit: str | None
    results: list[Row]
    preset: str | None = None
    seed: int | None = None
    elapsed_s: float | None = None
    schema: int = SCHEMA

    @property
    def red(self) -> bool:
        return any(row.failed for row in self.results)


def dumps(report: Report) -> str:
    return json.dumps(asdict(report), indent=1, allow_nan=False) + "\n"


def loads(text: str) -> Report:
    """A report from JSON. Raises ValueError for another schema or a missing field; unknown fields are dropped."""
    data = json.loads(text)
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema: got {data.get('schema')!r}, expected {SCHEMA}")
    try:
        rows = [Row(**_known(Row, row)) for row in data["results"]]
        return Report(**{**_known(Report, data), "results": rows})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a benchmark report: {error}") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """A reader sees the old file or the whole new one."""
    data = content.encode() if isinstance(content, str) else content
    networks.write_atomically(path, lambda file: file.write(data))


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {key: value for key, value in data.items() if key in names}
