"""The code blocks of a Markdown page: what is in them, run in order, and held to the real command line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from pggan_fast import cli, settings
from pggan_fast.cli import parsing

ROOT = Path(__file__).parents[1]
LANGUAGES = {"python", "sh", "text"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*) *\n(?P<text>.*?)^(?P=indent)``` *$", re.M | re.S)
_MARK = re.compile(r"<!-- (not run: .+|prints) -->\n *\Z")
_INLINE = re.compile(r"(?<!`)`(pggan-fast\s[^`]+|make\s+[a-z-]+[^`]*)`(?!`)")
# Of other programs: nothing to be held to here
OTHERS = {"cd", "git", ".", "sbatch", "kubectl", "sky", "mkdir", "nvidia-smi", "unzip", "cp"}
OTHER_VARIABLES = {"CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PGGAN_TEST_EMULATOR", "TRITON_INTERPRET", "MAX_JOBS"}


class Block(NamedTuple):
    """Text between fences; `mark`: the comment right above it, without its brackets."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def not_run(self) -> str | None:
        """The reason why it is not, if it is not."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> list[Block]:
    found = []
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text[: match.start()])
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
        line = text[: match.start()].count("\n") + 2
        found.append(Block(page, line, match["language"], "\n".join(lines) + "\n", mark[1] if mark else ""))
    return found


def inline_commands(text: str) -> list[str]:
    """Commands within sentences, which may leave out what does not matter there."""
    return [" ".join(match[1].split()) for match in _INLINE.finditer(_FENCE.sub("", text))]


def command_lines(text: str, *, prompt: bool = False) -> list[list[str]]:
    """The words of each command; with `prompt`, of those lines alone that are typed: others are what was printed."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        typed = line.removeprefix("$ ")
        if prompt and typed == line and not line.startswith(("pggan-fast ", "make ")):
            continue
        for part in typed.split(" && "):
            part = re.sub(r"\[(--[\w-]+)\]", r"\1", part)  # an option that may be left out
            if words := shlex.split(part, comments=True):
                found.append(words)
    return found


def check_command(words: list[str]) -> None:
    """Raises AssertionError where a command names what does not exist."""
    while "=" in words[0] and not words[0].startswith("-"):
        name, words = words[0].partition("=")[0], words[1:]
        assert name in settings.VARIABLES or name in OTHER_VARIABLES, f"no such environment variable: {name}"
    program, rest = words[0], words[1:]
    if program == "pggan-fast":
        parsed(rest)
    elif "pggan_fast.cli" in rest:  # torchrun ... -m pggan_fast.cli train ...
        parsed(rest[rest.index("pggan_fast.cli") + 1 :])
    elif program == "make":
        _check_make(rest)
    elif program.startswith("python") or program.endswith("/python"):
        _check_python(rest)
    elif program == "pip":
        _check_extras(rest)
    elif program == "pytest":
        missing = [word for word in rest if "/" in word and not (ROOT / word).exists()]
        assert not missing, f"no such tests: {missing}"
    elif program.startswith(("scripts/", "examples/")):
        assert (ROOT / program).exists(), f"no such script: {program}"
    else:
        assert program in OTHERS, f"a command that no check knows: {' '.join(words)}"


def _named(words: list[str]) -> tuple[str, list[str]]:
    """The subcommand and the words after it."""
    count = 2 if " ".join(words[:2]) in cli.COMMANDS else 1
    name = " ".join(words[:count])
    assert name in cli.COMMANDS, f"pggan-fast has no command {name!r}"
    return name, words[count:]


def parsed(words: list[str]) -> Any:
    """The command with its options as the command line makes it."""
    if words in (["--help"], ["--version"]):
        return None
    name, rest = _named(words)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return parsing.parse(importlib.import_module(cli.COMMANDS[name][0]).Command, name, rest)
    except cli.UsageError as error:
        raise AssertionError(f"pggan-fast {' '.join(words)}: {error}") from None


def check_inline(command: str) -> None:
    """As `check_command`, but a sentence may leave out what is needed: only the names have to exist."""
    words = shlex.split(command.replace("...", " "))
    if words[0] == "make":
        return _check_make([word for word in words[1:] if word.islower()])
    if words[1:2] in (["--help"], ["--version"], ["COMMAND"]):
        return None
    name, rest = _named(words[1:])
    text = help_of(name)
    for word in rest:
        if word.startswith("-"):
            option = word.partition("=")[0]
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{command}: no option {option}"
    return None


def help_of(name: str) -> str:
    """What --help prints, of a command that has commands all of theirs."""
    said = io.StringIO()
    Command = importlib.import_module(cli.COMMANDS[name][0]).Command
    inner = [["convert"], ["make"], ["info"], ["verify"]] if name == "data" else [[]]
    for words in inner:
        with contextlib.redirect_stdout(said):
            parsing.parse(Command, name, [*words, "--help"])
    return re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())


def _check_make(rest: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in rest:
        if "=" in word:
            name = word.partition("=")[0]
            assert re.search(rf"^{name} \?=", makefile, re.M) or f"$({name})" in makefile, f"make knows no {name}"
        elif not word.startswith("-"):
            assert re.search(rf"^\.PHONY:.*\b{word}\b", makefile, re.M), f"make has no target {word}"


def _check_python(rest: list[str]) -> None:
    if rest[:1] == ["-m"]:
        assert importlib.util.find_spec(rest[1]), f"no module {rest[1]}"
        if rest[1] == "pytest":
            check_command(rest[1:])
    else:
        assert (ROOT / rest[0]).exists(), f"no such script: {rest[0]}"


def _check_extras(rest: list[str]) -> None:
    """`pip install '.[video]'`: the extra is one of ours."""
    project = (ROOT / "pyproject.toml").read_text()
    for word in rest:
        for extra in re.findall(r"^(?:\.|pggan-fast)\[(.*)\]$", word):
            for name in extra.split(","):
                assert re.search(rf"^{name} = \[", project, re.M), f"no extra {name}"


class Page:
    """Runs the blocks of a page in order, as one program in the current folder."""

    def __init__(self, name: str) -> None:
        self.scope: dict[str, Any] = {"__name__": "__main__"}
        self.name, self.printed = name, ""

    def run(self, block: Block) -> None:
        if block.language == "python" and block.not_run is None:
            self.printed = self._python(block)
        elif block.language == "python":
            compile(block.text, block.where, "exec")
        elif block.language == "sh":
            for words in command_lines(block.text):
                check_command(words)
                if words[0] == "pggan-fast" and block.not_run is None:
                    self._command(block, words[1:])
        elif block.mark == "prints":
            assert self.printed.strip() == block.text.strip(), f"{block.where}: printed\n{self.printed}"

    def _python(self, block: Block) -> str:
        said = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.text, f"docs/{self.name}", "exec")
        with contextlib.redirect_stdout(said):
            exec(code, self.scope)
        return said.getvalue()

    def _command(self, block: Block, words: list[str]) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            try:
                cli.main(words)
            except SystemExit as stop:
                if stop.code:
                    told = f"{block.where}: {' '.join(words)}: status {stop.code}: {said.getvalue()}"
                    raise AssertionError(told) from None


def run_page(name: str, text: str) -> None:
    page = Page(name)
    for block in blocks(name, text):
        page.run(block)
