"""The `pggan-fast` command: one file per subcommand, imported only when it is the one that runs."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence

from pggan_fast.cli import interrupts
from pggan_fast.cli.errors import UsageError
from pggan_fast.errors import line

__all__ = ["COMMANDS", "UsageError", "main"]

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
    "completion": ("pggan_fast.cli.completion", "print a script by which bash, zsh or fish complete all this"),
    "info": ("pggan_fast.cli.info", "say which backends run here, which do not, why, and what would change that"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the command itself failed, 2 bad options, 130 interrupted."""
    _never_fail_to_print()
    with interrupts.raised(), _warnings_in_a_line():
        try:
            status = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
        except KeyboardInterrupt:
            status = _interrupted()
        except Exception as error:
            if interrupts.became(error):
                status = _interrupted()
            elif isinstance(error, UsageError):
                print(f"pggan-fast: error: {line(str(error), 4000)}", file=sys.stderr)
                status = 2
            elif isinstance(error, OSError):  # of no file that the command would tell of itself
                status = _not_written(error)
            else:
                raise
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    """The exit status of what the words ask for."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments == ["--version"]:
        from pggan_fast import __version__

        print(f"pggan-fast {__version__}")
        return 0
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    from pggan_fast.cli import parsing

    if name not in COMMANDS:
        told = f"unknown command {name!r}{parsing.near(name, COMMANDS)}"
        raise UsageError(f"{told}; expected one of {', '.join(COMMANDS)}")
    module, _ = COMMANDS[name]
    command = parsing.parse(importlib.import_module(module).Command, name, rest)
    if command is None:
        return 0
    if name != "info":  # which tells of it
        _check_environment()
    return int(command.run())


def _interrupted() -> int:
    interrupts.say()
    return interrupts.STATUS


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


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Without the place in the source that they came from."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **more: f"pggan-fast: warning: {line(str(message), 4000)}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _check_environment() -> None:
    """What would be an error at the first op, after minutes maybe."""
    from pggan_fast.backends import forced

    try:
        forced.named(None)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _help() -> str:
    """Each command with its text, which is wrapped where the terminal ends."""
    width = max(map(len, COMMANDS))
    room = max(40, shutil.get_terminal_size().columns)
    lines = [
        textwrap.fill(text, room, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4))
        for name, (_, text) in COMMANDS.items()
    ]
    about = textwrap.fill("Fast layers for Progressive Growing of GANs.", room)
    head = ("usage: pggan-fast COMMAND [options]", "", about, "")
    tail = "pggan-fast COMMAND --help tells a command's options, pggan-fast --version the version."
    return "\n".join((*head, *lines, "", textwrap.fill(tail, room, break_on_hyphens=False)))
