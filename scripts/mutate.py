"""Change the sources in small ways, and see whether the tests notice. What they do not is untested, or changes nothing.

usage: mutate.py [--seconds 600] [--seed 0] [FILE ...]    FILE: of TESTS below; all of them if none is named

Nothing is written: each change is compiled in a forked process that already has torch, and its own tests run there.
Changes are drawn at random among those of a file until its share of the time is over.
"""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Any

import hypothesis  # noqa: F401  imported once, before every fork
import numpy as np  # noqa: F401
import pytest
import torch  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
OPS = Path("tests/ops")
CONVERT = Path("tests/convert")
UNDRAWN = "not flipped and not any_bytes"
FAMILIES = ("akanimax", "gan_lab", "gan_zoo", "genforce", "nashory", "rosinality", "wsconv")


def chosen(folder: Path, *names: str, only: str = "") -> list[str]:
    """Arguments of pytest: files of a folder, and of their tests those that -k chooses."""
    return [*(f"{folder}/test_{name}.py" for name in names), *(["-k", only] if only else [])]


# What is changed, and the quick tests that should see it. Triton's interpreter is slow, and runs none of these files'
# lines that other backends do not.
TESTS = {
    "pggan_fast/training/schedule.py": ["tests/training/test_schedule.py"],
    "pggan_fast/ops/_checks.py": chosen(OPS, "checks", "hostile"),
    "pggan_fast/ops/_again.py": chosen(OPS, "again"),
    "pggan_fast/ops/_autocast.py": chosen(OPS, "autocast", only="not cpu and not triton"),
    "pggan_fast/ops/_autograd.py": chosen(OPS, "autograd", "transforms", "compile"),
    "pggan_fast/ops/_register.py": chosen(OPS, "register", "backend_choice"),
    "pggan_fast/ops/conv.py": chosen(OPS, "autograd", "scaled_conv2d", only="autograd or rounding"),
    **{
        f"pggan_fast/ops/{op}.py": chosen(OPS, op, "checks", only=f"aten and not any_shape or test_checks and {op}")
        for op in (
            "bias_act", "discriminator_stem", "fade_in", "fade_reals", "from_rgb_fade_in", "generator_stage",
            "minibatch_stddev", "pixel_norm", "scaled_conv2d", "scaled_linear", "to_rgb_fade_in",
        )
    },
    "pggan_fast/convert/__init__.py": chosen(CONVERT, "command", "family_options", "official"),
    "pggan_fast/convert/check.py": chosen(CONVERT, "check", "command", "families", only="test_c or agrees or wrong"),
    "pggan_fast/convert/family.py": chosen(
        CONVERT, "read_back", "families", "family_options", only="not same_function"
    ),
    "pggan_fast/convert/layout.py": chosen(
        CONVERT, "families", "official", "command", only="way_back or missing or other_shape or weights or command"
    ),
    "pggan_fast/convert/numpy_families.py": chosen(CONVERT, "families", only="agrees"),
    "pggan_fast/convert/numpy_forward.py": chosen(CONVERT, "families", "official", only="agrees or official"),
    "pggan_fast/convert/official.py": chosen(CONVERT, "official", "hostile", only=UNDRAWN),
    "pggan_fast/convert/words.py": chosen(CONVERT, "words", "families", "read_back", only="words or refused"),
    **{f"pggan_fast/convert/{name}.py": chosen(CONVERT, "families", "family_options", only=name) for name in FAMILIES},
    "pggan_fast/convert/torch_file.py": chosen(CONVERT, "torch_file", "hostile", only=UNDRAWN),
    "pggan_fast/convert/unpickle.py": chosen(CONVERT, "hostile", "torch_file", only=UNDRAWN),
}  # fmt: skip
LIMIT = 6  # times what the tests take unchanged, after which a change counts as noticed
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    line: int
    before: str
    after: str
    code: CodeType


Site = tuple[Any, Callable[[], object]]  # a node, and what changes it in place


