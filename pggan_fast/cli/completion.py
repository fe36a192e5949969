"""`pggan-fast completion`."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from pggan_fast.cli.parsing import CONFIG


@dataclass
class Command:
    """Print a script that lets a shell complete commands and options at the Tab key.

    bash reads it from the file ~/.local/share/bash-completion/completions/pggan-fast, zsh from _pggan-fast in a folder
    of its $fpath, fish from ~/.config/fish/completions/pggan-fast.fish; or for this bash alone: eval "$(pggan-fast
    completion bash)".
    """

    shell: tyro.conf.Positional[Annotated[Literal["bash", "zsh", "fish"], tyro.conf.arg(metavar="{bash,zsh,fish}")]]
    """Whose script."""

    def run(self) -> int:
        from pggan_fast.cli import COMMANDS

        every = [
            Annotated[importlib.import_module(module).Command, tyro.conf.subcommand(name, description=text)]
            for name, (module, text) in COMMANDS.items()
            if " " not in name  # shells complete word by word
        ]
        commands: Any = Union[tuple(every)]  # noqa: UP007
        script = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(script):
            tyro.cli(
                commands,
                prog="pggan-fast",
                args=["--tyro-write-completion", self.shell, "-"],
                config=CONFIG,
            )
        if not script.getvalue():
            print(f"pggan-fast: error: tyro {tyro.__version__} wrote no script for {self.shell}", file=sys.stderr)
            return 1
        # bash: files where there is nothing else, such as in place of a positional FILE
        print(re.sub("^complete -F", "complete -o default -F", script.getvalue(), flags=re.M), end="")
        return 0
