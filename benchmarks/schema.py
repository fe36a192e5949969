"""The files of a run: schema 1. Fields may be added, none renamed.

`pggan-fast bench --json` writes one object. `--out` writes JSON lines: first everything but the results, then each row
as soon as its unit is finished, so that nothing is lost with the rest of the run. The last line is of what is known at
the end (CLOSING). The first says "interrupted" until it is there, so that a run that was killed says so too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pggan_fast import files
from pggan_fast.errors import line, printable

SCHEMA = 1
GRAPH = "graph, L2 cold"
CLOSING = ("elapsed_s", "interrupted")  # fields of a report


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
    ratio: float | None = None  # times faster than eager, see stats.speedup
    ratio_p20: float | None = None
    ratio_p80: float | None = None
    first_call_s: float | None = None  # the first run: compiling, choosing kernels, creating primitives
    mode: str | None = None  # of torch.compile
    fp32_precision: str | None = None
    threads: int | None = None
    asked_threads: int | None = None  # of `--threads`; None: torch's own choice
    reason: str | None = None
    failed: bool = False  # the correctness gate was red
    noise: float | None = None  # relative: how far two runs of eager were apart in these rounds
    calls: int | None = None  # in a sample, whose seconds are their mean
    timing: str | None = None  # GRAPH: of a CUDA graph of calls whose data is in no cache; None: of calls from Python
    flops: float | None = None  # of one call, in the form that this provider multiplies in
    min_bytes: float | None = None  # that one call has to read and write
    floor_s: float | None = None  # the least time by the machine's ceilings, in the form with the fewest products
    bound: str | None = None  # what makes the floor: "products", "memory" or "launch"


@dataclass
class Report:
    machine: dict[str, Any]
    versions: dict[str, Any]
    commit: str | None
    results: list[Row]
    preset: str | None = None
    seed: int | None = None
    elapsed_s: float | None = None  # of a run that went on, of those parts that tell theirs
    interrupted: bool = False  # or not at its end yet
    schema: int = SCHEMA

    @property
    def red(self) -> bool:
        return any(row.failed for row in self.results)


def dumps(report: Report) -> str:
    return json.dumps(asdict(report), indent=1, allow_nan=False) + "\n"


def loads(text: str) -> Report:
    """A report from JSON. Raises ValueError for another schema or a missing field; unknown fields are dropped."""
    return _report(json.loads(text))


def _report(data: Any) -> Report:
    if not isinstance(data, dict):
        raise ValueError(f"not a benchmark report: expected a JSON object, got a {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema: got {data.get('schema')!r}, expected {SCHEMA}")
    try:
        rows = [Row(**_known(Row, row)) for row in data["results"]]
        report = Report(**{**_known(Report, data), "results": rows})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a benchmark report: {line(error)}") from error
    for name in ("flops", "bytes", "launch_s") if "ceilings" in report.machine else ():
        ceilings = report.machine["ceilings"]
        if not isinstance(ceilings, dict) or not _is_number(ceilings.get(name)) or not ceilings[name]:
            raise ValueError(f"machine: ceilings: expected a number above 0 of {name}, got {line(ceilings)}")
    return report


def _is_number(value: Any) -> bool:
    """Of a kind of which none is below zero; products and ratios of any two are numbers too."""
    return type(value) in (int, float) and (value == 0 or 1e-30 < value < 1e30)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


# By what the fields are declared as
_IS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": _is_count,
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "list[float]": lambda value: isinstance(value, list) and all(_is_number(x) and x for x in value),
    "dict[str, Any]": lambda value: isinstance(value, dict),
    "list[Row]": lambda value: isinstance(value, list),
    "None": lambda value: value is None,
}
# Nothing takes no time and is no times faster
_ABOVE_ZERO = frozenset(("resolution", "batch", "median_s", "p20_s", "p80_s", "ratio", "ratio_p20", "ratio_p80"))


def header(report: Report) -> str:
    """The first line of a file of JSON lines."""
    facts = {key: value for key, value in asdict(report).items() if key != "results"}
    return json.dumps(facts, allow_nan=False) + "\n"


def closing(report: Report) -> str:
    """The last line of a file of JSON lines."""
    return json.dumps({name: getattr(report, name) for name in CLOSING}, allow_nan=False) + "\n"


def lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows)


def read(path: Path) -> Report:
    """A report of either kind of file. A last line that is not whole, of a run that goes on or was killed, is left out,
    and no text in it is one that a terminal obeys.

    Raises ValueError, one line that starts with the path, for what is neither or of another schema; OSError.
    """
    text = path.read_text(errors="replace")
    try:
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            first = json.JSONDecoder().raw_decode(text)[0] if error.msg == "Extra data" else None
            if isinstance(first, dict) and "results" in first:
                raise ValueError("a second run begins after the first: expected one run in a file") from None
            data = _of_lines(text.splitlines())
        if isinstance(data, dict) and "results" not in data and "case" not in data:
            data["results"] = []  # the first line of a run that has no row yet
        return _report(printable(data))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {line(error)}") from None


def _of_lines(texts: Sequence[str]) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            record = json.loads(text)
        except ValueError:
            if number == len(texts) and records:
                break
            raise ValueError(f"line {number} is not JSON") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: expected a JSON object, got a {type(record).__name__}")
        records.append(record)
    if not records:
        raise ValueError("the file is empty")
    first, *rows = records
    second = next((number for number, record in enumerate(rows, 2) if "machine" in record), None)
    if second is not None:
        raise ValueError(f"line {second} begins a second run: expected one run in a file")
    closed = rows.pop() if rows and set(rows[-1]) == set(CLOSING) else {}
    return {**first, **closed, "results": rows}


def write_atomically(path: Path, content: str | bytes) -> None:
    """A reader sees the old file or the whole new one."""
    data = content.encode() if isinstance(content, str) else content
    files.write_atomically(path, lambda file: file.write(data))


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """Its fields in `data`. Raises ValueError where one is of another type."""
    types = {f.name: str(f.type) for f in fields(kind)}
    known = {key: value for key, value in data.items() if key in types}
    for name, value in known.items():
        above = name in _ABOVE_ZERO and value == 0
        if above or not any(_IS[one](value) for one in types[name].split(" | ")):
            raise ValueError(f"{name}: expected {types[name]}{' above 0' if above else ''}, got {line(value, 80)}")
    return known
