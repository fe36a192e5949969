"""The chain of steps that a module is, read off from recordings at several sizes, batches and in both modes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from pggan_fast.swap.record import Recorder, Refused
from pggan_fast.swap.steps import Call, Guess, Product, Ref, Step, View
from pggan_fast.swap.trial import (
    HOOKS,
    Geometry,
    class_settings,
    contents,
    foreign_random_numbers,
    geometries,
    lively,
    may_compute_weight,
    muted,
    own_attributes,
    own_random_numbers,
    plain,
    undisturbed,
)
from pggan_fast.swap.values import Data, Unknown

NO_INPUT = "takes no input that its parameters' shapes suggest"
LARGE = (32, 64, 128, 256, 512, 1024)
SOON = 3e8  # products per sample
FITS = 5e8  # elements of a tensor within the module, going by a smaller size as if each pixel looked at every other one
Place = tuple[torch.nn.Module, str]


@dataclass
class Reading:
    """Steps, and what they depend on: `modules` that will not be called any more, tensors that were read as numbers.

    `shapes`: inputs (without batch) that were looked at; `limited`: others behave otherwise. `alone`: a
    single sample is no other case.
    """

    steps: tuple[Step, ...]
    modules: list[torch.nn.Module]
    numbers: dict[Place, float]
    shapes: list[Geometry]
    limited: bool = False
    alone: bool = True


class Unreadable(Exception):
    """The module is no chain; the message says why."""


def left_alone(m: torch.nn.Module) -> str | None:
    """Why a module must be called as it is, whatever it computes."""
    kind = type(m)
    if kind.__module__.startswith(("pggan_fast.nn", "pggan_fast.models")):
        return "already pggan_fast"
    if isinstance(m, torch.jit.ScriptModule):
        return "a torch.jit module"
    if kind.__name__ == "OptimizedModule":
        return "compiled by torch.compile: fuse it before"
    if "forward" in vars(m):
        return "its forward was replaced on the instance"
    if parametrize.is_parametrized(m):
        return "has parametrizations"
    if ".quantized" in kind.__module__:
        return "quantised"
    return None


def hooked(m: torch.nn.Module) -> str | None:
    """Hooks that must go on running; those of an equalised learning rate, which only make a weight, need not."""
    for name in HOOKS:
        for hook in list(getattr(m, name).values()):
            kind = type(hook).__name__
            if kind in ("WeightNorm", "SpectralNorm"):
                return f"has {'weight_norm' if kind == 'WeightNorm' else 'spectral_norm'}"
            if name != "_forward_pre_hooks" or not _equalises(m, hook):
                return "has hooks"
    return None


def _equalises(m: torch.nn.Module, hook: Any) -> bool:
    """Whether a pre-hook does nothing but set `name` where a parameter `name`_orig exists."""
    if not may_compute_weight(m, hook):
        return False
    with undisturbed(m), torch.no_grad():
        before = dict(vars(m))
        try:
            result = hook(m, (None,))
        except Exception:  # somebody's hook that wants an input
            return False
        changed = [key for key, value in vars(m).items() if before.get(key) is not value]
    return result is None and bool(changed) and all(f"{key}_orig" in m._parameters for key in changed)


class _NotTaken(Exception):
    """Whatever a module raises for an input that it does not take."""


class _Asking(TorchFunctionMode):
    """Notes whether a tensor that is no parameter is asked for its size: what follows may depend on it."""

    def __init__(self, trial: _Trial) -> None:
        super().__init__()
        self.trial, self.known = trial, set(map(id, trial.state.values()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(getattr(func, "__self__", None), "__name__", "") or getattr(func, "__name__", "")
        if name in ("shape", "size"):
            self.trial.asked |= args[0].ndim == 4 and id(args[0]) not in self.known
        return func(*args, **(kwargs or {}))


class _Trial:
    """One module with tensors that stand in for its parameters and buffers."""

    def __init__(self, module: torch.nn.Module, opaque: dict[torch.nn.Module, str]) -> None:
        self.module, self.opaque = module, opaque
        self.refusals: list[_NotTaken] = []
        self.largest = 1, 0  # pixels of the largest input so far, and elements of the largest tensor that came of it
        self.asked = False  # whether forward has asked for the size of an image
        owners = {
            f"{prefix}.{name}".lstrip("."): (m, name) for prefix, m in module.named_modules() for name in vars_of(m)
        }
        self.state: dict[str, Tensor] = {}
        self.parameters: dict[Ref, Tensor] = {}
        self.constants: dict[int, Place] = {}
        dtype = recording_dtype(module)
        with own_random_numbers(module):
            for name, p in module.named_parameters():
                self.state[name] = lively(p, dtype) if p.is_floating_point() else p.detach().clone()
                self.parameters[Ref(*owners[name])] = self.state[name]
        for name, b in module.named_buffers():
            self.state[name] = b.detach().to(dtype) if b.is_floating_point() else b.detach().clone()
            self.state[name] = self.state[name].clone()
            self.constants[id(self.state[name])] = owners[name]
        for m in module.modules():
            self.constants.update({id(v): (m, k) for k, v in vars(m).items() if isinstance(v, Tensor)})
        self.like = torch.empty(0, dtype=dtype, device=next(iter(self.state.values())).device if self.state else "cpu")

    def attempt(self, geometry: Geometry, n: int, training: bool) -> Reading | Unreadable | None:
        """`record`, or why it is no chain; None where the module does not take this input."""
        try:
            return self.record(geometry, n, training)
        except Unreadable as unreadable:
            return unreadable
        except _NotTaken as error:
            self.refusals.append(error)
            return None

    def record(self, geometry: Geometry, n: int, training: bool) -> Reading:
        """One recording; Unreadable where it is no chain, _NotTaken where the input does not fit."""
        modules: list[torch.nn.Module] = []
        with undisturbed(self.module), muted(self.module), torch.no_grad():
            x = geometry.input(n, self.like)
            for m in self.module.modules():
                m.training = training
            recorder = Recorder(x, self.parameters, self.constants)
            inside = {m for parent in self.opaque for m in parent.modules() if m is not parent}
            for m in self.module.modules():
                if m is not self.module and m not in inside:
                    _watch(m, recorder, modules, self.opaque.get(m))
            before = {m: _state(m) for m in self.module.modules()}
            drawn = foreign_random_numbers()
            try:
                with recorder, _Asking(self):
                    out = torch.func.functional_call(self.module, self.state, (x,))
                self.largest = max(self.largest, (math.prod(geometry.shape[1:]), recorder.largest))
            except Exception as error:
                if isinstance(recorder.fault, Refused):
                    raise Unreadable(str(recorder.fault)) from None
                if recorder.fault is not None:
                    raise Unreadable(f"a defect of this recorder, please report it: {recorder.fault!r}") from error
                raise _NotTaken(str(error)) from error
            if foreign_random_numbers() != drawn:
                recorder.effects.append("draws random numbers of Python or numpy")
            written = [key for m in (self.module, *modules) for key in _written(m, before[m])]
        if not isinstance(out, Tensor):
            raise Unreadable(f"gives {type(out).__name__}, no tensor")
        for effect in (*recorder.effects, *(f"writes its attribute {key}" for key in written)):
            raise Unreadable(effect)
        value = recorder.value(out)
        if isinstance(value, Data):
            owners = [s.weight.owner for s in value.steps if hasattr(s, "weight")]
            covered = dict.fromkeys([self.module, *modules, *owners])
            return Reading(value.steps, list(covered), recorder.numbers, [geometry])
        raise Unreadable(value.reason if isinstance(value, Unknown) else "ends in the middle of a known step")


def _state(m: torch.nn.Module) -> dict[str, Any]:
    """Attributes, settings of the class, and what is in containers and simple objects."""
    inside = {f"{key} (what is in it)": contents(value) for key, value in own_attributes(m).items()}
    return {**class_settings(m), **vars(m), **inside}


def _written(m: torch.nn.Module, before: dict[str, Any]) -> list[str]:
    """Attributes that forward has set, but for the weight of an equalised learning rate."""
    changed = [key for key, value in _state(m).items() if key not in before or not _equal(before[key], value)]
    return [key for key in changed if f"{key}_orig" not in m._parameters]


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and plain(a) and a == b)


def vars_of(m: torch.nn.Module) -> list[str]:
    """Names of a module's own parameters and buffers."""
    return [*m._parameters, *m._buffers]


