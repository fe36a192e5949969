"""Who can run an op: one table of (way, op) -> implementation, and the one place that chooses.

An implementation is a plain function on tensors (no autograd) with the arguments of the op's schema less `backend`. A
way is a backend's name, or "aten+cpu": torch's convolution with the epilogue of backend "cpu".
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from pggan_fast import settings
from pggan_fast.backends import launch, recording, signature
from pggan_fast.errors import outside

BACKENDS = ("reference", "aten", "cpu", "triton", "cuda")
# Ways in the order of the static rule, per kind of device. Any other kind ("rocm", "mps", "xpu") has torch's kernels:
# nothing of ours has been tested there. Reference is no choice: it is the specification, not a kernel.
PREFERENCE = {"cpu": ("cpu", "aten+cpu", "aten"), "cuda": ("cuda", "triton", "aten+cuda", "aten+triton", "aten")}
# What a backend's name stands for, where it is more than one way.
NAMED = {"cpu": ("cpu", "aten+cpu")}
UNMEASURED = "it has not been measured to be faster on this device; `pggan-fast tune` does that"
MEMO_SIZE = 4096


class BackendUnavailable(RuntimeError):
    """An explicitly requested backend cannot run; the message carries the reason and the remedy."""


class Limit(str):
    """A reason of `supports` that costs speed: the shape is beyond what the kernels were made for."""


class Excluded(str):
    """A reason why a whole backend is not there that no installation changes: nobody misses it."""


class Distrust(str):
    """A reason of the self-check: the kernel is wrong on this device."""


class Implementation(NamedTuple):
    run: Callable[..., Any]
    supports: Callable[..., str | None]
    rule: Callable[..., str | None]  # why the automatic choice leaves it alone where nothing was measured
    plan: Callable[..., Callable[..., Any]] | None = None

    def planned(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        """`run`, or what does the same for calls of this signature with less work on the host."""
        return self.run if self.plan is None else self.plan(*args)


class Candidate(NamedTuple):
    """One way for one call; `reason`: why it cannot run it. Where the call was measured: its seconds, and if it won."""

    way: str
    found: Implementation
    reason: str | None
    seconds: float | None
    best: bool


class Chosen(NamedTuple):
    """What a choice came to."""

    run: Callable[..., Any]
    way: str


class _Watched(dict[Any, Any]):
    """A table whose changes make all choices anew."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        forget()

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        forget()


_memo: dict[Any, Any] = {}
again: dict[Any, Callable[..., Any]] = {}  # what ops/_again.py has learned
_ASK: Any = object()  # no choice has been made
_TABLE: dict[tuple[str, str], Implementation] = _Watched()
_NAMES: dict[str, list[str]] = {}
_UNAVAILABLE: dict[str, Callable[[], str | None]] = _Watched()
# Ways that make both gradients of a convolution at once, of (x, dy, weight, scale, resample): what does it for such
# arguments, or None
TOGETHER: dict[str, Callable[..., Callable[..., tuple[Any, Any]] | None]] = {}
Gradients = tuple["torch.Tensor | None", "torch.Tensor | None", "torch.Tensor | None"]  # of x, weight and bias
# Ways of a layer's epilogue and convolution whose gradients are made at once, of what these take: what does it for such
# arguments, or None
LAYER_BACKWARD: dict[tuple[str, str | None], Callable[..., Callable[..., Gradients] | None]] = {}
# Ops of several layers -> what runs them one by one: the arguments and `backend`
PARTS: dict[str, Callable[..., Any]] = {}
_WARNED: set[tuple[str, str]] = set()


