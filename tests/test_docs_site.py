"""What makes the site of docs/: its figures, includes and pictures; slow: the whole site, built strictly."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import docs_imports
import docs_terminal
import pytest
from doc_blocks import ROOT
from docs_figures import FIGURES
from docs_text import expanded, included

# Attributes by which a page loads something when it is opened; a link that a reader may follow is none
LOADING = {
    ("link", "href"),
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}
OUTSIDE = re.compile(r"^(?:https?:)?//")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_made_and_used(name: str) -> None:
    text = FIGURES[name](ROOT)
    assert text.strip()
    assert "None" not in text
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    assert any(f"<!--f:{name}-->" in page.read_text() for page in pages)


def test_a_mark_gives_way_to_its_figure() -> None:
    text = expanded("G is <!--f:largest--><!--/f-->.", ROOT)
    assert re.fullmatch(r"G is \d\.\d times as fast in a \w+ of the memory\.", text)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_every_page_is_made(page: Path) -> None:
    assert len(expanded(page.read_text(), ROOT)) >= len(re.sub(r"<!--.*?-->", "", page.read_text()))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("<!--f:no-such--><!--/f-->", "expected one of"),
        ("<!--f:largest-->4.8<!--/f-->", "expected nothing between"),
        ("<!--include: NO_SUCH.md-->", "NO_SUCH.md"),
    ],
)
def test_marks_that_mean_nothing_are_errors(source: str, error: str) -> None:
    with pytest.raises((ValueError, OSError), match=error):
        expanded(source, ROOT)


def test_links_of_files_that_are_included_become_paths(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.md").write_text("[b](../b.md), [the rest](../b.md#x), [out](https://example.org), [c](#c)")
    (tmp_path / "b.md").touch()
    text = included("<!--include: csrc/a.md-->", tmp_path)
    assert (
        text
        == "[b](../b.md), [the rest](../b.md#x)".replace("[b](../b.md)", "b (`b.md`)").replace(
            "[the rest](../b.md#x)", "the rest (`b.md`)"
        )
        + ", [out](https://example.org), [c](#c)"
    )
    (tmp_path / "b.md").unlink()
    with pytest.raises(ValueError, match="no file of the repository"):
        included("<!--include: csrc/a.md-->", tmp_path)


def loads_of_svg(text: str) -> Iterator[str]:
    """What a picture asks other places for. Raises ParseError where it is no XML."""
    for element in xml.fromstring(text).iter():
        yield from (value for key, value in element.attrib.items() if key.endswith(("href", "src")))
    yield from re.findall(r"url\(\s*[\"']?([^)\"']*)", text)


@pytest.mark.parametrize("name", ["help", "bench", "explain", "fuse"])
def test_pictures_of_the_terminal_are_whole_and_load_nothing(name: str) -> None:
    text = docs_terminal.svg(name)
    assert not [load for load in loads_of_svg(text) if not load.startswith("#")]
    told = "".join(xml.fromstring(text).itertext()).replace("\xa0", " ")
    assert {"help": "usage: pggan-fast", "bench": "eager", "explain": "runs", "fuse": "fused"}[name] in told


def test_a_font_of_another_machine_is_seen() -> None:
    with_font = docs_terminal.CONSOLE_SVG_FORMAT.format_map(
        dict.fromkeys(re.findall(r"\{(\w+)\}", docs_terminal.CONSOLE_SVG_FORMAT), "1")
    )
    assert any(OUTSIDE.match(load) for load in loads_of_svg(with_font))


def test_drawings_are_whole_and_load_nothing() -> None:
    drawings = [path.read_text() for path in (ROOT / "docs" / "img").glob("*.svg")] + [docs_imports.svg(ROOT)]
    assert len(drawings) > 5
    for text in drawings:
        assert not [load for load in loads_of_svg(text) if not load.startswith("#")]


def test_arrows_of_imports_are_those_of_the_sources(tmp_path: Path) -> None:
    package = tmp_path / "pggan_fast"
    for part in ("ops", "backends", "models"):
        (package / part).mkdir(parents=True)
    (package / "nn.py").write_text("from pggan_fast import ops\nif TYPE_CHECKING:\n    from pggan_fast import cli\n")
    (package / "models" / "g.py").write_text(
        "def f():\n    from pggan_fast.ops import conv\n    import pggan_fast.nn\n"
    )
    (package / "ops" / "conv.py").write_text("from pggan_fast.backends import registry\n")
    (package / "backends" / "a.py").write_text("from pggan_fast import ops\n")
    found = docs_imports.imports(tmp_path)
    assert (found["nn"], found["models"]) == ({"ops"}, {"ops", "nn"})
    arrows = docs_imports.condensed(found)
    assert arrows["models",] == {("nn",)}
    assert arrows["nn",] == {("ops", "backends")}


SECTIONS = """Do it.

Args:
    x: a map.
Returns:
    Another.
Source: the paper,
    section 3.
With a and b:
    y = a
And on.
"""


@pytest.mark.skipif(importlib.util.find_spec("griffe") is None, reason="griffe is not installed; make docs installs it")
def test_sections_of_docstrings_are_parted_and_the_rest_is_text() -> None:
    from docs_griffe import parted

    wanted = (
        SECTIONS.replace("Returns:", "\nReturns:").replace("Source:", "\nSource:").replace("    section", "section")
    )
    assert parted(SECTIONS) == wanted.replace("a and b:\n", "a and b:\n\n")


class Loads(HTMLParser):
    """What a page loads from elsewhere when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        here = dict(attrs)
        if tag == "link" and here.get("rel") in ("canonical", "next", "prev"):
            return
        self.found += [v for k, v in attrs if (tag, k) in LOADING and v and OUTSIDE.match(v)]


def outside(html: str) -> list[str]:
    parser = Loads()
    parser.feed(html)
    return parser.found


def test_a_page_that_asks_another_machine_is_seen() -> None:
    assert outside('<a href="https://a.b">see</a><script src="js/x.js"></script><img src="x.png">') == []
    assert outside('<link rel="stylesheet" href="https://fonts.googleapis.com/css?x">') == [
        "https://fonts.googleapis.com/css?x"
    ]
    assert outside('<script src="//unpkg.com/iframe-worker/shim"></script>') == ["//unpkg.com/iframe-worker/shim"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed; make docs installs it")
def test_the_site_is_built_strictly_and_needs_no_network(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    assert {str(page): found for page in pages if (found := outside(page.read_text()))} == {}
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", style.read_text()), style
    for page in pages:  # figures and includes have given way
        assert not re.search(r"<!--(?:f:|include:)", page.read_text()), page
    index = json.loads((site / "search" / "search_index.js").read_text().removeprefix("var __index = "))
    assert any("fade_in" in entry["title"] for entry in index["docs"])
