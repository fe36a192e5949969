"""What data that cannot be used raises."""

from __future__ import annotations


class DataError(ValueError):
    """A data set, or one of its files, is broken or not of the kind that is wanted; one line that names the file."""


class ImageRefused(DataError):
    """One image that is left out. `kind` is a word to count by, the message says what is wrong with this one."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind

    def __reduce__(self) -> tuple[type[ImageRefused], tuple[str, str]]:
        return ImageRefused, (self.kind, str(self))