def implement(
    way: str,
    op: str,
    *,
    supports: Callable[..., str | None] | None = None,
    rule: Callable[..., str | None] | None = None,
    plan: Callable[..., Callable[..., Any]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the implementation of the internal op `op` by `way`.

    `supports(*args)` returns None where it can run these arguments, else the reason why not. `rule(*args)`, of a way
    that is not always the fastest, returns None where the automatic choice takes it unmeasured, else why it does not.
    `plan(*args)` returns a function that does what the decorated one does for all arguments of the same shapes,
    strides, types and options, and that keeps none of these tensors.
    """

    def add(run: Callable[..., Any]) -> Callable[..., Any]:
        if (way, op) in _TABLE:
            raise ValueError(f"op: expected one that {way} does not implement yet, got {op!r}, which it does")
        _TABLE[way, op] = Implementation(run, supports or _nothing_against, rule or _nothing_against, plan)
        parameters = inspect.signature(run).parameters.values()
        if all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters):
            _NAMES.setdefault(op, [p.name for p in parameters])
        return run

    return add


def _nothing_against(*args: Any) -> None:
    return None


def unmeasured(*args: Any) -> str | None:
    """The rule of kernels that run by themselves only where they were measured to be faster."""
    return UNMEASURED


def backend_status(backend: str, reason: Callable[[], str | None]) -> None:
    """Register how to find out why `backend` as a whole cannot run here (None: it can)."""
    _UNAVAILABLE[backend] = reason


def unavailable(way: str) -> str | None:
    """Why `way` cannot run on this machine, with the remedy; None where it can."""
    backend = way.rpartition("+")[2]
    check = _UNAVAILABLE.get(backend)
    if check is not None:
        return check()
    if backend == "reference" or ops_of(backend):
        return None
    return f"this version has no {backend} kernels; leave backend=None"


def ops_of(way: str) -> list[str]:
    """The internal ops that `way` implements."""
    return sorted(op for name, op in _TABLE if name == way)


def ways_of(op: str) -> list[str]:
    """The ways that implement an internal op."""
    return [way for way, name in _TABLE if name == op]


def names_of(op: str) -> list[str]:
    """The names of an internal op's arguments."""
    return _NAMES[op]


def kind_of(device_type: str) -> str:
    """torch calls AMD's devices "cuda" too; here they are "rocm"."""
    return "rocm" if device_type == "cuda" and torch.version.hip else device_type


def ways_for(backend: str | None, device_type: str) -> tuple[str, ...]:
    if backend is not None:
        return NAMED.get(backend, (backend,))
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


def choose(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> Chosen:
    """What runs `op` on these arguments.

    An explicit `backend` either runs or raises BackendUnavailable. The automatic choice (None) takes the way that was
    measured to be fastest on the device, else the first of the device's preference whose rule takes the arguments, and
    only ways that have agreed with the reference here. Leaving out a faster one for want of an installation, because of
    a Limit or of a failed check warns once, or raises under PGGAN_FAST_STRICT=1.
    """
    if recording.recorders:
        recording.record(op, backend, args)
    key = _key(op, backend, device_type, args)
    found: Chosen | None = _memo.get(key)
    if found is None:
        found, final = _choose(op, backend, device_type, args)
        _keep(key, found, final)
    return found


def known(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> Chosen | None:
    """What `choose` decided for such arguments; None where it has to look again."""
    found: Chosen | None = _memo.get(_key(op, backend, device_type, args))
    return found


def _keep(key: Any, found: Any, final: bool) -> None:
    """A fallback is looked at again: its warning may become an error."""
    if final:
        if len(_memo) >= MEMO_SIZE:
            _memo.clear()
        _memo[key] = found


def _key(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    described = launch.signature(args) or signature.key(args)
    return op, backend, device_type, args[0].device, described, signature.switches(device_type)


def _choose(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> tuple[Chosen, bool]:
    if backend is not None:
        return _explicit(op, backend, device_type, args), True
    final = True
    for candidate in ranked(op, None, device_type, args):
        if candidate.reason is None:
            candidate = candidate._replace(reason=_distrust(candidate, op, args))
        if candidate.reason is None:
            return Chosen(candidate.found.planned(args), candidate.way), final
        if _costs_speed(candidate, args):
            final = False
            _fell_back(candidate, op)
    raise BackendUnavailable(f"no backend can run {op} on device {device_type!r} for these arguments")


def _explicit(op: str, backend: str, device_type: str, args: tuple[Any, ...]) -> Chosen:
    candidates = ranked(op, backend, device_type, args)
    chosen = next((c for c in candidates if c.reason is None), None)
    if chosen is not None:
        return Chosen(chosen.found.planned(args), chosen.way)
    reason = unavailable(backend) or (candidates[0].reason if candidates else f"it does not implement {op}")
    raise BackendUnavailable(f"backend={backend!r} cannot run {op}: {reason}")


def ranked(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> list[Candidate]:
    """The ways that implement `op`, the one to take first: by measured seconds where there are any, then by the rule.

    A way that the rule leaves alone comes last: it runs where nothing else can.
    """
    ways = [way for way in ways_for(backend, device_type) if (way, op) in _TABLE]
    entry = measured(op, args) if len(ways) > 1 or op in PARTS else None
    known = entry is not None and ((entry["best"], op) in _TABLE or (entry["best"] == "parts" and op in PARTS))
    seconds, best = (entry["seconds"], entry["best"]) if entry is not None and known else ({}, None)
    candidates = []
    for way in ways:
        found = _TABLE[way, op]
        reason = unavailable(way)
        reason = found.supports(*args) if reason is None else reason
        candidates.append(Candidate(way, found, reason, seconds.get(way), way == best))
    return sorted(candidates, key=lambda c: _rank(c, args))


def _rank(candidate: Candidate, args: tuple[Any, ...]) -> tuple[int, float]:
    if candidate.seconds is not None:
        return (0 if candidate.best else 1), candidate.seconds
    if _cannot(candidate):
        return 4, 0.0
    return (2 if candidate.found.rule(*args) is None else 3), 0.0


def measured(op: str, args: tuple[Any, ...]) -> dict[str, Any] | None:
    """What `tune` found for calls like this one: {"best": way, "seconds": {way: s}}; None where it was not asked."""
    from pggan_fast.backends import tables

    ways = tables.table(args[0].device)["ways"]
    found: dict[str, Any] | None = ways.get(signature.bucket(op, names_of(op), args)) if ways else None
    return found


def _distrust(candidate: Candidate, op: str, args: tuple[Any, ...]) -> str | None:
    from pggan_fast.backends import selfcheck

    if candidate.way == "aten":
        return None
    reason = selfcheck.failure(candidate.way, op, candidate.found.run, args)
    return None if reason is None else Distrust(reason)


def _costs_speed(candidate: Candidate, args: tuple[Any, ...]) -> bool:
    """Whether a way that is left out would have been taken: missing, failed or beyond its limit."""
    return not _cannot(candidate) and (candidate.seconds is not None or candidate.found.rule(*args) is None)


def _cannot(candidate: Candidate) -> bool:
    """Whether a way has nothing for such calls, here or elsewhere: nobody misses it."""
    if isinstance(candidate.reason, Excluded):
        return True
    by_design = candidate.reason is not None and not isinstance(candidate.reason, (Limit, Distrust))
    return by_design and unavailable(candidate.way) is None


def fused(
    op: str, backend: str | None, device_type: str, args: tuple[Any, ...]
) -> tuple[Callable[..., Any] | None, bool]:
    """(the function that runs `op`, an op of several layers, as one kernel, None: the caller runs its parts; whether
    that stands for such calls)."""
    if recording.recorders:
        recording.record(op, backend, args)
    key = _key(op, backend, device_type, args)
    found: Callable[..., Any] | None = _memo.get(key, _ASK)
    if found is not _ASK:
        return found, True
    found, final = _fused(op, backend, device_type, args)
    _keep(key, found, final)
    return found, final


def _fused(
    op: str, backend: str | None, device_type: str, args: tuple[Any, ...]
) -> tuple[Callable[..., Any] | None, bool]:
    final = True
    for candidate in ranked(op, backend, device_type, args):
        if candidate.reason is None and backend is not None:
            return candidate.found.planned(args), True
        if candidate.reason is None and _beats_parts(candidate, args):
            candidate = candidate._replace(reason=_distrust(candidate, op, args))
            if candidate.reason is None:
                return candidate.found.planned(args), final
            final = False
            _fell_back(candidate, op)
    return None, final


def _beats_parts(candidate: Candidate, args: tuple[Any, ...]) -> bool:
    return candidate.found.rule(*args) is None if candidate.seconds is None else candidate.best


def _fell_back(candidate: Candidate, op: str) -> None:
    """Warn once per way and cause."""
    name = candidate.way.rpartition("+")[2]
    missing = unavailable(name) is not None
    why = f"{op} runs on a slower backend " + (f"because {name!r} is unavailable" if missing else f"than {name!r}")
    message = f"pggan_fast: {why}: {candidate.reason}"
    if settings.strict():
        raise BackendUnavailable(f"{message} (an error under PGGAN_FAST_STRICT=1)")
    cause = name, "" if missing else op
    if cause not in _WARNED:
        _WARNED.add(cause)
        warnings.warn(message, RuntimeWarning, stacklevel=outside())


def forget() -> None:
    """Make all choices anew: tables were tuned, or an instruction set was chosen."""
    _memo.clear()
    again.clear()


def reasons(op: str, backend: str | None, device_type: str, args: tuple[Any, ...]) -> Iterator[tuple[str, str | None]]:
    """(way, why it does not run) of every way, the chosen one with None; of an op of several layers maybe none is."""
    taken = False
    for candidate in ranked(op, backend, device_type, args):
        reason = candidate.reason
        if reason is None and taken:
            reason = _slower(candidate, args)
        elif reason is None and backend is None:
            reason = _distrust(candidate, op, args)
            if reason is None and op in PARTS and not _beats_parts(candidate, args):
                reason = _slower(candidate, args)
        taken = taken or reason is None
        yield candidate.way, reason


def _slower(candidate: Candidate, args: tuple[Any, ...]) -> str:
    if candidate.seconds is not None:
        return f"it was measured to be slower: {candidate.seconds * 1e6:.0f} us"
    return candidate.found.rule(*args) or "the static rule prefers the way above"
