"""What operating systems differ in, each with what holds where a system lacks it: no other module of the package takes
what only POSIX has (tests/test_platforms.py)."""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path

POSIX = os.name == "posix"
# Flags of os.open; 0 where the system has no such flag, or opens so anyway
BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate ends of lines
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

_moving = threading.Lock()


def cores() -> int:
    """How many this process may run on; all of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def user() -> int | None:
    """Whose rights count; None where users have no numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def memory() -> int | None:
    """The machine's, in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def available_memory() -> int | None:
    """Of the machine now, in bytes; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def resident_memory() -> int | None:
    """Of this process now, in bytes; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError):
        return None


def open_for_reading(path: Path) -> int:
    """A descriptor for `read_at`, which no child inherits. Raises OSError."""
    return os.open(path, os.O_RDONLY | BINARY)


def read_at(file: int, length: int, offset: int) -> bytes:
    """At most `length` bytes; safe in threads that share the descriptor. Raises OSError, OverflowError."""
    if hasattr(os, "pread"):
        return os.pread(file, length, offset)
    with _moving:
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, length)


def has_locks() -> bool:
    """Whether files and folders can be locked against other processes."""
    return importlib.util.find_spec("fcntl") is not None


def lock(file: int, wait: bool = False) -> None:
    """Lock an open file or folder against other processes, until it is closed; nothing where the system has no locks.

    Raises BlockingIOError where another process has it, unless it is to `wait`; OSError.
    """
    if has_locks():
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlock(file: int) -> None:
    """Before it is closed: closing is not enough where a child that was forked meanwhile has it too."""
    if has_locks():
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
