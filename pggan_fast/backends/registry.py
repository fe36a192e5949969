"""Who can run an op: one table of (backend, op) -> implementation, and the one place that chooses.

An implementation is a plain function on tensors (no autograd) with the arguments of the op's schema less `backend`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from pggan_fast import settings

BACKENDS = ("reference", "aten", "cpu", "triton", "cuda")
# Preference of the automatic choice, per kind of device. Any other kind ("rocm", "mps", "xpu") has torch's kernels:
# nothing of ours has been tested there. Reference is no choice: it is the specification, not a kernel.
PREFERENCE = {"cpu": ("cpu", "aten"), "cuda": ("triton", "cuda", "aten")}


class BackendUnavailable(RuntimeError):
    """An explicitly requested backend cannot run; the message carries the reason and the remedy."""


class Limit(str):
    """A reason of `supports` that costs speed: the shape is beyond what the kernels were made for."""


class Implementation(NamedTuple):
    run: Callable[..., Any]
    supports: Callable[..., str | None]
    automatic: Callable[..., Any]  # what the automatic choice runs: `run`, or for a kernel not yet measured a safer way
    composed: bool  # whether the automatic choice runs it in place of the op's parts


_TABLE: dict[tuple[str, str], Implementation] = {}
_UNAVAILABLE: dict[str, Callable[[], str | None]] = {}
_WARNED: set[tuple[str, str]] = set()


def implement(
    backend: str,
    op: str,
    *,
    supports: Callable[..., str | None] | None = None,
    automatic: Callable[..., Any] | None = None,
    composed: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as `backend`'s implementation of the internal op `op`.

    `supports(*args)` returns None where it can run these arguments, else the reason why not. `automatic` runs in its
    place where the user names no backend. `composed`: of an op of several layers, that it was measured to be faster
    than those by themselves, so that the automatic choice takes it.
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        if (backend, op) in _TABLE:
            raise ValueError(f"{backend} already implements {op}")
        _TABLE[backend, op] = Implementation(run, supports or (lambda *args: None), automatic or run, composed)
        return run

    return add


def backend_status(backend: str, reason: Callable[[], str | None]) -> None:
    """Register how to find out why `backend` as a whole cannot run here (None: it can)."""
    _UNAVAILABLE[backend] = reason


def unavailable(backend: str) -> str | None:
    """Why `backend` cannot run on this machine, with the remedy; None where it can."""
    check = _UNAVAILABLE.get(backend)
    if check is not None:
        return check()
    if backend == "reference" or ops_of(backend):
        return None
    return f"this version has no {backend} kernels; leave backend=None"


def ops_of(backend: str) -> list[str]:
    """The internal ops that `backend` implements."""
    return sorted(op for name, op in _TABLE if name == backend)


def kind_of(device_type: str) -> str:
    """torch calls AMD's devices "cuda" too; here they are "rocm"."""
    return "rocm" if device_type == "cuda" and torch.version.hip else device_type


def _device_preference(device_type: str) -> tuple[str, ...]:
    return PREFERENCE.get(kind_of(device_type), ("aten",))


def no_cuda_build() -> str | None:
    """Why this torch runs no kernel on an NVIDIA GPU, with the remedy."""
    if torch.version.hip:
        return (
            f"torch {torch.__version__} is built for ROCm, where these kernels are untested; backend='aten' runs there"
        )
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build"
    return None


def choose(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> Callable[..., Any]:
    """The function that runs `op` on these arguments.

    An explicit `backend` either runs or raises BackendUnavailable. The automatic choice (None) takes the first of the
    device's preference that supports the arguments; skipping a faster one for want of an installation or because of a
    Limit warns once, or raises under PGGAN_FAST_STRICT=1.
    """
    if backend is not None:
        return _explicit(op, backend, args)
    for name in _device_preference(device_type):
        found = _TABLE.get((name, op))
        if found is None:
            continue
        reason = unavailable(name)
        if reason is not None:
            _fell_back(name, "", f"{op} runs on a slower backend because {name!r} is unavailable: {reason}")
            continue
        reason = found.supports(*args)
        if reason is None:
            return found.automatic
        if isinstance(reason, Limit):
            _fell_back(name, op, f"{op} runs on a slower backend than {name!r}: {reason}")
    raise BackendUnavailable(f"no backend can run {op} on device {device_type!r} for these arguments")


def _explicit(op: str, backend: str, args: tuple[Any, ...]) -> Callable[..., Any]:
    found = _TABLE.get((backend, op))
    reason = unavailable(backend)
    if reason is None:
        reason = f"it does not implement {op}" if found is None else found.supports(*args)
    if reason is not None or found is None:
        raise BackendUnavailable(f"backend={backend!r} cannot run {op}: {reason}")
    return found.run


def fused(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The function that runs `op` as one kernel on these arguments; None: the caller runs its parts.

    Without a backend's name that of the device's preferred one, where it is `composed`.
    """
    for name in [backend] if backend else _device_preference(device_type)[:1]:
        found = _TABLE.get((name, op))
        if found is None or unavailable(name) is not None or not (backend or found.composed):
            continue
        if found.supports(*args) is None:
            return found.run
    return None


def _fell_back(name: str, cause: str, text: str) -> None:
    """Warn once per backend and cause."""
    message = f"pggan_fast: {text}"
    if settings.strict():
        raise BackendUnavailable(message)
    if (name, cause) not in _WARNED:
        _WARNED.add((name, cause))
        warnings.warn(message, RuntimeWarning, stacklevel=4)
