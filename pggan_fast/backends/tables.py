"""What was measured and checked on a device, in one JSON file per device and versions, which all processes share.

    {"schema": 2,
     "key": {"device": ..., "capability": ..., "threads": ..., "torch": ..., "triton": ..., "pggan_fast": ...},
     "ways":   {bucket: {"best": way, "seconds": {way: median}}},      who is fastest (registry)
     "plans":  {problem: {"config": [...], "splits": ..., ...}},       tile sizes of the Triton kernels (triton/tuning)
     "checks": {"way bucket": {"build": ..., "error": ..., "limit": ...}}}   who agreed with the reference (selfcheck)

Tables of known devices come with the package, in tuned/; the user's, in PGGAN_FAST_CACHE, goes before them. A file is
replaced in one step, under a lock beside it: readers see the old or the new one, and no writer loses what others wrote.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pggan_fast import settings, system
from pggan_fast.errors import line
from pggan_fast.files import no_link

SCHEMA = 2
KEY = ("device", "capability", "threads", "torch", "triton", "pggan_fast")
SECTIONS = ("ways", "plans", "checks")
SHIPPED = Path(__file__).resolve().parent / "tuned"
_MOST = 1 << 26  # bytes of a file
Key = dict[str, str]
Table = dict[str, dict[str, Any]]  # section -> name -> entry

_lock = threading.RLock()


@functools.cache
def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def device_key(device: torch.device) -> Key:
    """What an entry holds for: another device, setting or version starts anew."""
    if device.type == "cuda":
        name, threads = torch.cuda.get_device_name(device), "any"
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    else:
        from pggan_fast.backends import cpu

        name, capability, threads = cpu_name(), cpu.isa() or "none", str(torch.get_num_threads())
    versions = {name: _version(name.replace("_", "-")) for name in ("triton", "pggan_fast")}
    key = {"device": name, "capability": capability, "threads": threads, "torch": torch.__version__}
    return key | versions


def path_of(key: Mapping[str, str]) -> Path:
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(key[part] for part in KEY)).strip("-").lower()
    return settings.cache_folder() / f"{name}.json"


_tables: dict[tuple[Any, ...], Table] = {}


def table(device: torch.device) -> Table:
    """All that is known of a device; read once, and again after `forget`. Changes in place are for this process."""
    where = device.type, device.index, torch.get_num_threads() if device.type == "cpu" else 0
    found = _tables.get(where)
    if found is None:
        with _lock:
            key = device_key(device)
            found = _tables[where] = _joined(_shipped(key), load(key))
    return found


def forget() -> None:
    """Read the files again when they are next asked for."""
    _tables.clear()


def fingerprint(device: torch.device) -> str:
    """Of the measurements that the automatic choice goes by on `device`; "none" where there are none."""
    known = {section: table(device)[section] for section in ("ways", "plans")}
    if not any(known.values()):
        return "none"
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def load(key: Mapping[str, str]) -> Table:
    """The user's file of `key`; empty, with a warning, where it cannot be used."""
    path = path_of(key)
    try:
        return _read(path, key, _own)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RecursionError) as error:
        _report(path, error)
    return _empty()


def _shipped(key: Mapping[str, str]) -> Table:
    path = SHIPPED / path_of(key).name
    return _read(path, key) if path.exists() else _empty()


def _report(path: Path, error: Exception) -> None:
    text = f"pggan_fast: {path} is ignored: {line(error, 1000)}; `pggan-fast tune` replaces it"
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _own(path: Path) -> bytes:
    """A file's bytes, if this user or root wrote it and nobody else can: what is in it decides which kernels are
    trusted, and the folder may be shared. Raises ValueError, OSError.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | system.NONBLOCK)) as file:  # as a pipe may
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is a pipe, socket or device")
        if (user := system.user()) is not None:  # elsewhere the mode says nothing of others either
            if about.st_uid not in (0, user):
                raise ValueError(f"it belongs to another user, {about.st_uid}")
            if about.st_mode & stat.S_IWOTH:
                raise ValueError("every user may write it")
        if about.st_size > _MOST:
            raise ValueError(f"it has {about.st_size} bytes, at most {_MOST} are read")
        return file.read(_MOST)


def _read(path: Path, key: Mapping[str, str], read: Callable[[Path], bytes] = Path.read_bytes) -> Table:
    """Raises ValueError for anything but a whole table of `key`."""
    data = json.loads(read(path))
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or data.get("key") != dict(key):
        found = {k: data.get(k) for k in ("schema", "key")} if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"expected schema {SCHEMA} and the key {dict(key)}, got {found}")
    for section, check in _ENTRY.items():
        entries = data.get(section)
        if not isinstance(entries, dict):
            raise ValueError(f"section {section!r} is missing")
        damaged = next((name for name, entry in entries.items() if not check(entry)), None)
        if damaged is not None:
            raise ValueError(f"section {section!r} is damaged at {damaged!r}")
    return {section: data[section] for section in SECTIONS}


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0.0 < value < 1e9


def _is_way(entry: Any) -> bool:
    seconds = entry.get("seconds") if isinstance(entry, dict) else None
    best = entry.get("best") if isinstance(entry, dict) else None
    return (
        isinstance(seconds, dict)
        and isinstance(best, str)
        and best in seconds
        and all(map(_is_seconds, seconds.values()))
    )


def _is_plan(entry: Any) -> bool:
    config = entry.get("config") if isinstance(entry, dict) else None
    numbers = isinstance(config, list) and len(config) == 5 and all(type(n) is int for n in config)
    return numbers and type(entry.get("splits")) is int and type(entry.get("fused")) is bool


def _is_check(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("build"), str)


_ENTRY = {"ways": _is_way, "plans": _is_plan, "checks": _is_check}


def _empty() -> Table:
    return {section: {} for section in SECTIONS}


def _joined(first: Table, second: Table) -> Table:
    return {section: {**first[section], **second[section]} for section in SECTIONS}


def add(device: torch.device, section: str, entries: Mapping[str, Any], wait: bool = True) -> Path:
    """Add `entries` to the user's file of `device`. Raises OSError where it cannot be written, or without `wait` where
    another process is writing; then nothing changed."""
    key = device_key(device)
    path = path_of(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock, _exclusive(path, wait):
        known = load(key)
        known[section].update(entries)
        _replace(path, {"schema": SCHEMA, "key": key, **known})
        table(device)[section].update(entries)
    return path


def remember(device: torch.device, section: str, entries: Mapping[str, Any]) -> None:
    """`add` for what is easily found again: in a cache that cannot be written or read it holds for this process."""
    table(device)[section].update(entries)
    path = path_of(device_key(device))
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.exists():
            _read(path, device_key(device), _own)  # leave a damaged file to the user's eyes
        add(device, section, entries, wait=False)


def unwritable() -> str | None:
    """Why the cache folder cannot be written; None where it can. A folder that is missing is made."""
    folder = settings.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"the cache folder {folder} cannot be written ({error.strerror})"
    return None


@contextlib.contextmanager
def _exclusive(path: Path, wait: bool) -> Iterator[None]:
    """One writer at a time, of all processes; where the system has no locks, of this process."""
    with open(path.with_suffix(".lock"), "ab", opener=no_link) as file:  # no other user can open it and hold it
        system.lock(file.fileno(), wait)
        try:
            yield
        finally:
            system.unlock(file.fileno())


def _replace(path: Path, data: Mapping[str, Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(data, sort_keys=True))  # `dump`, and an indent, take the encoder in Python
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _renew_lock() -> None:
    """In a forked child: the thread that held it is not there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
