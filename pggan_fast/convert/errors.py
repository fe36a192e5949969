"""What a conversion that cannot be done raises."""

from __future__ import annotations


class ConversionError(ValueError):
    """The file is damaged, hostile, of no known kind, or computes what our networks cannot; a message of one line."""


def line(value: object, most: int = 200) -> str:
    """A value's text on one line of bearable length; of a container, which may hold itself, its type alone."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    shape = isinstance(value, tuple) and len(value) <= 64 and all(type(n) is int and abs(n) < 1 << 64 for n in value)
    if isinstance(value, (list, dict, tuple, set)) and not shape:
        return f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else "?" for c in " ".join(str(value)[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most]}..."
