"""The results on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from pggan_fast.benchmarks import conditions, runs
from pggan_fast.benchmarks.schema import Report, Row
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 170  # columns where there is no terminal to ask


def console(stderr: bool = False) -> Console:
    """A console that draws on a terminal and writes plain, unwrapped lines elsewhere."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=PLAIN_WIDTH, color_system=None)


def render(report: Report, terminal: bool) -> RenderableType:
    """One table, the training steps first, and a line on the machine."""
    table = Table(box=box.SIMPLE_HEAVY if terminal else box.ASCII2, pad_edge=False)
    for name in ("case", "size", "dtype"):
        table.add_column(name, no_wrap=True)
    table.add_column("provider", no_wrap=True)
    for name in ("median", "p20..p80", "runs", "images/s", "x eager", "p20..p80", "of floor", "peak", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    notes: dict[tuple[str, str, bool], list[Row]] = {}  # what has no number, by provider and reason
    shown = [row for row in ordered(report.results) if row.provider != runs.AGAIN]
    largest = runs.noise_of(report)
    for _, group in groupby(shown, key=lambda r: (r.case, r.resolution, r.batch, r.dtype, r.asked_threads)):
        for number, row in enumerate(group):
            head = [Text(text) for text in (("",) * 3 if number else (row.case, _size(row), row.dtype))]  # no markup
            if row.median_s is None:
                notes.setdefault((_name(row), row.reason or "", row.failed), []).append(row)
                verdict = Text("wrong", style="red") if row.failed else "-"
                table.add_row(*head, Text(_name(row)), verdict, *[""] * 8)
            else:
                table.add_row(*head, Text(_name(row)), *_numbers(row, largest))
        table.add_section()
    return Group(table, *_notes(notes), _footer(report))


def ordered(rows: list[Row]) -> list[Row]:
    """Whole steps, then their parts, then forwards; the rest of the order is the run's own."""
    rank = {"step": 0, "D.step": 1, "G.step": 2}
    return sorted(rows, key=lambda r: (r.resolution if r.case in rank else 1 << 20, r.batch, rank.get(r.case, 3)))


def _size(row: Row) -> str:
    threads = "" if row.asked_threads is None else f" t{row.asked_threads}"
    return f"{row.resolution}x{row.resolution} x{row.batch}{threads}"


def seconds(x: float) -> str:
    """Three significant digits and a unit."""
    unit, factor = ("s", 1.0) if x >= 1 else ("ms", 1e3) if x >= 1e-3 else ("us", 1e6)
    return f"{_digits(x * factor)} {unit}"


def size(x: int) -> str:
    return f"{x / 2**30:.2f} GiB" if x >= 2**30 else f"{x / 2**20:.0f} MiB"


def _digits(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def _name(row: Row) -> str:
    return f"{row.provider} ({row.mode})" if row.mode else row.provider


def _numbers(row: Row, largest: float | None) -> list[str]:
    """`largest` noise of the run: of rows whose own rounds have not measured any."""
    assert row.median_s is not None
    ratio = spread = ""
    if row.ratio is not None and row.ratio_p20 is not None and row.ratio_p80 is not None:
        ratio, spread = runs.ratio_text(row, largest), f"{row.ratio_p20:.2f}..{row.ratio_p80:.2f}"
    return [
        seconds(row.median_s),
        f"{seconds(row.p20_s)}..{seconds(row.p80_s)}" if row.p20_s and row.p80_s else "",
        str(len(row.samples)),
        _digits(row.images_per_s or 0.0),
        ratio,
        spread,
        "" if row.floor_s is None else f"{100.0 * row.floor_s / row.median_s:.0f} %",
        "" if row.peak_bytes is None else size(row.peak_bytes),
        "" if row.error is None else f"{row.error:.1e}",
    ]


def _notes(found: Mapping[tuple[str, str, bool], Sequence[Row]]) -> list[Text]:
    """A line for each reason: of all providers, where the same one holds for them, and of all cases."""
    lines: dict[tuple[tuple[str, ...], str, bool], list[str]] = {}
    for (name, reason, failed), rows in found.items():
        cases = tuple(f"{row.case} {row.resolution}x{row.resolution} x{row.batch}" for row in rows)
        lines.setdefault((cases, reason, failed), []).append(name)
    return [
        Text(f"{'; '.join(cases)}, {' and '.join(names)}: {reason}", style="red" if failed else "dim")
        for (cases, reason, failed), names in lines.items()
    ]


def _footer(report: Report) -> Text:
    machine, versions = report.machine, report.versions
    noises = sorted(row.noise for row in report.results if row.noise is not None and row.provider == "eager")
    noise = (
        ""
        if not noises
        else (
            f"\nnoise: two runs of eager differ by {100.0 * noises[0]:.1f} to {100.0 * noises[-1]:.1f} % (A/A); ~ no "
            "difference: a ratio within the noise of its case."
        )
    )
    floor = ""
    if ceilings := report.machine.get("ceilings"):
        flops, copied, launch = ceilings["flops"] / 1e9, ceilings["bytes"] / 1e9, 1e6 * ceilings["launch_s"]
        floor = (
            f"\nof floor: the least time by the machine's ceilings ({flops:.0f} GFLOP/s of a matrix product, "
            f"{copied:.1f} GB/s of a copy, {launch:.1f} us an op), in parts of the median."
        )
    busy = "" if (told := conditions.busy(machine)) is None else f"\n{told}"
    cut = f"\nwarning: this run was {runs.UNFINISHED}." if report.interrupted else ""
    took = "" if report.elapsed_s is None else f"; took {report.elapsed_s:.0f} s"
    return Text(
        f"{runs.where(report)}, float32 convolutions in "
        f"{machine.get('fp32_precision')}; torch {versions.get('torch')}{took}.\n"
        "x eager: times faster than plain PyTorch in NCHW, the median of the ratios within each round. "
        "error: against float64; of gradients up to 1e-2 where an activation within a rounding of zero takes the other "
        "slope, one of millions. peak: memory above parameters, gradients, optimiser state and inputs."
        f"{floor}{noise}{busy}{cut}",
        style="dim",
    )
