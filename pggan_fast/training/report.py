"""A run's folder as one picture, report.png, and one page that needs no other file, report.html.

Both can be made while the run goes on.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pggan_fast.data.errors import ImageRefused
from pggan_fast.data.images import decode, read_file
from pggan_fast.errors import counted
from pggan_fast.files import write_atomically
from pggan_fast.metrics.running import duration
from pggan_fast.pages import embedded, note, page, table
from pggan_fast.training.later import METRICS, STATS, score_kimg

HISTORY = 24  # pictures of fakes that the page shows, from the whole run
WIDTH, LAST_WIDTH = 960, 1920  # pixels; wider grids are made smaller, that of the last fakes and of the reals less so
_LARGEST = 1e30
MOST_HEIGHT = 30  # times the width; a JPEG's sides have 65,500 pixels at most
_FAKES = re.compile(r"fakes(\d+|_init)\.png")


class Score(NamedTuple):
    """A metric's values at one snapshot."""

    kimg: float | None  # None: the network's name does not tell
    values: dict[str, float]


@dataclass
class Run:
    """What there is in a run's folder to be reported."""

    path: Path
    ticks: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, list[Score]] = field(default_factory=dict)  # by the metric's name, by kimg
    fakes: list[tuple[float, Path]] = field(default_factory=list)  # by kimg
    reals: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what could not be read

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """kimg and the means of a stat, where it was written down; NaN where it was not finite."""
        rows = [(_mean(t, "Progress/kimg"), _mean(t, name)) for t in self.ticks if name in t]
        return [x for x, _ in rows], [y for _, y in rows]

    def names(self, prefix: str) -> list[str]:
        return sorted({name for tick in self.ticks for name in tick if name.startswith(prefix)})

    def at(self, kimg: float, name: str) -> float | None:
        """A stat's mean in the last tick until then."""
        values = [y for x, y in zip(*self.series(name), strict=True) if x <= kimg and math.isfinite(y)]
        return values[-1] if values else None


def make(run_dir: Path, say: Callable[[int, int], object] | None = None) -> list[Path]:
    """Write report.html, and report.png where matplotlib is installed, into a run's folder; the paths of what was made.

    say: is told how many pictures are done, of how many: those of a large run take seconds each. Raises ValueError
    for a folder that has no stats.jsonl, OSError.
    """
    from pggan_fast import drawing
    from pggan_fast.training import curves

    run = read(run_dir)
    html_path, picture = run_dir / "report.html", run_dir / "report.png"
    drawn = curves.draw(run) if drawing.available() and run.ticks else None
    text = render(run, drawn, None if drawing.available() else drawing.MISSING, say)
    write_atomically(html_path, lambda file: file.write(text.encode(errors="backslashreplace")))
    if drawn is None:
        return [html_path]
    write_atomically(picture, lambda file: file.write(drawn))
    return [html_path, picture]


def read(run_dir: Path) -> Run:
    """A run's folder. Lines that are not whole, as of a run that writes one now, are left out and noted."""
    if not (run_dir / STATS).is_file():
        raise ValueError(f"run_dir: expected the folder of a run, with a {STATS}, got {run_dir}")
    run = Run(run_dir)
    run.ticks = [tick for tick in _lines(run, run_dir / STATS) if math.isfinite(_mean(tick, "Progress/kimg"))]
    run.ticks.sort(key=lambda tick: _mean(tick, "Progress/kimg"))
    for path in sorted(run_dir.glob(METRICS)):
        scores = [_score(line) for line in _lines(run, path)]
        name = path.stem.removeprefix("metric-")
        run.metrics[name] = sorted(scores, key=lambda s: -1.0 if s.kimg is None else s.kimg)
    for path in run_dir.iterdir():
        if m := _FAKES.fullmatch(path.name):
            run.fakes.append((0.0 if m[1] == "_init" else float(m[1]), path))
    _leave_out_later(run)
    run.fakes.sort(key=lambda each: (each[0], each[1].name != "fakes_init.png"))
    run.reals = path if (path := run_dir / "reals.png").is_file() else None
    run.options = _options(run, run_dir / "training_options.json")
    return run


def _leave_out_later(run: Run) -> None:
    """Pictures of more images than the last tick: of a course that the run left, until they are made again."""
    if run.ticks:
        last = math.floor(_mean(run.ticks[-1], "Progress/kimg"))
        count = len(run.fakes)
        run.fakes = [(kimg, path) for kimg, path in run.fakes if kimg <= last]
        if later := count - len(run.fakes):
            run.notes.append(f"{counted(later, 'picture')} of later than the last tick: left out")


def _lines(run: Run, path: Path) -> list[dict[str, Any]]:
    found = []
    lines = path.read_text(errors="replace").splitlines()
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict):
            found.append(line)
        elif text.strip():
            run.notes.append(f"{path.name}: line {number} of {len(lines)} is not JSON of a record")
    return found


def _mean(tick: Mapping[str, Any], name: str) -> float:
    value = tick.get(name)
    return _number(value.get("mean")) if isinstance(value, dict) else math.nan


def _number(value: object) -> float:
    """NaN where it is none, or so large that an axis has no ticks for it."""
    return float(value) if isinstance(value, (int, float)) and abs(value) <= _LARGEST else math.nan


def _score(line: Mapping[str, Any]) -> Score:
    results = line.get("results")
    values = results.items() if isinstance(results, dict) else ()
    return Score(score_kimg(line), {str(k): _number(v) for k, v in values if isinstance(v, (int, float))})


