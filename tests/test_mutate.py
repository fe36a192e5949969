"""What scripts/mutate.py changes of a source."""

from __future__ import annotations

import ast
from pathlib import Path

import mutate
import pytest


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(x):\n    return x\n", [(2, "return x", "return")]),
        ("def f():\n    return\n", []),
        ("def f():\n    return None\n", []),
        ("x = 3\n", [(1, "x = 3", "x = 4")]),
        ("x = 1e16\n", []),  # the number after it is itself
        ("def f(x):\n    if x:\n        return\n    g(x)\n", [(2, "if x:", "if not x:"), (4, "g(x)", "pass")]),
    ],
)
def test_every_change_changes_something(source: str, expected: list[tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    assert [(change.line, change.before, change.after) for change in mutate.changes(path)] == expected


def test_every_file_of_ops_and_convert_has_its_tests() -> None:
    for folder in ("ops", "convert"):
        for path in sorted((mutate.ROOT / "pggan_fast" / folder).glob("*.py")):
            file = path.relative_to(mutate.ROOT).as_posix()
            assert file in mutate.TESTS or not any(mutate.sites(ast.parse(path.read_text()))), file
    for arguments in mutate.TESTS.values():
        assert all((mutate.ROOT / test).is_file() for test in arguments if test.startswith("tests/"))
