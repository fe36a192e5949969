"""The README's figures, from the committed results.

    python -m pggan_fast.benchmarks.readme [--check]

Between `<!--f:NAME-->` and `<!--/f-->` stands what the functions of FIGURES make of benchmarks/results; this rewrites
all of them, in a checkout. With --check nothing is written, and the exit status is 1 where something would change.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pggan_fast.benchmarks import runs, schema
from pggan_fast.benchmarks.schema import Report, Row, write_atomically
from pggan_fast.benchmarks.table import seconds

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"<!--f:([\w-]+)-->(.*?)<!--/f-->", re.DOTALL)
PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth"}
QUICK = (
    ("step", 32, "WGAN-GP step (D + G)"),
    ("G.forward", 128, "G forward"),
    ("D.forward", 128, "D forward"),
    ("G.forward", 32, "G forward"),
    ("D.forward", 32, "D forward"),
)


def results(name: str, root: Path) -> Report:
    """The file of that name: JSON lines of `--out`, or one object of `--json`."""
    path = root / "benchmarks" / "results" / f"{name}.jsonl"
    return runs.filled(schema.read(path if path.is_file() else path.with_suffix(".json")))


def row(report: Report, case: str, provider: str, resolution: int) -> Row:
    """The only one. Raises ValueError."""
    found = [r for r in report.results if (r.case, r.provider, r.resolution) == (case, provider, resolution)]
    if len(found) != 1:
        raise ValueError(f"{case}, {provider}, {resolution}: expected one row, got {len(found)}")
    return found[0]


def quick(root: Path) -> str:
    report = results("cpu-quick", root)
    lines = [
        "| whole networks, float32, batch 4 | plain PyTorch | pggan_fast | x eager (p20..p80) | torch.compile, x eager "
    ]
    lines[0] += "| peak memory, MiB |"
    lines.append("|---|---|---|---|---|---|")
    for case, resolution, title in QUICK:
        eager, ours, compiled = (row(report, case, who, resolution) for who in ("eager", "auto", "compile"))
        theirs = "refused" if compiled.ratio is None else f"{compiled.ratio:.2f}"
        peaks = " -> ".join(f"{(r.peak_bytes or 0) / 2**20:.0f}" for r in (eager, ours))
        lines.append(
            f"| {title}, {resolution}x{resolution} | {seconds(eager.median_s or 0)} | {seconds(ours.median_s or 0)} "
            f"| **{ours.ratio:.2f}** {spread(ours)} | {theirs} | {peaks} |"
        )
    return "\n" + "\n".join(lines) + "\n"


def spread(of: Row) -> str:
    return f"({of.ratio_p20:.2f}..{of.ratio_p80:.2f})"


def largest(root: Path) -> str:
    report = results("cpu-resolutions", root)
    eager, ours = (row(report, "G.forward", who, 1024) for who in ("eager", "auto"))
    part = PARTS[round((eager.peak_bytes or 0) / (ours.peak_bytes or 1))]
    return f"{ours.ratio:.1f} times as fast in {part} of the memory"


def swapped(family: str) -> Callable[[Path], str]:
    def text(root: Path) -> str:
        fused = row(results("cpu-peers", root), f"{family}.step", "auto", 32)
        return f"{fused.ratio:.2f} {spread(fused)}"

    return text


def _times(rows: list[Row]) -> float:
    """Plain PyTorch's seconds over ours, all phases being of the same length."""
    eager, ours = (sum(r.median_s or 0.0 for r in rows if r.provider == who) for who in ("eager", "auto"))
    return eager / ours


def training(root: Path) -> str:
    return f"{_times(results('cpu-training', root).results):.2f}"


def training_levels(root: Path) -> str:
    rows = results("cpu-training", root).results
    levels = sorted({r.resolution for r in rows if r.resolution > 4}, reverse=True)
    told = [(level, _times([r for r in rows if r.resolution == level])) for level in levels]
    texts = [f"{times:.1f}{' times' * (at == 0)} at {level}x{level}" for at, (level, times) in enumerate(told)]
    return ", ".join(texts)


def gpu_training(root: Path) -> str:
    """Of each level, and of the whole preset."""
    lines = [
        "| the `BENCHMARK` preset, minibatch 16, s/kimg | plain PyTorch | with graphs | pggan_fast | x eager |",
        "|---|---|---|---|---|",
    ]
    for precision in ("bf16", "fp32"):
        report = results(f"nvidia-h200/training-{precision}", root)
        whole = {who: [r for r in report.results if r.provider == who] for who in ("eager", "eager_graphs", "auto")}
        for level in sorted({r.resolution for r in report.results}):
            eager, graphs, ours = (next(r for r in rows if (r.resolution, r.mode) == (level, None))
                                   for rows in whole.values())  # fmt: skip
            times = " | ".join(f"{r.median_s:.2f}" for r in (eager, graphs, ours))
            lines.append(f"| {precision}, {level}x{level} | {times} | **{ours.ratio:.2f}** {spread(ours)} |")
        means = [sum(r.median_s or 0.0 for r in rows) / len(rows) for rows in whole.values()]
        times = " | ".join(f"{mean:.2f}" for mean in means)
        lines.append(f"| {precision}, every level and fade | {times} | **{means[0] / means[2]:.2f}** |")
    return "\n" + "\n".join(lines) + "\n"


FIGURES: Mapping[str, Callable[[Path], str]] = {
    "quick": quick,
    "largest": largest,
    "swap-wsconv": swapped("wsconv"),
    "swap-pro-gan-pth": swapped("pro-gan-pth"),
    "training": training,
    "training-levels": training_levels,
    "gpu-training": gpu_training,
}


def rewritten(text: str, root: Path = ROOT) -> str:
    """The README with the results' figures in it. Raises ValueError for a name that is none, or one that is missing."""
    named = [match[1] for match in MARKED.finditer(text)]
    if sorted(named) != sorted(FIGURES):
        raise ValueError(f"README: expected the figures {sorted(FIGURES)}, got {sorted(named)}")
    return MARKED.sub(lambda match: f"<!--f:{match[1]}-->{FIGURES[match[1]](root)}<!--/f-->", text)


def main(arguments: list[str] | None = None) -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m pggan_fast.benchmarks.readme", description=__doc__, formatter_class=form
    )
    parser.add_argument("--check", action="store_true", help="write nothing, say whether anything would change")
    options = parser.parse_args(arguments)
    path = ROOT / "README.md"
    if not path.is_file():
        parser.error(f"{path} does not exist: this is for a checkout")
    text = path.read_text()
    new = rewritten(text)
    if new == text:
        print(f"{path}: as the results say")
        return 0
    if not options.check:
        write_atomically(path, new)
    print(f"{path}: {'would change' if options.check else 'rewritten'}")
    return int(options.check)


if __name__ == "__main__":
    sys.exit(main())
