"""`pggan-fast fuse`."""

from __future__ import annotations

import ast
import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pggan_fast.cli import UsageError

if TYPE_CHECKING:
    import torch


@dataclass
class Command:
    """Build a model of yours, run it on the fused ops, and print what was fused and what was not, and why.

    Modules are looked for in the current folder and on PYTHONPATH too. Your files stay as they are.
    """

    target: Annotated[str, tyro.conf.Positional]
    """module.path:callable, whose call gives a torch.nn.Module; the code of that module runs."""
    kwargs: list[str] = field(default_factory=list)
    """key=value ..., arguments of the callable; values are Python literals, anything else is a string."""
    time: bool = False
    """Measure each part, forward and backward, before and after."""

    def run(self) -> int:
        from rich.console import Console

        from pggan_fast.swap import fuse

        report = fuse(_build(self.target, _arguments(self.kwargs)), time=self.time)
        Console().print(report)
        return 0 if report.replaced else 1


def _arguments(pairs: list[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--kwargs: expected key=value, got {pair!r}")
        found[key] = _literal(value)
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _build(target: str, kwargs: dict[str, Any]) -> torch.nn.Module:
    """The model that the callable gives."""
    import torch

    path, colon, name = target.partition(":")
    if not colon or not name or not all(part.isidentifier() for part in path.split(".")):  # nor a file's path
        raise UsageError(f"target: expected module.path:callable, got {target!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(path)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise UsageError(f"target: cannot import {path}: {error}") from error
    except AttributeError as error:
        raise UsageError(f"target: {path} has no {name}: {error}") from error
    if not callable(found):
        raise UsageError(f"target: expected a callable, got {type(found).__name__}")
    try:
        model = found(**kwargs)
    except TypeError as error:
        raise UsageError(f"--kwargs: {name} does not take them: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"target: expected a call that gives a torch.nn.Module, got {type(model).__name__}")
    return model
