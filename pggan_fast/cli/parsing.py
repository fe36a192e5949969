"""A command's words as options: tyro reads them, and its boxes become the one line or the help that users see."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TextIO, get_args

import tyro

from pggan_fast.cli.errors import UsageError

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


class _Help(io.StringIO):
    """Takes what is meant for standard output, and looks like it to tyro, which draws by what that can show."""

    def __init__(self, screen: TextIO) -> None:
        super().__init__()
        self._screen = screen

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._screen.encoding

    def isatty(self) -> bool:
        return self._screen.isatty() and not os.environ.get("NO_COLOR")


def parse(command: Any, name: str, arguments: list[str]) -> Any:
    """The command with its options; None where its help was asked for, and printed. Raises UsageError."""
    said, shown = io.StringIO(), _Help(sys.stdout)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            return tyro.cli(
                command,
                prog=f"pggan-fast {name}",
                args=arguments,
                config=CONFIG,
            )
    except SystemExit as stop:
        if stop.code:
            wrong = in_one_line(said.getvalue())
            tail = f"{meant(wrong, command)}; pggan-fast {name} --help tells the options"
            raise UsageError(f"{reworded(wrong)}{tail}") from None
    print(wrapped(shown.getvalue()), end="")
    return None


def in_one_line(box: str) -> str:
    """What stands in tyro's box, on one line: of options that are missing their names, without their help texts."""
    lines = [line.strip("│").rstrip() for line in box.splitlines() if line.strip() and not line.startswith(("╭", "╰"))]
    rules = [at for at, line in enumerate(lines) if not line.strip("─- ")]
    if "╭" not in box:  # of ASCII, the title on a line of its own
        lines, rules = lines[2:], [at - 2 for at in rules[1:]]
    lines = lines[: rules[0]] if rules else lines
    deep = [len(line) - len(line.lstrip()) for line in lines]
    missing = [line.strip() for line, indent in zip(lines, deep, strict=True) if indent == deep[0] + 4]
    if missing and "Missing from" in lines[0]:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    return " ".join(map(str.strip, lines)).rstrip(".")


def reworded(text: str) -> str:
    """tyro's words on a value, as our own errors have them: the option, what came, what was expected."""
    kinds = {"INT": "a whole number", "FLOAT": "a number"}
    parsed = r"(?:Error parsing )?(--[\w-]+): no type matching (.*?) could be instantiated from \[(.*?)\]"
    if found := re.match(parsed, text):
        option, types, got = found.groups()
        named = [word for kind, word in kinds.items() if kind in types]
        return f"{option}: got {got}, expected {' or '.join(named) or 'another value'}"
    if found := re.match(r"invalid choice (.*) for argument '(.*)'\. Expected one of \((.*)\)$", text):
        got, option, choices = found.groups()
        named = sorted(choice for choice in re.findall(r"'([^']*)'", choices) if choice != "None")  # a set's order
        return f"{option}: got {got}, expected one of {', '.join(named)}"
    if found := re.match(r"Unrecognized options: (--[^,\s]+)", text):
        return f"{found[1]}: there is no such option"
    return text


def wrapped(text: str) -> str:
    """tyro's help with what stands above its boxes wrapped at words, as it leaves those lines to the terminal."""
    head, box, rest = text, "", ""
    for corner in ("╭", "\noptions", "\npositional"):
        if corner in text:
            head, box, rest = text.partition(corner)
            break
    width = max(20, shutil.get_terminal_size().columns)
    usage, *paragraphs = head.strip("\n").split("\n\n")
    filled = [
        textwrap.fill(" ".join(p.split()), width, break_long_words=False, break_on_hyphens=False) for p in paragraphs
    ]
    return "\n\n".join([usage, *filled]) + "\n\n" + box + rest


def names_of(command: Any) -> list[str]:
    """Options of a command, and the commands and options of one that has others below it."""
    if is_dataclass(command):
        return [f"--{field.name.rstrip('_').replace('_', '-')}" for field in fields(command)]
    return [name for inner in get_args(command) for name in (getattr(inner, "name", None), *names_of(inner)) if name]


def meant(said: str, command: Any) -> str:
    """What somebody meant by a word that there is not."""
    title, _, words = said.partition("Unrecognized options: ")
    return near(words.split(", ")[0].split("=")[0].split(" ")[0], names_of(command)) if words and not title else ""


def near(word: str, words: Iterable[str]) -> str:
    """The question after an error, where one of the words begins with this one or is written much like it."""
    words = list(words)
    found = [other for other in words if other.startswith(word)] or difflib.get_close_matches(word, words, 1)
    return f"; did you mean {found[0]}?" if found else ""
