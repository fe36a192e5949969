"""Input checks of the public ops: each error names the argument, what came and what was expected."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from pggan_fast.ops._autocast import HALF, dtype_for

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_KINDS = frozenset((Tensor, torch.nn.Parameter, type(None), bool, int, float, str))
_MOST_SIGNATURES = 4096  # of a check, before it forgets them all


def once(tensors: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run the decorated check of (`tensors` tensors or None, then scalars) once per signature: after it has passed,
    arguments of equal types, shapes, dtypes, layouts, devices and scalars pass by a look into a set.

    Only sound for checks that depend on nothing else. No tensor is kept. While tracing it runs every time: there sizes
    are symbols.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        passed: set[Hashable] = set()

        @functools.wraps(check)
        def run(*args: Any) -> None:
            if torch.compiler.is_compiling():
                return check(*args)
            kinds = tuple(map(type, args))  # True is no 1.0
            parts = [kinds, args[tensors:]]
            try:
                for t in args[:tensors]:
                    if t is not None:
                        parts += t.shape, t.dtype, t.layout, t.device
                signature = tuple(parts)
                if signature in passed:
                    return None
            except (AttributeError, TypeError):  # what is no tensor, or cannot be hashed: a list, a symbolic size
                return check(*args)
            check(*args)
            if _KINDS.issuperset(kinds) and torch._C._get_tracing_state() is None:  # torch.jit's sizes are tensors
                if len(passed) >= _MOST_SIGNATURES:
                    passed.clear()
                passed.add(signature)
            return None

        return run

    return decorate


def tensor(name: str, value: object, ndims: Sequence[int], like: Tensor | None = None) -> None:
    """A floating-point tensor of one of the ranks `ndims`, on the device of `like`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {_short(value.dtype)}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {_short(value.layout)}")
    if value.ndim not in ndims:
        expected = " or ".join(f"{d}-D" for d in ndims)
        raise ValueError(f"{name}: expected a {expected} tensor, got shape {tuple(value.shape)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {value.device}")


