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


# What each part may import of the package: arrows point one way.
BELOW = {
    "backends": {"ops", "nn", "models", "training", "cli"},
    "ops": {"nn", "models", "training", "cli"},
    "data": {"training", "cli", "benchmarks"},
}


@pytest.mark.parametrize("part", sorted(BELOW))
def test_arrows_point_one_way(part: str) -> None:
    for path in (PACKAGE / part).rglob("*.py"):
        text = path.read_text()
        for above in BELOW[part]:
            assert not re.search(rf"^\s*from pggan_fast(\.| import ){above}\b", text, re.M), (
                f"{path.name} imports {above}"
            )


def test_every_environment_variable_stands_in_the_readme() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    rows = re.findall(r"^\| `(PGGAN_FAST_\w+)` \| (.*) \|$", readme.read_text(), re.M)
    assert dict(rows) == settings.VARIABLES
    read = {name for path in python_files() for name in re.findall(r"PGGAN_FAST_[A-Z_]*[A-Z]", path.read_text())}
    assert read <= set(settings.VARIABLES)
