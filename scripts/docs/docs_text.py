"""From a page's source to the Markdown that is rendered: marks give way to figures and to files of the repository.

`<!--f:NAME--><!--/f-->` is a figure of docs_figures, `<!--include: PATH-->` on a line of its own a file.
"""

from __future__ import annotations

import re
from pathlib import Path

from docs_figures import FIGURES
from pggan_fast.benchmarks.readme import MARKED

INCLUDE = re.compile(r"^<!--include: (\S+)-->$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def included(text: str, root: Path) -> str:
    """The text with files of the repository in it. Raises OSError for one that is not there."""

    def file(match: re.Match[str]) -> str:
        path = root / match[1]
        return _LINK.sub(lambda link: _named(link, path.parent, root), path.read_text())

    return INCLUDE.sub(file, text)


def _named(link: re.Match[str], folder: Path, root: Path) -> str:
    """A link to a file of the repository, which is not on the site, as its path. Raises ValueError where it is none."""
    path = (folder / link[2].split("#")[0]).resolve()
    if not path.exists():
        raise ValueError(f"a link to {link[2]}, which is no file of the repository")
    name = str(path.relative_to(root))
    return f"`{name}`" if Path(link[1]).name == path.name else f"{link[1]} (`{name}`)"


def expanded(text: str, root: Path) -> str:
    """The Markdown of a page. Raises ValueError, KeyError, OSError."""

    def figure(match: re.Match[str]) -> str:
        if match[2]:
            raise ValueError(f"the figure {match[1]}: expected nothing between its marks, got {match[2][:40]!r}")
        if match[1] not in FIGURES:
            raise ValueError(f"the figure {match[1]}: expected one of {', '.join(FIGURES)}")
        return FIGURES[match[1]](root)

    return included(MARKED.sub(figure, text), root)  # what is included may speak of marks
