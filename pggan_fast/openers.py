"""How files are opened that stand, under names that can be guessed, in folders that others may write."""

from __future__ import annotations

import os


def no_link(name: str, flags: int) -> int:
    """For `open(..., opener=no_link)`: what a link points to is left alone (OSError), a pipe does not block, and a file
    that is made is this user's alone."""
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
