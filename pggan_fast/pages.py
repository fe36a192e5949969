"""Pages that need no other file: style, tables and pictures are in them. All text is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; } h2 { font-size: 1.15em; margin-top: 2em; }
h3 { font-size: 1em; margin: 2em 0 0.5em; }
img { max-width: 100%; height: auto; display: block; }
.history { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 1em; }
figure { margin: 0; min-width: 0; } figcaption { font-size: 0.85em; opacity: 0.75; }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
.wide > img { min-width: min(700px, 200vw); background: white; }
td, th { text-align: left; padding: 0.15em 1.5em 0.15em 0; border-bottom: 1px solid #8884; vertical-align: top; }
td { font-family: ui-monospace, monospace; font-size: 0.85em; overflow-wrap: anywhere; }
.dense td, .dense th { white-space: nowrap; overflow-wrap: normal; padding-right: 1em; }
summary { cursor: pointer; } .note { opacity: 0.75; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole of it, around its parts; those that are empty are left out."""
    name = html.escape(title)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    opening = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>'
    return "\n".join([opening, f"<h1>{name}</h1>", *filter(None, parts), "</body></html>\n"])


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{html.escape(text)}</h{level}>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]], dense: bool = False) -> str:
    """`dense`: no cell is broken into lines; what is too wide for the screen is scrolled."""

    def cells(kind: str, texts: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in texts) + "</tr>"

    lines = "\n".join(cells("td", row) for row in rows)
    return f'<div class="wide{" dense" * dense}"><table>\n{cells("th", head)}\n{lines}\n</table></div>'


def note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def folded(title: str, content: str) -> str:
    """What is shown when its title is clicked."""
    return f"<details><summary>{html.escape(title)}</summary>\n{content}\n</details>"


def embedded(data: bytes, kind: str) -> str:
    """The address of a picture that is in the page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def picture(title: str, png: bytes) -> str:
    """A drawing, which a small screen scrolls rather than shrinks beyond reading."""
    return f'<div class="wide"><img alt="{html.escape(title)}" src="{embedded(png, "png")}"></div>'
