"""Triton's interpreter computes bfloat16 on bit patterns; `apply` makes it compute on values. For tests only.

Up to 3.9 the interpreter holds bfloat16 as numpy uint16. What moves data is right, but a product or tl.dot multiplies
the bit patterns, a comparison orders them, and a cast from float32 truncates where a GPU rounds to nearest even. Here
every arithmetic operation widens its bfloat16 operands to float32 and rounds its result once: for sums, products,
quotients and roots that is the correctly rounded bfloat16 result, since float32 has more than twice its digits. An fma
is rounded twice. Reductions need nothing: tl.sum and tl.max promote to float32 by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

ARITHMETIC = ("binary_op", "unary_op", "ternary_op", "create_fma", "create_rsqrt", "create_erf")


@triton.jit
def probe(a, b, x, cast, product, dot, N: tl.constexpr):
    """What goes wrong, on [N, N] tiles: float32 x to bfloat16, a * b and tl.dot(a, b) of bfloat16."""
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    u, v = tl.load(a + i), tl.load(b + i)
    tl.store(cast + i, tl.load(x + i).to(tl.bfloat16))
    tl.store(product + i, u * v)
    tl.store(dot + i, tl.dot(u, v))


def faults() -> list[str]:
    """Which of "cast", "product" and "dot" the interpreter, as it is now, gets wrong; torch on the CPU is the judge."""
    n, rng = 16, torch.Generator().manual_seed(0)
    x, a, b = (torch.randn(n, n, generator=rng) for _ in range(3))
    a, b = a.bfloat16(), b.bfloat16()
    got = {"cast": torch.empty_like(a), "product": torch.empty_like(a), "dot": torch.empty_like(x)}
    with np.errstate(all="ignore"):
        probe[(1,)](a, b, x, *got.values(), N=n)
    want = {"cast": x.bfloat16(), "product": a * b, "dot": a.float() @ b.float()}
    return [name for name, t in want.items() if not torch.allclose(got[name], t, rtol=1e-5 if name == "dot" else 0.0)]


def apply() -> bool:
    """Patch the interpreter of this process, if it is wrong; says whether it was. A second call changes nothing."""
    if not faults():
        return False
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    for name in ARITHMETIC:
        if hasattr(builder, name):
            setattr(builder, name, by_value(getattr(builder, name), handle))
    builder.create_dot = dot_by_value(builder.create_dot, handle)
    builder.cast_impl = cast_by_value(builder.cast_impl, handle)
    if not hasattr(builder, "get_bf16"):  # a number beside a tensor; Triton 3.6 lacks it
        builder.get_bf16 = lambda self, value: handle(narrow([value]), tl.bfloat16)
    if left := faults():
        raise RuntimeError(f"the patch of Triton {triton.__version__}'s interpreter leaves bfloat16 wrong in {left}")
    return True


def widen(bits: Any) -> Any:
    """uint16 bit patterns to float32 values, exactly."""
    return np.asarray(np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def narrow(values: Any) -> Any:
    """float32 values to uint16 bit patterns, to nearest even; NaN stays NaN."""
    values = np.asarray(values).astype(np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16  # may wrap for NaN only
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded.astype(np.uint16))


def is_bf16(t: Any) -> bool:
    return getattr(t, "dtype", None) is not None and getattr(t.dtype, "scalar", None) == tl.bfloat16


def by_value(original: Callable[..., Any], handle: Any) -> Callable[..., Any]:
    """`original` on float32 values, its result rounded to bfloat16; comparisons stay bool."""

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any) -> Any:
        if np.where in args or not any(map(is_bf16, args)):  # a selection moves bits
            return original(self, *args)
        out = original(self, *(handle(widen(t.data), tl.float32) if is_bf16(t) else t for t in args))
        return handle(out.data, tl.int1) if out.data.dtype == np.bool_ else handle(narrow(out.data), tl.bfloat16)

    return wrapped


def dot_by_value(original: Callable[..., Any], handle: Any) -> Callable[..., Any]:
    """`original` with bfloat16 factors as float32; the sum d keeps its dtype, float32 on every GPU."""

    @functools.wraps(original)
    def wrapped(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (handle(widen(t.data), tl.float32) if is_bf16(t) else t for t in (a, b))
        return original(self, a, b, *rest)

    return wrapped


def cast_by_value(original: Callable[..., Any], handle: Any) -> Callable[..., Any]:
    """`original` with float32 as the step between bfloat16 and everything else."""

    @functools.wraps(original)
    def wrapped(self: Any, src: Any, dst_type: Any) -> Any:
        to_bf16 = dst_type.scalar == tl.bfloat16
        if is_bf16(src) == to_bf16:
            return original(self, src, dst_type)
        if to_bf16:
            return handle(narrow(src.data), tl.bfloat16)
        wide = handle(widen(src.data), tl.float32)
        return wide if dst_type.scalar == tl.float32 else original(self, wide, dst_type)

    return wrapped