def recording_dtype(module: torch.nn.Module) -> torch.dtype:
    """float32 for half precision too: what is recognised by its values must not drown in rounding."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return torch.float64 if dtypes == {torch.float64} else torch.float32


def _watch(m: torch.nn.Module, recorder: Recorder, modules: list[torch.nn.Module], opaque: str | None) -> None:
    """Tells the recorder of calls of a child."""
    begun: list[tuple[Tensor | None, Any, int, int, dict[Place, float]]] = []

    def before(m: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        simple = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        x = args[0] if simple else None
        seen = len(modules), len(recorder.effects), dict(recorder.numbers)
        begun.append((x, None if x is None else recorder.value(x), *seen))
        modules.append(m)

    def after(m: torch.nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        x, value, start, effects, numbers = begun.pop()
        if x is not None and recorder.call(m, value, out, opaque):
            del modules[start:], recorder.effects[effects:]
            recorder.numbers = numbers

    m.register_forward_pre_hook(before, with_kwargs=True)
    m.register_forward_hook(after, with_kwargs=True)


def read(module: torch.nn.Module, rank: int) -> Reading:
    """The chain for inputs of a rank, 4 or 2. Raises Unreadable."""
    opaque = {}
    for m in module.modules():
        reason = None if m is module else left_alone(m) or hooked(m)
        if reason is not None:
            opaque[m] = reason
    for _ in range(8):
        trial = _Trial(module, opaque)
        reading = _first(trial, rank)
        more = _agree(trial, reading)
        if more is None:
            return reading
        opaque.update(more)
    raise Unreadable("does different things in training and evaluation")


def _first(trial: _Trial, rank: int) -> Reading:
    """At the first input that it takes and of which it makes a chain."""
    reason, accepted = "", 0
    for geometry in geometries(trial.module, rank):
        found = trial.attempt(geometry, 4, trial.module.training)
        if isinstance(found, Reading):
            return found
        if found is not None:
            reason, accepted = str(found), accepted + 1
        if accepted == 4:
            break
    raise Unreadable(reason or _no_input(trial))


def _no_input(trial: _Trial) -> str:
    """Why nothing could be recorded: what is no matter of shapes tells most."""
    if more := _required(trial.module)[1:]:
        return f"its forward needs {', '.join(more)} too, which is not made up here; its parts are looked at"
    causes = [error.__cause__ for error in trial.refusals]
    telling = [e for e in causes if isinstance(e, (TypeError, AttributeError, NameError, NotImplementedError))]
    if telling:
        return f"raises {type(telling[0]).__name__}: {telling[0]}"
    return NO_INPUT


def _required(m: torch.nn.Module) -> list[str]:
    """The arguments of a module's forward that have no default."""
    try:
        parameters = inspect.signature(m.forward).parameters.values()
    except Exception:  # of no Python function, or of whatever looking it up runs
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def _agree(trial: _Trial, reading: Reading) -> dict[torch.nn.Module, str] | None:
    """Merges recordings in the other mode, at other sizes and batches into the reading.

    Returns modules to be called as they are, since they are steps in one mode and none in the other.
    """
    first = reading.shapes[0]
    batches = [4, 8, 12, 32, 3] if any(isinstance(s, Guess) for s in reading.steps) else [4, 3]
    for training in (trial.module.training, not trial.module.training):
        for n in batches:
            other = trial.attempt(first, n, training)
            if isinstance(other, Unreadable):
                raise Unreadable(f"in {'training' if training else 'eval'} mode, {n} samples: {other}")
            if other is not None and (different := _merge(reading, other)):
                return different
    if not any(isinstance(s, Guess) for s in reading.steps):  # those say nothing of one sample anyhow
        single = trial.attempt(first, 1, trial.module.training)
        reading.alone = single is None or (isinstance(single, Reading) and _fits(reading, single))
    for geometry in _others(trial, reading):
        other = trial.attempt(geometry, 4, trial.module.training)
        if other is None:
            continue
        if isinstance(other, Reading) and _fits(reading, other):
            reading.shapes.append(geometry)
        else:
            reading.limited = True
    reading.steps = tuple(s.candidates[0] if isinstance(s, Guess) else s for s in reading.steps)
    return None


