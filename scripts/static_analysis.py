"""Compile the Triton kernels of whole networks for chips that need not be here, gate them, and table what they need.

Nothing runs: this is static analysis. usage: static_analysis.py [--json FILE] [--arch 80 90] [--dtype bfloat16] [...]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = 1
IEEE = "-ieee"  # after float32: products in full precision
LABEL = "static analysis, compiled and not run"


def analyse(
    dtypes: list[str],
    archs: list[int],
    resolutions: list[int],
    *,
    each: int | None = None,
    kernel: str = "",
    processes: int = 2,
    progress: Any = None,
) -> dict[str, Any]:
    """The report: one row per kernel, specialisation, dtype and architecture.

    `each`: at most that many specialisations of a kernel, spread over those that there are; None: all.
    `kernel`: only those whose name holds this.
    """
    import torch
    from static import aot, gate, record

    served: dict[Any, list[Any]] = {}
    for cc in archs:
        for dtype in dtypes:
            launches = recorded(getattr(torch, dtype.removesuffix(IEEE)), cc, resolutions, dtype.endswith(IEEE))
            jobs = {job: uses for job, uses in record.unique(launches, cc).items() if kernel in job.name}
            for job, uses in spread(jobs, each).items():
                served.setdefault(job, []).extend(uses)
    programs = aot.compile_all(served, processes, progress)
    return {
        "schema": SCHEMA,
        "label": LABEL,
        "versions": {**aot.versions(), "torch": torch.__version__},
        "networks": {"resolutions": resolutions, "dtypes": dtypes, "each": each},
        "results": [gate.row(job, programs[job], uses) for job, uses in served.items()],
    }


def recorded(dtype: Any, cc: int, resolutions: list[int], exact: bool) -> list[Any]:
    """Launches of whole networks and of what they do not use, products of float32 in TF32 or exact."""
    import torch
    from static.model_launches import model_launches, op_launches

    settings = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee" if exact else "tf32"
        return model_launches(dtype, cc, resolutions) + op_launches(dtype, cc)
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def spread(jobs: dict[Any, Any], each: int | None) -> dict[Any, Any]:
    """At most `each` jobs per kernel, evenly from the first to the last."""
    by_kernel: dict[str, list[Any]] = {}
    for job in jobs:
        by_kernel.setdefault(job.name, []).append(job)
    chosen = []
    for group in by_kernel.values():
        n = len(group) if each is None else min(each, len(group))
        chosen += [group[i * (len(group) - 1) // max(1, n - 1)] for i in range(n)]
    return {job: jobs[job] for job in chosen}


def dumps(report: dict[str, Any]) -> str:
    """JSON with a row per line: differences between two tables can be read."""
    head = json.dumps({**report, "results": []}, indent=1).removesuffix("[]\n}")
    return head + "[\n" + ",\n".join(map(json.dumps, report["results"])) + "\n]}\n"


def table(report: dict[str, Any]) -> Any:
    """For people: one line per kernel, dtype and architecture, the largest need of its specialisations."""
    from rich.table import Table

    columns = ("kernel", "dtype", "arch", "programs", "registers", "shared KiB", "blocks/SM", "violations")
    result = Table(*columns, title=f"{LABEL}; triton {report['versions']['triton']}")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in report["results"]:
        groups.setdefault((row["kernel"], row["dtype"], row["arch"]), []).append(row)
    for (kernel, dtype, arch), rows in sorted(groups.items()):
        fewest, most = (f(r["blocks_per_sm"] for r in rows) for f in (min, max))
        wrong = sum(bool(r["violations"]) for r in rows)
        registers, shared = max(r["registers"] for r in rows), max(r["shared_bytes"] for r in rows) / 1024
        blocks = f"{fewest}" if fewest == most else f"{fewest}..{most}"
        result.add_row(kernel, dtype, arch, str(len(rows)), str(registers), f"{shared:.1f}", blocks, str(wrong or ""))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100, 120])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float16", "float32", "float32-ieee"])
    parser.add_argument("--resolution", type=int, nargs="+", default=[2**i for i in range(2, 11)])
    parser.add_argument("--each", type=int, help="at most so many specialisations of a kernel")
    parser.add_argument("--kernel", default="", help="only kernels whose name holds this")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("unset TRITON_INTERPRET: interpreted kernels are not compiled")
    sys.path.insert(0, str(ROOT / "tests"))
    from pggan_fast.benchmarks.schema import write_atomically
    from rich.console import Console

    console, start = Console(width=max(120, Console().width)), time.monotonic()

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"compiled {done} of {total}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    report = analyse(
        options.dtype,
        options.arch,
        options.resolution,
        each=options.each,
        kernel=options.kernel,
        processes=options.processes,
        progress=progress,
    )
    if not report["results"]:
        parser.error(f"--kernel: got {options.kernel!r}, which is in the name of no kernel")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.json, dumps(report))
    console.print(table(report))
    wrong = [row for row in report["results"] if row["violations"]]
    for row in wrong:
        console.print(f"{row['kernel']} {row['arch']} {row['dtype']} {row['shapes']}: {'; '.join(row['violations'])}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
