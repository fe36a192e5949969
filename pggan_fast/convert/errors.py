"""What a conversion that cannot be done raises."""

from __future__ import annotations


class ConversionError(ValueError):
    """The file is damaged, hostile, of no known kind, or computes what our networks cannot; a message of one line."""
