"""Whether a kernel agrees with the reference on this very device: asked once per kind of call, before it is trusted.

The call is repeated in small, on random numbers: its channels, dtypes, memory formats and options, few pixels, and
scales that keep every result within its dtype. The oracle is "aten" in float64 on the CPU, plain torch operations that
equal reference.py in float64 (tests/ops); a result may be twice as far from it as torch's own in the call's dtype.
Verdicts are kept in the device's table (tables.py), for the build of the kernels that they were found with; a failure
is looked at again in the next process.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pggan_fast.backends import layout, recording, registry, signature, tables

SEED = 20171027
MOST_HEIGHT, MOST_WIDTH = 12, 20  # of the first image: several tiles, and no square
WIDE = 256  # channels from which on a quarter of the pixels will do
# Roundings that a result may be off, on the scale of the largest, beside twice torch's own error. Of 9216 products the
# transforms of large tiles make up to ten; in float64 torch's is the oracle.
ROUNDINGS = {torch.float64: 64.0, torch.float32: 32.0, torch.float16: 4.0, torch.bfloat16: 2.0}
REDUCED = 2.0**-10  # a rounding of float32 products where torch's settings allow TF32 and its like
TURNED_BITS = 0.01  # of a mask, of numbers that a rounding brings to the other side of zero

# What a call's floats are checked by: its own could hide a fault, or a result
SCALES = {"bias_scale": 0.6, "eps": 1e-2}
SCALE, SLOPE = 0.7, 0.2
_lock = threading.RLock()
_failed: dict[tuple[torch.device, str], str] = {}


class Verdict(NamedTuple):
    """The largest error of the floating-point results, on the scale of each, and what was allowed."""

    error: float
    limit: float
    reason: str | None  # None: it agrees


def failure(way: str, op: str, run: Callable[..., Any], args: tuple[Any, ...]) -> str | None:
    """Why `way` may not run this kind of call here; None where it agreed with the reference, now or before.

    Raises RuntimeError in the capture of a CUDA graph, where nothing can be checked.
    """
    device = args[0].device
    small = proxy(op, args)
    name = f"{way} {op} {signature.kind(registry.names_of(op), small)}"
    if (answer := _known(way, device, name)) is not None:
        return answer or None
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"pggan_fast: a CUDA graph is being captured, and {way!r} has not been checked for {op} of this kind; call "
            "pggan_fast.warm_up(function, *inputs) before the capture"
        )
    with _lock:
        if (answer := _known(way, device, name)) is not None:  # another thread has asked meanwhile
            return answer or None
        verdict = check(op, run, small)
        if verdict.reason is None:
            entry = {"build": build(way), "error": verdict.error, "limit": verdict.limit}
            tables.remember(device, "checks", {name: entry})
            return None
        reason = f"its self-check on this device failed: {verdict.reason}"
        _failed[device, name] = reason
    return reason


def _known(way: str, device: torch.device, name: str) -> str | None:
    """The verdict, "" where it agreed; None where nobody has asked."""
    entry = tables.table(device)["checks"].get(name)
    return "" if entry is not None and entry["build"] == build(way) else _failed.get((device, name))


def check(op: str, run: Callable[..., Any], args: tuple[Any, ...]) -> Verdict:
    """Compare `run` with the oracle on random numbers in the place of `args`."""
    device = args[0].device
    rng = torch.Generator().manual_seed(SEED)
    plainly = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), plainly, torch.device("cpu"), recording.unrecorded():
        numbers = tuple(_drawn(name, arg, rng) for name, arg in zip(registry.names_of(op), args, strict=True))
        parts = registry.PARTS.get(op)
        oracle = functools.partial(parts, backend="aten") if parts else registry._TABLE["aten", op].run
        try:
            results = _outputs(run(*_moved(numbers, device)))
        except Exception as error:  # a kernel that does not compile or launch is no kernel
            return Verdict(math.inf, 0.0, f"{type(error).__name__}: {error}")
        plain = _outputs(oracle(*_moved(numbers, device)))
        exact = _outputs(oracle(*_widened(numbers)))
    unit = rounding(device, args[0].dtype)
    return worst([compared(*result, unit) for result in zip(results, plain, exact, strict=True)])


def rounding(device: torch.device, dtype: torch.dtype) -> float:
    """Of products where torch's settings allow less than `dtype` has; else 0."""
    return REDUCED if signature.reduced_products(device, dtype) else 0.0


def worst(verdicts: list[Verdict]) -> Verdict:
    """The one that fails, or has come nearest to it."""
    return max(verdicts, key=lambda v: (v.reason is not None, v.error / v.limit if v.limit else 0.0))


def _outputs(result: Any) -> list[Tensor | None]:
    return list(result) if isinstance(result, tuple) else [result]


