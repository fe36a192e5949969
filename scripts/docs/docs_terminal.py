"""Pictures of the terminal for the site: commands that are run, and results that are read, when the site is built.

python scripts/docs/docs_terminal.py DIR [NAME ...]
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pggan_fast.benchmarks import readme, table
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

import pggan_fast
from pggan_fast import cli, nn

ROOT = Path(__file__).resolve().parents[2]
# rich's own form asks another machine for its font
FORM = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code, ", "")


class Picture(NamedTuple):
    command: str
    shown: Callable[[], RenderableType]
    width: int = 100


@contextlib.contextmanager
def _terminal(width: int) -> Iterator[io.StringIO]:
    """What is printed inside, in the colours that a terminal would get."""
    said, before = io.StringIO(), dict(os.environ)
    os.environ |= {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(width)}
    os.environ.pop("NO_COLOR", None)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            yield said
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(command: str, width: int = 100, last: int | None = None) -> Callable[[], Text]:
    """What a command line prints; its last lines alone, if so many are named. Raises RuntimeError where it fails."""

    def shown() -> Text:
        with _terminal(width) as said:
            try:
                cli.main(command.split()[1:])
            except SystemExit as stop:
                if stop.code:
                    raise RuntimeError(f"{command}: exit status {stop.code}") from None
        return _text(said.getvalue(), last)

    return shown


def _text(printed: str, last: int | None = None) -> Text:
    told = printed.replace(str(Path.home()), "~").rstrip("\n").split("\n")
    return Text.from_ansi("\n".join(["...", *told[-last:]] if last else told))


def _bench() -> RenderableType:
    """The committed run of the README, without the providers that it does not speak of."""
    return table.render(readme.results("cpu-quick", ROOT), terminal=True)


def _explain() -> Text:
    up = nn.ScaledConv2d(64, 32, resample="up", negative_slope=0.2, pixel_norm="after_act")
    return _text(str(pggan_fast.explain(up, torch.randn(4, 64, 8, 8))))


PICTURES: Mapping[str, Picture] = {
    "help": Picture("pggan-fast --help", _run("pggan-fast --help")),
    "info": Picture("pggan-fast info", _run("pggan-fast info", 120), 120),
    "plan": Picture(
        "pggan-fast train --data faces --dry-run", _run("pggan-fast train --data faces --dry-run", last=11)
    ),
    "fuse": Picture(
        "pggan-fast fuse ...peers.wsconv:networks --kwargs depth=1 widths=[8,8] latent=8",
        _run("pggan-fast fuse pggan_fast.benchmarks.peers.wsconv:networks --kwargs depth=1 widths=[8,8] latent=8", 120),
        120,
    ),
    "bench": Picture("make bench", _bench, 160),
    "explain": Picture("print(pggan_fast.explain(up, x))", _explain, 110),
}


def svg(name: str) -> str:
    """The picture of a name in PICTURES. Nothing in it asks for another file."""
    picture = PICTURES[name]
    console = Console(
        record=True, width=picture.width, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(picture.shown())
    return console.export_svg(title=picture.command, theme=MONOKAI, code_format=FORM, unique_id=name)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or PICTURES:
        (folder / f"{name}.svg").write_text(svg(name))
        print(folder / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
