"""The `pggan-fast` command: one file per subcommand, imported only when it is the one that runs."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import tyro

from pggan_fast.errors import line

# Subcommand, of one word or two: (module with a `Command` dataclass whose `run()` returns the exit status, one line of
# help).
COMMANDS = {
    "bench": ("pggan_fast.cli.bench", "measure throughput and memory against plain PyTorch on this machine"),
    "bench compare": ("pggan_fast.cli.bench_compare", "say what became faster or slower: two runs, or two commits"),
    "bench report": (
        "pggan_fast.cli.bench_report",
        "make a page of benchmark results: tables, pictures, how cost grows",
    ),
    "convert": ("pggan_fast.cli.convert", "turn another program's checkpoint into a network file of ours"),
    "data": ("pggan_fast.cli.data", "make data sets of images of any kind and size; look at them and verify them"),
    "train": ("pggan_fast.cli.train", "train a progressive GAN on a set of images, or go on with a training"),
    "report": ("pggan_fast.cli.report", "make a page and a picture of a training run: curves, images, options"),
    "generate": ("pggan_fast.cli.generate", "draw images of a trained network, each by its seed"),
    "video": ("pggan_fast.cli.video", "make a video that goes from seed to seed"),
    "tune": ("pggan_fast.cli.tune", "measure which kernels are fastest on this device, and run those from now on"),
    "fuse": (
        "pggan_fast.cli.fuse",
        "run a model of yours on the fused ops; say which parts of it, and why not others",
    ),
    "doctor": ("pggan_fast.cli.doctor", "check every op of every backend on this machine against the reference"),
    "metrics": ("pggan_fast.cli.metrics", "say how good generated images are: SWD, MS-SSIM, FID and others"),
    "info": ("pggan_fast.cli.info", "say which backends run here, which do not, why, and what would change that"),
}


class UsageError(Exception):
    """An option that cannot be honoured; its message is the one line that the user sees."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the command itself failed, 2 bad options."""
    _never_fail_to_print()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if arguments else 2)
    if arguments == ["--version"]:
        from pggan_fast import __version__

        print(f"pggan-fast {__version__}")
        sys.exit(0)
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        _fail(f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}")
    module, _ = COMMANDS[name]
    try:
        command = _parse(importlib.import_module(module).Command, name, rest)
        if name != "info":  # which tells of it
            _check_environment()
        status = command.run()
        sys.stdout.flush()
    except UsageError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("pggan-fast: interrupted", file=sys.stderr)
        status = 130
    except OSError as error:  # of no file that the command would tell of itself
        status = _not_written(error)
    sys.exit(status)


def _not_written(error: OSError) -> int:
    """One line, and none where whoever read standard output has gone, as `head` does."""
    where = error.filename or "writing output"
    try:
        sys.stdout.flush()
    except OSError:  # what is left for it is dropped, or the interpreter would try again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"pggan-fast: error: {where}: {error.strerror or error}", file=sys.stderr)
    return 1


def _never_fail_to_print() -> None:
    """A name that is no text, or that the terminal's encoding has not, is shown as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _check_environment() -> None:
    """What would be an error at the first op, after minutes maybe."""
    from pggan_fast.backends import forced

    try:
        forced.named(None)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _parse(command: Any, name: str, arguments: list[str]) -> Any:
    """The command with its options; what tyro says about bad ones in a box becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command,
                prog=f"pggan-fast {name}",
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        _fail(f"{_reworded(_said(said.getvalue()))}; pggan-fast {name} --help tells the options")


def _reworded(text: str) -> str:
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


def _said(box: str) -> str:
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


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    head = ("usage: pggan-fast COMMAND [options]", "", "Fast layers for Progressive Growing of GANs.", "")
    tail = ("", "pggan-fast COMMAND --help tells a command's options, pggan-fast --version the version.")
    return "\n".join((*head, *lines, *tail))


def _fail(message: str) -> NoReturn:
    print(f"pggan-fast: error: {line(message, 4000)}", file=sys.stderr)
    sys.exit(2)
