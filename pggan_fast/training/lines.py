"""A file that only whole lines are appended to, on a disk that may be full."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Lines:
    """`path` for appending; made where it is not there. A last line that was cut off is ended. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":
                self.write("")

    def write(self, text: str) -> None:
        """The text as a line, or nothing of it. Raises OSError."""
        before = self._file.seek(0, os.SEEK_END)
        left = memoryview(f"{text}\n".encode(errors="backslashreplace"))
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise

    def close(self) -> None:
        self._file.close()