def _options(run: Run, path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        options = json.loads(path.read_text(errors="replace"))
    except (ValueError, RecursionError) as error:
        run.notes.append(f"{path.name}: not JSON: {error}")
        return {}
    return flat(options) if isinstance(options, dict) else {"": options}


def flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Options inside of others under the names of both: `schedule.lr_base`."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) and value else {f"{before}{name}": value}
    return found


# The page.


def render(
    run: Run, curves: bytes | None, missing: str | None = None, say: Callable[[int, int], object] | None = None
) -> str:
    """The page: all text escaped, all pictures in it. curves: a PNG; missing: why there is none."""
    parts = _summary(run)
    fakes, others = _history(run, say or (lambda done, total: None))
    if run.fakes:
        parts += ["<h2>Fakes now</h2>", _figure(run, *run.fakes[-1], LAST_WIDTH)]
    parts.append("<h2>Curves</h2>")
    if curves is not None:
        parts.append(f'<img alt="curves against kimg" src="{embedded(curves, "png")}">')
    else:
        parts.append(note(missing or "nothing was written down yet"))
    parts += _metrics(run)
    if fakes:
        parts += ["<h2>History of fakes</h2>", f'<div class="history">{"".join(fakes)}</div>', *others]
    if run.reals is not None:
        parts += ["<h2>Reals</h2>", _picture(run, run.reals, "reals", LAST_WIDTH)]
    if run.options:
        rows = [(key, json.dumps(value)) for key, value in run.options.items()]
        parts += ["<h2>Options</h2>", table(("option", "value"), rows)]
    parts += [note(text) for text in dict.fromkeys(run.notes)]
    return page(run.path.resolve().name, parts)


def _summary(run: Run) -> list[str]:
    if not run.ticks:
        return [note("No tick was written down yet.")]
    last = run.ticks[-1]
    shown = (
        ("kimg", "Progress/kimg", "{:.1f}"), ("tick", "Progress/tick", "{:.0f}"),
        ("resolution", "Progress/resolution", "{:.0f}"), ("alpha", "Progress/alpha", "{:.2f}"),
        ("minibatch", "Progress/minibatch", "{:.0f}"), ("sec/kimg", "Timing/sec_per_kimg", "{:.2f}"),
        ("waiting for data", "Timing/wait_share", "{:.0%}"),
    )  # fmt: skip
    values = [(title, form.format(x)) for title, name, form in shown if math.isfinite(x := _mean(last, name))]
    if math.isfinite(seconds := _mean(last, "Timing/total_sec")):
        values.append(("time", duration(seconds)))
    losses = [(name, f"{_mean(last, name):.4g}") for name in run.names("Loss/")]
    values += [(title, text) for title, text in losses if text != "nan"]
    return [table([title for title, _ in values], [[text for _, text in values]])]


def _history(run: Run, say: Callable[[int, int], object]) -> tuple[list[str], list[str]]:
    """Pictures from the whole run, and a word on those that are not shown."""
    count = min(len(run.fakes), HISTORY)
    chosen = [run.fakes[round(i * (len(run.fakes) - 1) / max(1, count - 1))] for i in range(count)]
    word = [note(f"{count} of {len(run.fakes)}; all are in the run's folder.")] if count < len(run.fakes) else []
    figures = []
    for kimg, path in chosen:
        figures.append(_figure(run, kimg, path, WIDTH))
        say(len(figures), count)
    return figures, word


def _figure(run: Run, kimg: float, path: Path, width: int) -> str:
    resolution = run.at(kimg, "Progress/resolution")
    alpha = run.at(kimg, "Progress/alpha")
    caption = f"kimg {kimg:g}"
    if resolution is not None:
        caption += f", {resolution:.0f}x{resolution:.0f}"
        if alpha is not None and alpha < 1:
            caption += f" fading in, alpha {alpha:.2f}"
    return _picture(run, path, caption, width)


def _picture(run: Run, path: Path, caption: str, width: int) -> str:
    try:
        small = Image.fromarray(decode(read_file(path)))
    except ImageRefused as error:
        run.notes.append(f"{path.name}: cannot be read: {error}")
        return ""
    if small.height > MOST_HEIGHT * small.width:
        run.notes.append(f"{path.name}: cannot be shown: {small.width}x{small.height} pixels")
        return ""
    if small.width > width:
        small = small.resize(
            (width, max(1, round(small.height * width / small.width))), Image.Resampling.LANCZOS, reducing_gap=2.0
        )
    held = io.BytesIO()
    small.save(held, "JPEG", quality=90, subsampling=0)
    text = html.escape(caption)
    source = embedded(held.getvalue(), "jpeg")
    size = f'width="{small.width}" height="{small.height}"'
    return f'<figure><img alt="{text}" {size} src="{source}"><figcaption>{text}</figcaption></figure>'


def _metrics(run: Run) -> list[str]:
    """The last value of each number of each metric."""
    rows: list[Sequence[str]] = []
    for scores in run.metrics.values():
        for name in dict.fromkeys(key for score in scores for key in score.values):
            of = [(score.kimg, score.values[name]) for score in scores if name in score.values]
            kimg, value = of[-1]
            rows.append((name, f"{value:.4g}", "-" if kimg is None else f"{kimg:g}", f"{len(of)}"))
    return ["<h2>Metrics</h2>", table(("metric", "last value", "kimg", "times measured"), rows)] if rows else []