def sites(node: ast.AST) -> Iterator[Site]:
    """What can be changed below a node. Not: annotations, texts of errors, docstrings, __all__."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (isinstance(node, ast.Raise) and name == "exc"):
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            if isinstance(child, ast.Raise) or (isinstance(child, ast.Expr) and isinstance(child.value, ast.Call)):
                yield child, partial(value.__setitem__, i, ast.copy_location(ast.Pass(), child))
            yield from own(child)
            yield from sites(child)


def own(node: Any) -> Iterator[Site]:
    """What can be changed of a node itself."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            yield node, partial(node.ops.__setitem__, i, SWAPS[type(operator)]())
    elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPS:
        yield node, partial(setattr, node, "op", SWAPS[type(node.op)]())
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield node, partial(setattr, node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value and getattr(node.value, "value", ...) is not None:
        yield node, partial(setattr, node, "value", None)
    elif isinstance(node, ast.Constant) and node.value is not None and node.value is not ...:
        yield node, partial(setattr, node, "value", another(node.value))


def another(value: Any) -> Any:
    return (
        not value
        if isinstance(value, bool)
        else value + (b"X" if isinstance(value, bytes) else "X" if isinstance(value, str) else 1)
    )


def changes(path: Path, order: Callable[[int], Iterable[int]] = range) -> Iterator[Change]:
    """Every small change of a file: another operator or constant, a condition turned round, a statement left out.

    order: of how many there are, which in turn; each is compiled once it is asked for.
    """
    source = path.read_text()
    for index in order(count(path)):
        tree = ast.parse(source)
        node, change = next(islice(sites(tree), index, None))
        texts = [ast.unparse(tree).splitlines()]
        change()
        texts.append(ast.unparse(ast.fix_missing_locations(tree)).splitlines())
        told = next(((a.strip(), b.strip()) for a, b in zip(*texts, strict=False) if a != b), None)
        if told is not None:  # as 1e16 + 1 does not
            yield Change(node.lineno, *told, compile(tree, str(path), "exec"))


def count(path: Path) -> int:
    """How many changes a file has, those that change nothing included."""
    return sum(1 for _ in sites(ast.parse(path.read_text())))


def outcome(path: Path, code: CodeType | None, tests: list[str], limit: float) -> tuple[bool, float]:
    """Whether the tests of a file pass in a new process where it has this code, and what they take."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os._exit(run(path, code, tests))
    status = None
    while status is None and time.monotonic() - began < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        status = status if done else None
        time.sleep(0.02)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return status == 0, time.monotonic() - began


def run(path: Path, code: CodeType | None, tests: list[str]) -> int:
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    loader = importlib.machinery.SourceFileLoader
    original = loader.get_code

    def get_code(self: Any, name: str) -> CodeType | None:
        return code if code is not None and Path(self.path).resolve() == path else original(self, name)

    loader.get_code = get_code  # type: ignore[method-assign]
    try:
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow", *tests]))
    except BaseException:  # of a change that ends pytest itself
        return 1


def examine(file: str, seconds: float, rng: random.Random) -> tuple[int, int, list[Change]]:
    """How many changes a file has, how many were tried, and those that its tests did not notice."""
    path, tests = ROOT / file, TESTS[file]
    passed, took = outcome(path, None, tests, math.inf)
    if not passed:
        sys.exit(f"{' '.join(tests)}: fail without a change")
    every, tried, survivors, end = count(path), 0, [], time.monotonic() + seconds
    for change in changes(path, lambda n: rng.sample(range(n), n)):
        if time.monotonic() > end:
            break
        passed, _ = outcome(path, change.code, tests, LIMIT * took + 10)
        tried += 1
        if passed:
            survivors.append(change)
            print(f"{file}:{change.line}: {change.before}  ->  {change.after}", flush=True)
    print(f"{file}: {tried} of {every} changes tried, {len(survivors)} not noticed ({took:.1f} s each)", flush=True)
    return every, tried, survivors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(TESTS))
    parser.add_argument("--seconds", type=float, default=1200, help="in all, shared among the files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = options.files or list(TESTS)
    if unknown := [file for file in files if file not in TESTS]:
        parser.error(f"FILE: expected one of {', '.join(TESTS)}; got {' '.join(unknown)}")
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    rng = random.Random(options.seed)
    end, tried, missed = time.monotonic() + options.seconds, 0, 0
    for left, file in zip(range(len(files), 0, -1), files, strict=True):
        _, some, survivors = examine(file, max(end - time.monotonic(), 0) / left, rng)
        tried, missed = tried + some, missed + len(survivors)
    print(f"in all: {tried} changes tried, {tried - missed} noticed, {missed} not")


if __name__ == "__main__":
    main()
