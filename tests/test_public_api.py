"""What is public says so: the modules of docs/api have `__all__`, and all of it has a docstring and types."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

import pytest
from source_tree import ROOT

ENTRY = re.compile(r"^::: (\S+)((?:\n {4}.*)*)", re.MULTILINE)


def documented() -> dict[str, list[str]]:
    """Public modules and the names that the API's pages give of each; none where they give all."""
    found: dict[str, list[str]] = {}
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        for path, options in ENTRY.findall(page.read_text()):
            members = re.search(r"members: \[(.*)\]", options)
            members_of = members[1].split(", ") if members else []
            module, names = (owner, [path.rpartition(".")[2]]) if (owner := exporter(path)) else (path, members_of)
            found.setdefault(module, []).extend(names)
    return found


def exporter(path: str) -> str | None:
    """The outermost package that has the last name of a path in its `__all__`: pages name where things are defined."""
    *parts, name = path.split(".")
    if isinstance(
        getattr(importlib.import_module(".".join(parts)), name, importlib), ModuleType
    ):  # maybe not yet imported
        return None
    modules = [".".join(parts[: at + 1]) for at in range(len(parts))]
    return next((m for m in modules if name in getattr(importlib.import_module(m), "__all__", ())), None)


PUBLIC = documented()


def test_the_pages_name_modules() -> None:
    assert {"pggan_fast", "pggan_fast.nn", "pggan_fast.ops", "pggan_fast.inference", "pggan_fast.swap"} <= set(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_module_says_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    assert faults(module, PUBLIC[name]) == []


def faults(module: ModuleType, named: list[str]) -> list[str]:
    """Names without a docstring, and of the pages those that are not public."""
    public: list[str] = module.__all__
    found = [f"{name} is in no __all__" for name in named if name not in public]
    found += [f"{name} is not there" for name in public if not hasattr(module, name)]
    for name in public:
        thing: Any = getattr(module, name, None)
        if callable(thing) and not isinstance(thing, type(list[int])):
            found += [] if inspect.getdoc(thing) else [f"{name} has no docstring"]
            found += [f"{name}: {part} has no type" for part in untyped(thing)]
    return found


def untyped(thing: Any) -> list[str]:
    """Parameters without a type, of a function or of a class's constructor and public methods."""
    functions = [thing]
    if inspect.isclass(thing):
        functions = list(vars(thing).values())
    return [
        f"{function.__name__}({parameter.name})"
        for function in functions
        if inspect.isfunction(function) and (function.__name__ == "__init__" or function.__name__[0] != "_")
        for parameter in inspect.signature(function).parameters.values()
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls", "_cls")
    ]


def test_faults_are_found() -> None:
    module = ModuleType("example")

    def bare(x, y: int) -> None: ...  # type: ignore[no-untyped-def]

    vars(module).update(__all__=["bare", "missing"], bare=bare)
    assert faults(module, ["bare", "other"]) == [
        "other is in no __all__",
        "missing is not there",
        "bare has no docstring",
        "bare: bare(x) has no type",
    ]
