"""The memory-format rule that every kernel and every fake shares, and the one allocator of outputs.

A tensor with C == 1 or H == W == 1 has both formats at once; such shapes count as contiguous, so that strides never
depend on how a tensor came to be. A tensor in neither format (sliced, expanded) becomes channels_last, the fast one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pggan_fast.backends.launch import LARGE_PAGE, use_large_pages

is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether results derived from `x` [N, C, H, W] are channels_last."""
    return not bool(x.is_contiguous())


def memory_format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def empty(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised output on the device of `like`; tests poison it with NaN to find unwritten elements."""
    if channels_last and (shape[1] == 1 or (shape[2] == 1 and shape[3] == 1)):  # ambiguous
        channels_last = False
    t = torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format(channels_last))
    if type(t) is Tensor and t.is_cpu:
        use_large_pages(t)
    return t


class Output(NamedTuple):
    """Of a kind of outputs, all that allocating one takes: see `output` and `allocate`."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    large: bool  # whether large pages pay


def output(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Output:
    """What `empty` allocates for these arguments, to be allocated many times."""
    dtype = dtype or like.dtype
    _, c, h, w = shape
    large = like.is_cpu and math.prod(shape) * dtype.itemsize >= 2 * LARGE_PAGE
    return Output(tuple(shape), _strides(c, h, w, channels_last), dtype, large)


def allocate(kind: Output, like: Tensor) -> Tensor:
    """An uninitialised output on the device of `like`, in half the time of `empty`."""
    t = (
        like.new_empty_strided(kind.shape, kind.strides)
        if kind.dtype is like.dtype
        else like.new_empty_strided(kind.shape, kind.strides, dtype=kind.dtype)
    )
    if kind.large:
        use_large_pages(t)
    return t


def _strides(c: int, h: int, w: int, channels_last: bool) -> tuple[int, int, int, int]:
    if channels_last and c != 1 and not h == w == 1:  # else ambiguous
        return h * w * c, 1, w * c, c
    return c * h * w, h * w, w, 1


def dense(x: Tensor, channels_last: bool) -> Tensor:
    """`x` dense in the given format; a copy only where it is not already."""
    return x.contiguous(memory_format=memory_format(channels_last))


def channels_last(x: Tensor) -> Tensor:
    """`x` dense in channels_last; under torch.func as it is: vmap knows no formats, and nothing fast runs there."""
    return x if torch._C._are_functorch_transforms_active() else dense(x, True)


def is_dense(x: Tensor, channels_last: bool) -> bool:
    """Whether `dense` gives x itself."""
    return x.is_contiguous(memory_format=memory_format(channels_last))


def is_ready(parameter: Tensor | None) -> bool:
    """Whether `contiguous` gives the parameter itself, and that has memory: torch.func's wrappers have none."""
    if parameter is None:
        return True
    return parameter.is_contiguous() and not parameter.is_neg() and not is_wrapped(parameter)


def contiguous(parameter: Tensor | None) -> Tensor | None:
    """An optional weight or bias, plainly contiguous."""
    return None if parameter is None else parameter.contiguous().resolve_neg()


def output_shape(x: Tensor, weight: Tensor, resample: str, adjoint: bool) -> tuple[int, int, int, int]:
    """Of a resampling convolution of x, or with `adjoint` of its flipped transpose."""
    n, _, h, w = x.shape
    c = weight.shape[1] if adjoint else weight.shape[0]
    if resample == "up":
        return n, c, 2 * h, 2 * w
    if resample == "down":
        return n, c, h // 2, w // 2
    return n, c, h, w


def conform(y: Tensor, like: Tensor) -> Tensor:
    """`y` with the strides promised for results of `like`: itself where it has them, else a copy."""
    _, c, h, w = y.shape
    channels_last = is_channels_last(like)
    strides = _strides(c, h, w, channels_last)
    if y.stride() == strides:
        return y
    if not torch.compiler.is_compiling() and y.nbytes < 2 * LARGE_PAGE:  # half the time of the two calls below
        copy = dense(y, channels_last)
        if copy.stride() == strides:  # it takes any strides of a size of 1
            return copy
    return empty(y.shape, y, channels_last).copy_(y)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and sums: float32 at least."""
    return torch.float64 if dtype == torch.float64 else torch.float32