def same_dtype(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.dtype != other.dtype:
        raise TypeError(
            f"{name}, {other_name}: expected one dtype, got {_short(value.dtype)} and {_short(other.dtype)}; convert "
            "one with .to(), or run under torch.autocast"
        )


def parameter_dtype(name: str, value: Tensor, x: Tensor, x_name: str = "x") -> None:
    """Weights and biases have x's dtype, or are float32 beside half-precision x. Either may be the one that is off."""
    if value.dtype != x.dtype and not (x.dtype in HALF and value.dtype == torch.float32):
        raise TypeError(
            f"{name}, {x_name}: expected one dtype, or float32 parameters beside half-precision {x_name}, got {name} "
            f"of {_short(value.dtype)} and {x_name} of {_short(x.dtype)}; {_remedy(x_name, x, 'the layer', value)}"
        )


def network_input(name: str, x: Tensor, layer: torch.nn.Module) -> None:
    """The dtype rule for what a network is given, `layer` being its first: errors name the network's own argument.

    A weight that is computed (a parametrization's) is not looked at: computing it may change its state.
    """
    weight = layer._parameters.get("weight")
    if weight is None or x.dtype == weight.dtype or dtype_for(x) is not None:
        return
    if not (x.dtype in HALF and weight.dtype == torch.float32):
        raise TypeError(
            f"{name}: expected {_short(weight.dtype)} as the network's parameters have, got {_short(x.dtype)}; "
            f"{_remedy(name, x, 'the network', weight)}"
        )


def _remedy(name: str, x: Tensor, owner: str, parameter: Tensor) -> str:
    other = _short(x.dtype)
    autocast = ", or run under torch.autocast" if parameter.dtype in HALF and x.dtype != torch.float64 else ""
    return f"convert {name} with .to(torch.{_short(parameter.dtype)}) or {owner} with .to(torch.{other}){autocast}"


def bias(name: str, value: Tensor | None, channels: int, x: Tensor, x_name: str = "x") -> None:
    if value is None:
        return
    tensor(name, value, (1,), x)
    parameter_dtype(name, value, x, x_name)
    if value.shape[0] != channels:
        raise ValueError(f"{name}: expected {channels} elements, one per output channel, got {value.shape[0]}")


def conv_weight(
    name: str, value: Tensor, x: Tensor, x_name: str = "x", sizes: Sequence[int] = (1, 3), source: str | None = None
) -> None:
    """[C, Cin, k, k] with Cin the channels of x and k one of `sizes`. `source`: the argument whose dtype x has got."""
    tensor(name, value, (4,), x)
    parameter_dtype(name, value, x, source or x_name)
    if value.shape[2] != value.shape[3] or value.shape[2] not in sizes:
        wanted = " or ".join(f"{k}x{k}" for k in sizes)
        raise ValueError(f"{name}: expected a {wanted} kernel, got {value.shape[2]}x{value.shape[3]}")
    if value.shape[1] != x.shape[1]:
        raise ValueError(f"{name}: expected {x.shape[1]} input channels as {x_name} has, got {value.shape[1]}")
    if not value.numel():
        raise ValueError(f"{name}: expected at least one input and output channel, got shape {tuple(value.shape)}")


def pixels(name: str, x: Tensor) -> None:
    if not x.shape[2] or not x.shape[3]:
        raise ValueError(f"{name}: expected at least one pixel, got {x.shape[2]}x{x.shape[3]}")


def finite(**scalars: float) -> None:
    for name, value in scalars.items():
        if isinstance(value, (Tensor, bool)) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a Python float, got {type(value).__name__}")
        if not -math.inf < value < math.inf:  # nor NaN; torch.compile cannot trace math.isfinite
            raise ValueError(f"{name}: expected a finite number, got {value}")


def counts(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def epilogue(negative_slope: float | None, pixel_norm: str, eps: float, eps_mode: str) -> None:
    if negative_slope is not None:
        finite(negative_slope=negative_slope)
        if not 0.0 <= negative_slope <= 1.0:
            raise ValueError(f"negative_slope: expected a number in [0, 1] or None (linear), got {negative_slope}")
    one_of("pixel_norm", pixel_norm, ("none", "after_act", "before_act"))
    one_of("eps_mode", eps_mode, ("inside", "outside"))
    finite(eps=eps)
    if eps < 0.0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")


def even(name: str, x: Tensor, why: str) -> None:
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"{name}: {why} needs even height and width, got {x.shape[2]}x{x.shape[3]}")


def alpha(value: float | Tensor, like: Tensor) -> Tensor:
    """The blend weight as a 0-d float32 tensor on the device of `like`; a tensor is used as it is, without a sync."""
    if isinstance(value, Tensor):
        if value.ndim != 0 or not value.is_floating_point():
            raise ValueError(
                f"alpha: expected a 0-d floating-point tensor, got {_short(value.dtype)} {tuple(value.shape)}"
            )
        if value.device != like.device:
            raise ValueError(f"alpha: expected a tensor on {like.device}, got one on {value.device}")
        if value.requires_grad:
            raise ValueError(
                "alpha: expected a tensor without requires_grad, as it is a schedule and no parameter, got one with "
                "it; alpha.detach() has none"
            )
        return value.to(torch.float32).resolve_neg()  # kernels read memory: conj().imag has the sign besides
    if not isinstance(value, (int, float)) or value != value:  # NaN; torch.compile cannot trace math.isnan
        raise ValueError(f"alpha: expected a number or a 0-d tensor, got {value!r}")
    if torch.compiler.is_compiling():  # a product keeps a changing float symbolic: torch.full would compile it in
        return torch.ones((), dtype=torch.float32, device=like.device) * value
    return torch.full((), float(value), dtype=torch.float32, device=like.device)


def _short(value: torch.dtype | torch.layout) -> str:
    return str(value).removeprefix("torch.")
