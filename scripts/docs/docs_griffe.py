"""How the API pages read our docstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe

# Sections follow each other without a blank line between, which the parser wants
_SECTION = re.compile(r"(?<!\n)\n(?=(?:Args|Returns|Raises|Memory|Source):)")
# A line with a colon and an indented block below it, which the parser would make a box of
_BOX = re.compile(r"^(?!Args|Returns|Raises|Yields)(\w[\w -]*:)( +\S.*)?\n((?: {4}.*(?:\n|\Z))+)", re.MULTILINE)


def parted(docstring: str) -> str:
    """With its sections apart; what goes on after a colon stays text, a formula below one a block of its own."""
    return _BOX.sub(_text, _SECTION.sub("\n\n", docstring))


def _text(match: re.Match[str]) -> str:
    head, text, below = match.groups()
    return f"{head}\n\n{below}" if text is None else f"{head}{text}\n{re.sub('^ +', '', below, flags=re.MULTILINE)}"


class Sections(griffe.Extension):
    """Parts the sections of docstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = parted(obj.docstring.value)
