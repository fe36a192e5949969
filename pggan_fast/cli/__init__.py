"""The `pggan-fast` command: one file per subcommand, imported only when it is the one that runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import tyro

# Subcommand: (module with a `Command` dataclass whose `run()` returns the exit status, one line of help).
COMMANDS = {
    "bench": ("pggan_fast.cli.bench", "measure throughput and memory against plain PyTorch on this machine"),
    "info": ("pggan_fast.cli.info", "say which backends run here, which do not, why, and what would change that"),
}


class UsageError(Exception):
    """An option that cannot be honoured; its message is the one line that the user sees."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the command itself failed, 2 bad options."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name not in COMMANDS:
        _fail(f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}")
    module, _ = COMMANDS[name]
    command = tyro.cli(
        importlib.import_module(module).Command,
        prog=f"pggan-fast {name}",
        args=rest,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    try:
        status = command.run()
    except UsageError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    head = ("usage: pggan-fast COMMAND [options]", "", "Fast layers for Progressive Growing of GANs.", "")
    return "\n".join((*head, *lines, "", "pggan-fast COMMAND --help tells a command's options."))


def _fail(message: str) -> None:
    print(f"pggan-fast: error: {message}", file=sys.stderr)
    sys.exit(2)