def _others(trial: _Trial, reading: Reading) -> Iterator[Geometry]:
    """Other sizes; large ones where the module asks for sizes, as far as they are soon done; of one pixel only what
    spreads it, since most operations are the same there."""
    (first,) = reading.shapes
    if len(first.shape) != 3:
        return
    spreads = any(isinstance(step, Product) and step.kind == "conv_transpose" for step in reading.steps)
    weights = sum(p.numel() for p in trial.module.parameters() if p.ndim == 4)
    for size in ((8, 8), (4, 4), (4, 8), (2, 2), (16, 16), *(((1, 1),) if spreads else ())):
        if size != first.shape[1:]:
            yield Geometry((first.shape[0], *size))
    for s in LARGE if trial.asked else ():
        pixels, elements = trial.largest
        if weights * s * s > SOON or elements * (s * s / pixels) ** 2 > FITS:
            return
        if (s, s) != first.shape[1:]:
            yield Geometry((first.shape[0], s, s))


def _merge(reading: Reading, other: Reading) -> dict[torch.nn.Module, str]:
    """Narrows the reading by another one. Returns modules that are calls in one of them alone; Unreadable where both
    differ otherwise."""
    calls = [{s.module for s in r.steps if isinstance(s, Call)} for r in (reading, other)]
    if different := calls[0] ^ calls[1]:
        return dict.fromkeys(different, "does different things in training and evaluation, or at other sizes")
    if len(reading.steps) != len(other.steps):
        raise Unreadable("does different things in training and evaluation, or for other batches")
    reading.steps = tuple(_common(a, b) for a, b in zip(reading.steps, other.steps, strict=True))
    return {}


def _fits(reading: Reading, other: Reading) -> bool:
    try:
        return not _merge(reading, other)
    except Unreadable:
        return False


def _common(a: Step, b: Step) -> Step:
    if isinstance(a, Guess) and isinstance(b, Guess):
        both = tuple(c for c in a.candidates if c in b.candidates)
        if both:
            return Guess(both)
    elif isinstance(a, View) and isinstance(b, View) and _flattens(a) and _flattens(b) and a != b:
        return View()
    elif a == b:
        return a
    raise Unreadable(f"does different things in training and evaluation, for other batches or sizes: {a} and {b}")


def _flattens(view: View) -> bool:
    return view.tail is None or len(view.tail) == 1


def attempt(module: torch.nn.Module, rank: int) -> Reading | Unreadable:
    """`read`, with what it raises returned."""
    try:
        return read(module, rank)
    except Unreadable as unreadable:
        return unreadable


def steps_of(module: torch.nn.Module, rank: int = 4) -> tuple[Step, ...]:
    """The steps of a module for inputs of a rank; one Call of it where it is no chain."""
    reason = left_alone(module) or hooked(module)
    found = Unreadable(reason) if reason else attempt(module, rank)
    return found.steps if isinstance(found, Reading) else (Call(module, str(found)),)
