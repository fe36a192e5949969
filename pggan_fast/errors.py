"""What messages of one line are made of, and where a warning points."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any


def line(value: object, most: int = 200) -> str:
    """A value's text on one line of bearable length, with nothing in it that a terminal obeys; of a container, which
    may hold itself, its type alone."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    shape = isinstance(value, tuple) and len(value) <= 64 and all(type(n) is int and abs(n) < 1 << 64 for n in value)
    if isinstance(value, (list, dict, tuple, set)) and not shape:
        return f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(value)[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most]}..."


def printable(value: object) -> Any:
    """JSON's value with every text in it, keys too, free of what a terminal obeys; lines and tabs stay."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else "?" for c in value)
    if isinstance(value, list):
        return [printable(inner) for inner in value]
    if isinstance(value, dict):
        return {printable(key): printable(inner) for key, inner in value.items()}
    return value


def few(names: Iterable[object], most: int = 3) -> str:
    """The first names, and how many more there are."""
    every = [line(name, 80) for name in names]
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")


def counted(n: int, what: str) -> str:
    """1 tensor, 2 tensors, 2 classes."""
    return f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('s') else 's'}"


def file_size(n: int) -> str:
    """Bytes in a unit in which it is at least one: 512 bytes, 3.4 kB, 120 MB."""
    if n < 1000:
        return counted(n, "byte")
    amount, unit = next((n / k, unit) for k, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if n >= k)
    return f"{amount:.{0 if amount >= 100 else 1}f} {unit}"


def outside() -> int:
    """The stack level of the first caller outside of this package and torch, for a warning of whoever asks."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("pggan_fast.", "torch.")):
        frame, level = frame.f_back, level + 1
    return level