def compared(got: Tensor | None, plain: Tensor | None, exact: Tensor | None, unit: float = 0.0) -> Verdict:
    """One result: `got`, plain PyTorch's of the same dtype, and the exact one; `unit` is a rounding, if not dtype's."""
    if got is None or plain is None or exact is None:
        same = got is None and plain is None
        return Verdict(0.0, 1.0, None if same else "it returns other tensors than the reference")
    if (got.shape, got.dtype, _order(got)) != (plain.shape, plain.dtype, _order(plain)):
        return Verdict(math.inf, 0.0, f"a result is {_form(got)}, expected {_form(plain)}")
    if not got.is_floating_point():
        turned = float((got ^ plain).ne(0).double().mean()) if got.numel() else 0.0
        reason = None if turned <= TURNED_BITS else f"{turned:.1%} of a mask's bytes are wrong"
        return Verdict(turned, TURNED_BITS, reason)
    if not got.numel() or not exact.isfinite().all() or not plain.isfinite().all():
        return Verdict(0.0, 0.0, "the reference has no finite result to compare with")
    unit = max(unit, torch.finfo(got.dtype).eps)
    largest = max(float(exact.abs().max()), torch.finfo(got.dtype).tiny)
    error, torchs = (float((t.cpu().double() - exact).abs().max()) / largest for t in (got, plain))
    limit = 2.0 * torchs + ROUNDINGS[got.dtype] * unit
    reason = None if error <= limit else f"a result is off by {error:.2g} of the largest, {limit:.2g} is allowed"
    return Verdict(error, limit, reason)  # NaN is no less than anything


def _order(t: Tensor) -> list[int]:
    """The strides that count: a size of 1 may have any."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


def _form(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)} of strides {t.stride()}"


# The call in small


def proxy(op: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`args` with empty tensors of fewer pixels and samples in their place; sizes keep their ratios and parities."""
    names = registry.names_of(op)
    first = next(t for t in args if isinstance(t, Tensor))
    n, c, h, w = first.shape
    part = 2 if max(_widths(args), default=c) >= WIDE else 1
    height, width = _fewer(h, MOST_HEIGHT // part), _fewer(w, MOST_WIDTH // part)
    group = args[names.index("group")] if "group" in names else 0
    samples = min(n or group, 2 * group) if group else min(max(n, 1), 2)

    def smaller(name: str, arg: Any) -> Any:
        if isinstance(arg, tuple):
            fields = getattr(arg, "_fields", None)
            values = [smaller(field, value) for field, value in zip(fields or [""] * len(arg), arg, strict=True)]
            return type(arg)(*values) if fields else tuple(values)
        if not isinstance(arg, Tensor):
            return arg
        if not signature.is_image(name, arg):
            return arg.new_empty(arg.shape)
        shape = samples, arg.shape[1], height * arg.shape[2] // h, width * arg.shape[3] // w
        return layout.empty(shape, arg, layout.is_channels_last(arg))

    return tuple(smaller(name, arg) for name, arg in zip(names, args, strict=True))


def _widths(args: tuple[Any, ...]) -> list[int]:
    """Channels of all images and weights."""
    found = []
    for arg in args:
        if isinstance(arg, tuple):
            found += _widths(arg)
        elif isinstance(arg, Tensor) and arg.ndim == 4:
            found.append(arg.shape[1])
    return found


def _fewer(size: int, most: int) -> int:
    return size if size <= most else most - (most - size) % 2


def _drawn(name: str, arg: Any, rng: torch.Generator) -> Any:
    """Random numbers in the form of a tensor, on the CPU: factors of a norm are positive, alpha is between its ends."""
    if isinstance(arg, tuple):
        fields = getattr(arg, "_fields", None)
        values = [_drawn(field, value, rng) for field, value in zip(fields or [""] * len(arg), arg, strict=True)]
        return type(arg)(*values) if fields else tuple(values)
    if isinstance(arg, float) and name == "slope":
        return arg if arg in (0.0, 1.0) else SLOPE
    if isinstance(arg, float):
        return SCALES.get(name, SCALE)
    if not isinstance(arg, Tensor):
        return arg
    form = layout.memory_format(arg.ndim == 4 and layout.is_channels_last(arg))
    if not arg.is_floating_point():
        return torch.randint(256, arg.shape, generator=rng, dtype=arg.dtype).contiguous(memory_format=form)
    if name == "alpha":
        return torch.full((), 0.375, dtype=arg.dtype)
    numbers = torch.rand(arg.shape, generator=rng) + 0.5 if name == "r" else torch.randn(arg.shape, generator=rng)
    return numbers.to(arg.dtype).contiguous(memory_format=form)


def mapped(
    args: Any, tensor: Callable[[Tensor], Any], dtype: Callable[[torch.dtype], torch.dtype] = lambda d: d
) -> Any:
    """Arguments of an op with every tensor and dtype replaced, those of its layers too."""
    if isinstance(args, Tensor):
        return tensor(args)
    if isinstance(args, torch.dtype):
        return dtype(args)
    if isinstance(args, tuple):
        values = [mapped(value, tensor, dtype) for value in args]
        return type(args)(*values) if hasattr(args, "_fields") else tuple(values)
    return args


def _moved(args: Any, device: torch.device) -> Any:
    return mapped(args, lambda t: t.to(device))


def _widened(args: Any) -> Any:
    return mapped(args, lambda t: t.double() if t.is_floating_point() else t, lambda d: torch.float64)


@functools.cache
def build(way: str) -> str:
    """The build of a way's kernels: others have to be checked anew."""
    from pggan_fast.backends import cpu, cuda

    backend = way.rpartition("+")[2]
    module = {"cpu": cpu.native, "cuda": cuda.native}.get(backend)
    if backend == "triton":
        from pggan_fast import kernels

        files = sorted(Path(str(kernels.__file__)).parent.glob("*.py"))
    else:
        files = [Path(module.__file__)] if module is not None else []
    parts = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def forget() -> None:
    """Check what failed again."""
    _failed.clear()


def _renew_lock() -> None:
    """In a forked child: the thread that held it is not there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
