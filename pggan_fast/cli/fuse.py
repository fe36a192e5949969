"""`pggan-fast fuse`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pggan_fast.cli import UsageError
from pggan_fast.cli.options import Flag
from pggan_fast.errors import few

if TYPE_CHECKING:
    import torch


@dataclass
class Command:
    """Build a model of yours, run it on the fused ops, and print what was fused and what was not, and why.

    As in models.pggan:Generator. MODULE is looked for in the current folder and on PYTHONPATH too. Your files stay as
    they are.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:CALLABLE")]
    """Its call gives a torch.nn.Module, or a tuple, list or dictionary of some; MODULE's code runs."""
    kwargs: Annotated[list[str], tyro.conf.arg(metavar="KEY=VALUE ...", help_behavior_hint="")] = field(
        default_factory=list
    )
    """Arguments of the callable, such as --kwargs channels=64 act=relu: Python literals, or else text."""
    time: Flag = False
    """Measure each fused part, a forward and backward pass, before and after."""

    def run(self) -> int:
        from rich.console import Console

        from pggan_fast.swap import fuse

        models = _models(_made(self.target, _arguments(self.kwargs)))
        fused = 0
        for name, model in models.items():
            report = fuse(model, time=self.time)
            fused += len(report.replaced)
            if name:
                print(f"{name} of what {self.target} gives:")
            Console().print(report)
        return 0 if fused else 1


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


def _models(made: Any) -> dict[str, torch.nn.Module]:
    """The modules that the callable gave, by what tells them apart; other things beside them are left alone."""
    import torch

    if isinstance(made, torch.nn.Module):
        return {"": made}
    several: Mapping[Any, Any] = {}
    if isinstance(made, (tuple, list)):
        several = dict(enumerate(made))
    elif isinstance(made, Mapping):
        several = made
    found = {f"[{key!r}]": value for key, value in several.items() if isinstance(value, torch.nn.Module)}
    if not found:
        got = type(made).__name__
        if several:
            got += f" of {few(type(value).__name__ for value in several.values())}"
        raise UsageError(f"target: expected a call that gives a torch.nn.Module, or several such as (G, D), got {got}")
    return found


def _made(target: str, kwargs: dict[str, Any]) -> Any:
    """What the callable gives."""
    path, colon, name = target.partition(":")
    if path.endswith(".py") or "/" in path:
        file = Path(path)
        raise UsageError(
            f"target: expected module.path:callable, got the path of a file, {target!r}; such as "
            f"PYTHONPATH={file.parent} pggan-fast fuse {file.stem}:{name or 'CALLABLE'}"
        )
    if not colon or not name or not all(part.isidentifier() for part in path.split(".")):
        raise UsageError(f"target: expected module.path:callable, got {target!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(path)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise UsageError(f"target: cannot import {path}: {error}{_hint(path, error)}") from error
    except AttributeError as error:
        raise UsageError(f"target: {path} has no {name}: {error}") from error
    if not callable(found):
        raise UsageError(f"target: expected a callable, got {type(found).__name__}")
    with contextlib.suppress(ValueError):  # a callable without a signature
        try:
            inspect.signature(found).bind(**kwargs)
        except TypeError as error:
            given = f"with {', '.join(kwargs)}" if kwargs else "without arguments"
            raise UsageError(f"--kwargs: {name} cannot be called {given}: {error}") from None
    return found(**kwargs)


def _hint(path: str, error: ImportError) -> str:
    """Where modules are looked for, if one was not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    own = path == error.name or path.startswith(f"{error.name}.")
    which = "it is" if own else f"{path} was found, what it imports is"
    return (
        f"; {which} looked for in the current folder ({Path.cwd()}), on PYTHONPATH and among installed packages: start "
        "this in the folder that has it, or put that on PYTHONPATH"
    )
