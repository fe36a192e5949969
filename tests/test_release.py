"""What a release goes by agrees with itself: one version, one list of Pythons, a changelog, a clean image."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from long_description import LINK, long_description
from source_tree import ROOT, copied

import pggan_fast

tomllib: Any = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def naming_the_version(root: Path) -> set[str]:
    """Files that are read by a build or run, and have the version in them."""
    files = [root / "pyproject.toml", root / "setup.py", root / "Dockerfile", root / "mkdocs.yml"]
    files += [p for folder in ("pggan_fast", "kernels", "benchmarks", "csrc") for p in (root / folder).rglob("*.py")]
    number = re.compile(rf"(?<![\d.]){re.escape(pggan_fast.__version__)}(?![\d.])")
    return {path.relative_to(root).as_posix() for path in files if number.search(path.read_text())}


def test_the_version_stands_in_one_place(tmp_path: Path) -> None:
    assert naming_the_version(ROOT) == {"pggan_fast/__init__.py"}
    copy = copied(tmp_path)
    (copy / "setup.py").write_text(f"setup(version='{pggan_fast.__version__}')")
    assert naming_the_version(copy) == {"pggan_fast/__init__.py", "setup.py"}


def test_the_version_is_read_without_an_import() -> None:
    """A build has no torch: setuptools takes the value as it stands there."""
    tree = ast.parse((ROOT / "pggan_fast" / "__init__.py").read_text())
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(assigned["__version__"]) == pggan_fast.__version__
    assert PROJECT["project"]["dynamic"] == ["version", "readme"]


def test_tables_that_come_along_are_of_this_version() -> None:
    """A table of another version is not read."""
    tables = list((ROOT / "pggan_fast" / "backends" / "tuned").glob("*.json"))
    assert tables
    assert [table.name for table in tables if not table.stem.endswith(f"-{pggan_fast.__version__}")] == []


def test_what_an_index_shows_has_no_link_to_a_file_beside_it() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(LINK.findall(readme)) > 10
    url = "https://example.org/a/b/"
    shown = long_description(readme, url, "1.2.3")
    assert [m[0] for m in re.finditer(r"\]\((?!#|https?://)[^)]*\)", re.sub(r"(?ms)^```.*?^```$", "", shown))] == []
    targets = re.findall(rf"\]\({re.escape(url)}(?:raw|blob)/v1\.2\.3/([^)#]+)", shown)
    assert len(targets) == len(LINK.findall(readme))
    assert [path for path in targets if not (ROOT / path).exists()] == []


def test_links_of_a_readme() -> None:
    text = "![plot](a/b.png) [`x`](c.md#d) [e](#f) [g](https://h) [![i](j.png)](k.md)\n```\n[l](m.md)\n```\n"
    assert long_description(text, "https://r", "1.0") == (
        "![plot](https://r/raw/v1.0/a/b.png) [`x`](https://r/blob/v1.0/c.md#d) [e](#f) [g](https://h) "
        "[![i](https://r/raw/v1.0/j.png)](https://r/blob/v1.0/k.md)\n```\n[l](m.md)\n```\n"
    )
    assert long_description(text, None, "1.0") == " `x` [e](#f) [g](https://h) \n```\n[l](m.md)\n```\n"


def faults_of(changelog: str, version: str) -> list[str]:
    """Where it is not as keepachangelog.com has it, or the version is unknown to it."""
    heads = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    found = [] if heads[:1] == ["[Unreleased]"] else ["[Unreleased] is not first"]
    dated = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", head) for head in heads[1:]]
    found += [f"## {head}" for head, match in zip(heads[1:], dated, strict=True) if match is None]
    numbers = [tuple(map(int, match[1].split("."))) for match in dated if match]
    found += [] if numbers == sorted(numbers, reverse=True) else ["the versions are in no order"]
    found += [f"### {kind}" for kind in re.findall(r"^### (.*)$", changelog, re.MULTILINE) if kind not in KINDS]
    known = version in [".".join(map(str, number)) for number in numbers]
    first = not numbers and re.search(rf"^{re.escape(version)}, the first version\.$", changelog, re.MULTILINE)
    return found if known or first else [*found, f"{version} is missing"]


def test_the_changelog_is_kept() -> None:
    assert faults_of(CHANGELOG, pggan_fast.__version__) == []
    assert faults_of("## [Unreleased]\n## [0.2.0] - 2026-12-01\n### Fixed\n## [0.1.0] - 2026-11-01\n", "0.2.0") == []
    bad = "## [0.1.0] - 2026-11-01\n### Improved\n## 0.2.0\n"
    assert faults_of(bad, "0.2.0") == ["[Unreleased] is not first", "## 0.2.0", "### Improved", "0.2.0 is missing"]


def test_wheels_are_made_for_the_pythons_that_are_named() -> None:
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PROJECT["project"]["classifiers"]]
    pythons = [match[1] for match in named if match]
    assert [f"cp{python.replace('.', '')}-*" for python in pythons] == PROJECT["tool"]["cibuildwheel"]["build"]
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert PROJECT["tool"]["mypy"]["python_version"] == pythons[0]
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"


def faults_of_image(text: str) -> list[str]:
    """What would leave a cache in an image, or run it as root."""
    runs = re.findall(r"^RUN (.*)$", re.sub(r"\\\n", " ", text), re.MULTILINE)
    found = [run for run in runs if run.count("pip install") > run.count("--no-cache-dir")]
    small = "--no-install-recommends", "rm -rf /var/lib/apt/lists"
    found += [run for run in runs if "apt-get install" in run and not all(part in run for part in small)]
    last = text[text.rindex("\nFROM ") :]
    users = re.findall(r"^USER (.*)$", last, re.MULTILINE)
    return found if users and users[-1] != "root" else [*found, "runs as root"]


def test_the_image_keeps_nothing_and_has_no_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert faults_of_image(text) == []
    assert faults_of_image(text.replace("--no-cache-dir .", ".").replace("USER 10001\n", "")) != []
    bad = "FROM x\n\nFROM x\nRUN pip install a\nRUN apt-get update && \\\n  apt-get install b\n"
    assert len(faults_of_image(bad)) == 3


def test_what_the_image_copies_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for name in re.findall(r"\bscripts/[\w.]+", text):
        assert (ROOT / name).is_file()
    default = re.search(r'^ARG TORCH="torch==([\d.]+)"$', text, re.MULTILINE)
    assert default is not None
    assert f"torch=={default[1]} " in (ROOT / "Makefile").read_text()
