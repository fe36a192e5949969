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
from typing import Any, TextIO, get_args, get_type_hints

import tyro

from pggan_fast.cli.errors import UsageError

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
BOX = re.compile(r"╭| ?(positional arguments|options)$")  # the line that one begins with; the latter of ASCII alone


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
            told = unrecognized(wrong, command, arguments) or reworded(wrong)
            below = [word for word in arguments if word in names_below(command)]
            raise UsageError(f"{told}; pggan-fast {' '.join([name, *below[:1]])} --help tells the options") from None
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
    return text


def wrapped(text: str) -> str:
    """tyro's help with what stands above its boxes wrapped at words, as it leaves those lines to the terminal."""
    if "╭" not in text:
        text = text.replace("•", "*")  # of the commands below one, whatever the terminal can show
    lines = [line.rstrip() for line in text.splitlines()]
    first = (at for at, line in enumerate(lines) if BOX.match(COLOUR.sub("", line).rstrip()))
    boxes = next(first, len(lines))
    width = max(20, shutil.get_terminal_size().columns)
    usage, *paragraphs = "\n".join(lines[:boxes]).strip("\n").split("\n\n")
    filled = [
        textwrap.fill(" ".join(p.split()), width, break_long_words=False, break_on_hyphens=False) for p in paragraphs
    ]
    return "\n\n".join([usage, *filled, "\n".join(lines[boxes:])]) + "\n"


def unrecognized(said: str, command: Any, arguments: list[str]) -> str | None:
    """One line on the first word that there is not, and on what was meant by it; None where tyro says another thing."""
    title, _, rest = said.partition("Unrecognized options: ")
    if title or not rest:
        return None
    words = [word.split("=")[0].split(" ")[0] for word in rest.split(", ")]
    word = next((word for word in words if word.startswith("-")), words[0])
    names = names_of(command, arguments)
    question = near(word, names)
    if word.startswith("-"):
        return f"{word}: there is no such option{question}"
    if is_dataclass(chosen(command, arguments)):
        return f"{word}: there is no place for this word"
    return f"unknown command {word!r}{question}; expected one of {', '.join(names)}"


def chosen(command: Any, arguments: list[str]) -> Any:
    """What the words choose of a command that has others below it; the command itself where they choose none."""
    below = names_below(command)
    return next((below[word] for word in arguments if word in below), command)


def names_below(command: Any) -> dict[str, Any]:
    """The commands below one, by name."""
    return {inner.__metadata__[0].name: inner.__origin__ for inner in get_args(command)}


def names_of(command: Any, arguments: list[str]) -> list[str]:
    """What tyro takes here: options as they are written, or the commands below one where none is chosen yet."""
    command = chosen(command, arguments)
    if not is_dataclass(command):
        return list(names_below(command))
    names, types = ["--help"], get_type_hints(command, include_extras=True)
    for field in fields(command):
        marks = getattr(types[field.name], "__metadata__", ())
        if tyro.conf.Positional in marks:
            continue
        own = [mark.name for mark in marks if getattr(mark, "name", None)] or [field.name.replace("_", "-")]
        names.append(f"--{'no-' if field.default is True else ''}{own[0]}")
        names += [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
    return names


def near(word: str, words: Iterable[str]) -> str:
    """The question after an error, where one of the words begins with this one or is written much like it."""
    words = list(words)
    found = [other for other in words if other.startswith(word)] or difflib.get_close_matches(word, words, 1, 0.75)
    return f"; did you mean {found[0]}?" if found else ""
