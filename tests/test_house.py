"""Rules of the house that a grep can hold."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pggan_fast
from pggan_fast import settings

PACKAGE = Path(pggan_fast.__file__).parent
ADDRESS = re.compile(r"\.data_ptr\(\)")


def python_files() -> list[Path]:
    folders = [PACKAGE, PACKAGE.parent / "kernels", PACKAGE.parent / "benchmarks"]
    return [p for folder in folders for p in folder.rglob("*.py")]


def taking_addresses(files: list[Path]) -> list[str]:
    return [p.name for p in files if ADDRESS.search(p.read_text())]


def imported(source: str) -> set[str]:
    """Top-level packages that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level or (node.module or "").split(".")[0])
    return names


def test_only_the_launcher_takes_addresses() -> None:
    assert taking_addresses(python_files()) == ["launch.py"]


def test_another_address_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("f(x.data_ptr())")
    assert taking_addresses([*python_files(), tmp_path / "other.py"]) == ["launch.py", "other.py"]


def test_the_reference_imports_only_torch() -> None:
    assert imported((PACKAGE / "reference.py").read_text()) == {"__future__", "torch"}
    assert imported("import os\nfrom . import x\nfrom pggan_fast.ops import y") == {"os", ".", "pggan_fast"}


# Every part of the package, each above all that it imports; those in a row do not know one another.
ORDER = (
    ("errors", "reference", "settings", "system", "pages", "drawing", "kernels"),
    ("files", "filetypes"),
    ("backends",),
    ("explain", "ops"),
    ("warmup", "diagnosis", "nn", "swap", "pictures", "videos"),
    ("models",),
    ("inference", "networks"),
    ("sampling", "convert"),
    ("data",),
    ("metrics",),
    ("training",),
    ("benchmarks",),
    ("cli",),
)


def parts_imported(path: Path) -> set[str]:
    """Parts of the package that a file imports anywhere, also inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "pggan_fast":
            names |= {f"pggan_fast.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("pggan_fast.")}


def part_of(path: Path) -> str:
    below = PACKAGE if path.is_relative_to(PACKAGE) else PACKAGE.parent
    return path.relative_to(below).parts[0].removesuffix(".py")


def upward(files: list[Path]) -> list[str]:
    """Imports against the order."""
    level = {part: i for i, row in enumerate(ORDER) for part in row}
    return [
        f"{part} imports {other} ({path.name})"
        for path in files
        for part in (part_of(path),)
        for other in sorted(parts_imported(path) & set(level) - {part})
        if level[other] >= level[part]
    ]


def test_arrows_point_one_way() -> None:
    files = [path for path in python_files() if part_of(path) not in ("__init__", "__main__")]
    assert {part_of(path) for path in files} == {part for row in ORDER for part in row}
    assert upward(files) == []


def test_an_import_against_the_order_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "ops.py").write_text(
        "def f():\n    from pggan_fast.models import levels\n    from pggan_fast import nn, reference"
    )
    assert upward([tmp_path / "ops.py"]) == ["ops imports models (ops.py)", "ops imports nn (ops.py)"]


def named_in_the_map(text: str) -> set[str]:
    """Files that CONTRIBUTING's map names."""
    return set(re.findall(r"[a-z_]+\.(?:py|h|sh)\b", text.split("```")[1]))


def test_the_map_names_files_that_exist() -> None:
    root = Path(__file__).parents[1]
    folders = "pggan_fast", "kernels", "csrc", "benchmarks", "tests", "scripts", "typings"
    present = {path.name for folder in folders for path in (root / folder).rglob("*.*")}
    present |= {path.name for path in root.glob("*.py")}
    assert named_in_the_map((root / "CONTRIBUTING.md").read_text()) <= present
    assert named_in_the_map("```\nx/  report_of_nothing.py does\n```") - present == {"report_of_nothing.py"}


def wide_lines(text: str) -> list[str]:
    """Lines beyond 120 columns, outside of tables, which cannot be broken."""
    return [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_pages_and_scripts_keep_to_120_columns() -> None:
    root = Path(__file__).parents[1]
    pages = [path for path in root.glob("*.md") if path.name != "README.md"]  # whose figures change their lengths
    pages += [path for folder in ("docs", "csrc", "kernels", "examples") for path in (root / folder).rglob("*.md")]
    pages += [*root.glob("scripts/*.sh"), root / ".ci" / "run"]
    assert [(path.name, line) for path in pages for line in wide_lines(path.read_text())] == []
    assert wide_lines(f"{'x ' * 60}\n{'y ' * 61}\n| {'z ' * 61}|") == ["y " * 61]


def test_every_environment_variable_stands_in_the_readme() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    rows = re.findall(r"^\| `(PGGAN_FAST_\w+)` \| (.*) \|$", readme.read_text(), re.M)
    assert dict(rows) == settings.VARIABLES
    read = {name for path in python_files() for name in re.findall(r"PGGAN_FAST_[A-Z_]*[A-Z]", path.read_text())}
    assert read <= set(settings.VARIABLES)
