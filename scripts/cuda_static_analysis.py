"""Compile the CUDA kernels for chips that need not be here, gate them, and table what they need.

Nothing runs: this is static analysis. usage: cuda_static_analysis.py [--json FILE] [--chip 80 86] [--kernel NAME]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from static_analysis import LABEL, ROOT, SCHEMA, dumps


def analyse(
    chips: list[int], *, kernel: str = "", processes: int = 2, dtypes: Sequence[str] | None = None, built: bool = False
) -> dict[str, Any]:
    """The report: one row per kernel, with its template's arguments, and chip.

    `dtypes`: of the networks whose launches are noted. `kernel`: only those whose name begins so. `built`: machine
    code is read in the module's objects where they are of these sources, without what ptxas warns of.
    """
    import torch
    from static_cuda import gate, launches, programs

    codes = sorted({gate.RUNS[chip] for chip in chips})
    named = [
        source
        for source in programs.sources()
        if f"{source.stem}.".startswith(kernel) or kernel.startswith(f"{source.stem}.")
    ]
    compiled = programs.compile_all(named, codes, processes, built=built)
    rows: list[dict[str, Any]] = []
    for chip in chips:
        noted = launches.by_kernel(chip, dtypes or launches.DTYPES)
        for (source, code), result in compiled.items():
            if code != gate.RUNS[chip]:
                continue
            if result.failed is not None:
                rows.append(failure(source.stem, chip, code, result.failed))
            rows += [gate.row(p, chip, noted.get(p.kernel, [])) for p in result.programs if p.kernel.startswith(kernel)]
    return {
        "schema": SCHEMA,
        "label": LABEL,
        "versions": {**programs.versions(), "torch": torch.__version__},
        "results": sorted(rows, key=lambda row: (row["kernel"], chips.index(int(row["chip"][3:])))),
    }


def failure(stem: str, chip: int, code: int, reason: str) -> dict[str, Any]:
    return {
        "kernel": f"{stem}.*", "chip": f"sm_{chip}", "code": f"sm_{code}", "launches": 0, "threads": 0, "registers": 0,
        "shared_bytes": 0, "dynamic_bytes": 0, "stack_bytes": 0, "spilled_bytes": 0, "blocks_per_sm": 0,
        "instructions": {}, "violations": [f"does not compile: {reason}"],
    }  # fmt: skip


def table(report: dict[str, Any]) -> Any:
    """For people: one line per kernel and chip, the largest need of its instantiations."""
    from rich.table import Table

    columns = ("kernel", "chip", "forms", "threads", "registers", "shared KiB", "blocks/SM", "violations")
    result = Table(*columns, title=f"{LABEL}; nvcc {report['versions']['nvcc']}")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in report["results"]:
        groups.setdefault((row["kernel"].partition("<")[0], int(row["chip"][3:])), []).append(row)
    for (name, chip), rows in sorted(groups.items()):
        fewest, most = (f(r["blocks_per_sm"] for r in rows) for f in (min, max))
        shared = max(r["shared_bytes"] + r["dynamic_bytes"] for r in rows) / 1024
        wrong = sum(bool(r["violations"]) for r in rows)
        numbers = [len(rows), max(r["threads"] for r in rows), max(r["registers"] for r in rows)]
        blocks = f"{fewest}" if fewest == most else f"{fewest}..{most}"
        result.add_row(name, f"sm_{chip}", *map(str, numbers), f"{shared:.1f}", blocks, str(wrong or ""))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--chip", type=int, nargs="+", default=[80, 86, 89, 90, 100, 120])
    parser.add_argument("--kernel", default="", help="only kernels whose name, FILE.KERNEL, begins so")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from pggan_fast.benchmarks.schema import write_atomically
    from rich.console import Console

    report = analyse(options.chip, kernel=options.kernel, processes=options.processes)
    if not report["results"]:
        parser.error(f"--kernel: got {options.kernel!r}, no kernel's name begins so")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.json, dumps(report))
    console = Console(width=max(120, Console().width))
    console.print(table(report))
    wrong = [row for row in report["results"] if row["violations"]]
    for row in wrong:
        console.print(f"{row['kernel']} {row['chip']}: {'; '.join(row['violations'])}", markup=False)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
