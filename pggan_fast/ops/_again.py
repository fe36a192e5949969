"""Calls like an earlier one: from their signature straight to what runs, past the checks and the choice it passed.

A narrow layer's arithmetic takes a few microseconds on the host; looking at its arguments three times over took more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad

from pggan_fast.backends import forced, launch, recording, registry, signature
from pggan_fast.backends.frozen import any_frozen
from pggan_fast.backends.layout import is_wrapped
from pggan_fast.ops import _register

_PLAIN = _register.PLAIN
_MOST = 4096  # signatures, before all are forgotten
_dispatch_modes, _transforms_active = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active
_any_autocast, _tracing = torch._C._is_any_autocast_enabled, torch._C._get_tracing_state


class Again:
    """The calls of one function, by what its arguments are: `tensors` tensors or None, then scalars, and a backend.

    Only plain eager calls count: nothing traced, transformed, intercepted, recorded or under autocast.
    """

    def __init__(self, name: str, tensors: int) -> None:
        self._name, self._tensors = name, tensors

    def find(self, args: tuple[Any, ...], backend: str | None) -> Callable[..., Any] | None:
        """What has been learned for such a call."""
        if torch.compiler.is_compiling():
            return None
        return self._find(args, backend)

    def _find(self, args: tuple[Any, ...], backend: str | None) -> Callable[..., Any] | None:
        """The same outside of a compiler."""
        if _intercepted() or (any_frozen() and torch.is_grad_enabled()):
            return None
        try:
            return registry.again.get(self._key(args, backend))
        except (TypeError, AttributeError):  # no tensor, or a list or whatever else has no hash and is no argument
            return None

    def learn(self, args: tuple[Any, ...], backend: str | None, run: Callable[..., Any] | None) -> None:
        """Calls of this signature have passed the checks, and go to `run`; None: they do not."""
        if run is None or _intercepted():
            return
        key = self._key(args, backend)
        if key is not None:
            if len(registry.again) >= _MOST:
                registry.again.clear()
            registry.again[key] = run

    def _key(self, args: tuple[Any, ...], backend: str | None) -> Any:
        described = launch.signature(args)
        if described is not None:
            return self._name, backend, described, signature.switches(_kind(args[0]))
        parts: list[Any] = [self._name, backend]
        for t in args[: self._tensors]:
            if t is None:
                parts.append(None)
            elif type(t) in _PLAIN and not is_wrapped(t):
                parts += t.shape, t.stride(), t.dtype, t.device, t.is_neg()
            else:
                return None
        scalars = args[self._tensors :]
        return *parts, scalars, *map(type, scalars), *signature.switches(_kind(args[0]))  # True is no 1.0


class AgainOp(Again):
    """The calls of a public op, of which each is one call of a registered op."""

    def __init__(self, name: str, registered: str, tensors: int) -> None:
        super().__init__(name, tensors)
        self._registered = registered

    def __call__(self, args: tuple[Any, ...], backend: str | None) -> Any:
        """The registered op's result on the public op's own arguments, if such a call has been learned; else None."""
        if torch.compiler.is_compiling():
            return None
        named = forced.named(backend)
        run = self._find(args, named)
        return None if run is None else self.call(run, args, named)

    def call(self, run: Callable[..., Any], args: tuple[Any, ...], named: str) -> Any:
        """The registered op's result by what was found."""
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args[: self._tensors]):
            return _register.eager(self._registered)(*args, named, run)
        return run(*args)

    def learn_choice(self, args: tuple[Any, ...], registered_args: tuple[Any, ...], backend: str) -> None:
        """A call with `args` was one of the registered op with `registered_args`: what was chosen for it stands."""
        if torch.compiler.is_compiling():
            return
        chosen = known(self._registered, registered_args, backend)
        self.learn(args, backend, None if chosen is None else chosen.run)


def known(name: str, args: tuple[Any, ...], backend: str) -> registry.Chosen | None:
    """What was chosen for the registered op on such arguments; None where the choice is to be made anew."""
    return registry.known(name, backend or None, _kind(args[0]), args)


def _intercepted() -> bool:
    return bool(
        _dispatch_modes() > 0
        or _any_autocast()
        or _transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or _tracing() is not None
        or recording.recorders
    )


def _kind(x: torch.Tensor) -> str:
    return "cpu" if x.is_cpu else x.device.type
