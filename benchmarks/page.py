"""Runs as one page that needs no other file: where from, how measured, pictures, growth, every number, what failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pggan_fast.benchmarks import growth, plots, runs
from pggan_fast.benchmarks.growth import Growth
from pggan_fast.benchmarks.plots import speed, style
from pggan_fast.benchmarks.providers import PROVIDERS
from pggan_fast.benchmarks.schema import Report, Row
from pggan_fast.benchmarks.table import ordered, seconds, size

from pggan_fast import drawing, pages
from pggan_fast.errors import counted

BEST_EAGER = PROVIDERS["best_eager"]  # whose name promises more than it holds everywhere
HOW = (
    "Every provider holds the same weights and inputs, and its results are checked before anything is timed. "
    "Providers are timed in turns, round by round; times are medians, with the 20th and the 80th percentile. "
    "A ratio is the median of the ratios within each round, beside their 20th and 80th percentile: a slow phase of the "
    "machine holds both. Peak memory is above parameters, gradients, optimiser state and inputs. ~: a ratio "
    "as far from 1 as two runs of plain PyTorch are, so no difference."
)
HEAD = (
    "case", "size", "dtype", "provider", "median", "p20..p80", "runs", "images/s", "times faster", "p20..p80", "noise",
    "floor / median", "bound", "peak", "error", "threads",
)  # fmt: skip


@dataclass
class Section:
    """One run with what is made of it."""

    name: str
    report: Report
    growths: list[Growth]
    pictures: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # title and PNG, by the file's name


def sections(named: Sequence[tuple[str, Report]], say: Callable[[str], object] = lambda text: None) -> list[Section]:
    """Runs of the same code and machine are one section; `say` is told what is being drawn.

    Ratios are of the rounds of one run: they are computed before runs are joined, which keep one baseline of several.
    """
    found = []
    for name, report in runs.together([(name, runs.filled(given)) for name, given in named]):
        section = Section(name, report, growth.of(report.results))
        if drawing.available():
            say(f"{name}: pictures")
            for file, title, figure in plots.figures(report, section.growths):
                say(f"{name}: {title}")
                section.pictures[file] = (title, style.png(figure))
        found.append(section)
    return found


def render(found: Sequence[Section]) -> str:
    """The page of all sections."""
    parts = [pages.paragraph(HOW)]
    for section in found:
        parts += _section(section)
    if not drawing.available():
        parts.append(pages.note(drawing.MISSING))
    return pages.page("pggan_fast: benchmarks", parts)


def _section(section: Section) -> list[str]:
    report = section.report
    parts = [pages.heading(section.name), pages.table(("", ""), facts(report))]
    failed = failures(report.results)
    if failed:
        parts += [pages.heading("Without a number, and why", 3)]
        parts += [pages.table(("case", "size", "provider", "", "reason"), failed)]
    for title, png in section.pictures.values():
        parts += [pages.heading(title, 3), pages.picture(f"{section.name}: {title}", png)]
    if section.growths:
        parts += [pages.heading("How cost grows", 3), pages.note(growth.EXPLAINED)]
        told = [text for one in section.growths if (text := growth.sentence(one))]
        lines = pages.table(growth.HEAD, map(growth.cells, section.growths), dense=True)
        parts += [pages.folded(f"{len(section.growths)} fits, {len(told)} of them bend", lines)]
        parts += [pages.folded("why they bend", "\n".join(map(pages.paragraph, told)))] if told else []
    largest = runs.noise_of(report)
    rows = [_cells(row, largest) for row in ordered(report.results) if row.median_s is not None]
    parts += [pages.heading("Every number", 3)]
    parts += [pages.folded(counted(len(rows), "row"), pages.table(_head(report), rows, dense=True))]
    return parts


def facts(report: Report) -> list[tuple[str, str]]:
    """Where the numbers are from."""
    machine = {name: value for name, value in report.machine.items() if value is not None}
    ceilings = machine.pop("ceilings", None)
    told = [(name.replace("_", " "), _fact(name, value)) for name, value in machine.items()]
    if isinstance(ceilings, dict):
        told.append(("ceilings", ", ".join(_ceiling(name, value) for name, value in ceilings.items())))
    told.append(("versions", ", ".join(f"{name} {value}" for name, value in report.versions.items() if value)))
    changed = " with changes" if (report.commit or "").endswith("+") else ""
    told.append(("commit", f"{report.commit.rstrip('+')}{changed}" if report.commit else "not known"))
    given = (("preset", report.preset), ("seed", report.seed))
    told += [(name, str(value)) for name, value in given if value is not None]
    if report.elapsed_s is not None:
        told.append(("took", f"{report.elapsed_s:.0f} s"))
    if report.interrupted:
        told.append(("whole", f"no: {runs.UNFINISHED}"))
    told.append(("ratios", f"times faster than {speed.baseline(report.results)} in the same run"))
    if any(row.provider == BEST_EAGER.name for row in report.results):
        told.append((BEST_EAGER.name, BEST_EAGER.text))
    told.append(("checked", style.checked(report)))
    noise = runs.noise_of(report)
    unknown = "not measured; the spread of the paired ratios stands for it"
    measured = f"at most {100 * (noise or 0.0):.1f} %, plain PyTorch against itself in the same rounds"
    told.append(("noise", unknown if noise is None else measured))
    return told


def _fact(name: str, value: object) -> str:
    return size(value) if name.endswith("_bytes") and isinstance(value, int) else str(value)


def _ceiling(name: str, value: float) -> str:
    if name == "launch_s":
        return f"{seconds(value)} a launch"
    return f"{value / 1e9:.4g} {'GFLOP/s' if name == 'flops' else 'GB/s'}"


def failures(rows: Sequence[Row]) -> list[tuple[str, str, str, str, str]]:
    """Rows that have no time."""
    return [
        (row.case, _size(row), _provider(row), "WRONG" if row.failed else "not run", row.reason or "no reason is told")
        for row in ordered(list(rows))
        if row.median_s is None
    ]


def _size(row: Row) -> str:
    return f"{row.resolution}x{row.resolution} x{row.batch}"


def _provider(row: Row) -> str:
    return f"{row.provider} ({row.mode})" if row.mode else row.provider


def _head(report: Report) -> list[str]:
    of = speed.baseline(report.results).split()[0]
    return [f"x {of}" if name == "times faster" else name for name in HEAD]


def _cells(row: Row, largest: float | None) -> list[str]:
    """`largest` noise of the run: of rows whose own rounds have not measured any."""
    assert row.median_s is not None
    noise, floor = row.noise, row.floor_s
    return [
        row.case,
        _size(row),
        row.dtype,
        _provider(row),
        seconds(row.median_s),
        f"{seconds(row.p20_s)}..{seconds(row.p80_s)}" if row.p20_s and row.p80_s else "",
        str(len(row.samples)),
        f"{row.images_per_s:.3g}" if row.images_per_s else "",
        runs.ratio_text(row, largest),
        f"{row.ratio_p20:.2f}..{row.ratio_p80:.2f}" if row.ratio_p20 and row.ratio_p80 else "",
        "" if noise is None else f"{100 * noise:.1f} %",
        "" if floor is None else f"{100 * floor / row.median_s:.0f} %",
        row.bound or "",
        "" if row.peak_bytes is None else size(row.peak_bytes),
        "" if row.error is None else f"{row.error:.1e}",
        "" if row.threads is None else str(row.threads),
    ]


def files(found: Sequence[Section]) -> dict[str, bytes]:
    """What to write, by name: the page, and each picture by itself."""
    made = {"report.html": render(found).encode(errors="backslashreplace")}
    for at, section in enumerate(found, 1):
        before = "" if len(found) == 1 else f"{at}-{Path(section.name.split(' + ')[0]).stem}-"
        made |= {f"{before}{name}.png": png for name, (_, png) in section.pictures.items()}
    return made
