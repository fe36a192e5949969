"""How options look in a command's help."""

from __future__ import annotations

from typing import Annotated, Any

import tyro


def option(metavar: str | None = None, name: str | None = None, *aliases: str) -> Any:
    """An option whose default the help does not show, since its text tells what happens without it."""
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint="", aliases=aliases or None)


Flag = Annotated[bool, option()]  # "(default: False)" tells nobody anything, and "(default: True)" of --no-x misleads
