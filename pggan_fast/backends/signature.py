"""What a choice depends on: the shapes and options of a call, as a key and as the name of a measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pggan_fast.backends import precision
from pggan_fast.backends.layout import is_channels_last, is_wrapped

FEW = 16  # pixels of an image up to which its size stands in the name of a measurement
_PLAIN = frozenset((float, int, bool, str, type(None), torch.dtype))  # by exact type: isinstance takes 0.4 us


def key(args: Sequence[Any]) -> tuple[Any, ...]:
    """Equal for calls that every backend answers in the same way; it holds no tensor."""
    parts: list[Any] = []
    for arg in args:
        if type(arg) in _PLAIN:
            parts.append(arg)
        elif isinstance(arg, Tensor):
            parts += (arg.shape, arg.stride(), arg.dtype, arg.is_neg(), is_wrapped(arg))
        else:
            parts.append(key(arg) if isinstance(arg, tuple) else arg)
    return tuple(parts)


def switches(device_type: str) -> tuple[Any, ...]:
    """The settings of torch that a choice depends on: of float32 products, and the CPU's threads."""
    if device_type == "cuda":
        return precision.conv_fp32(), precision.matmul_fp32()
    return *precision.cpu_settings(), torch.get_num_threads()


def bucket(op: str, names: Sequence[str], args: Sequence[Any], device: torch.device | None = None) -> str:
    """The name of a measurement of `op`: images of close sizes share it, floats do not count.

    `device`: where the tensors would be, if they are on another one.
    """
    x = args[0]
    parts = [op, _short(x.dtype), *_fields(names, args)]
    if reduced_products(x.device if device is None else device, x.dtype):
        parts.append("reduced")
    return " ".join(parts)


def kind(names: Sequence[str], args: Sequence[Any]) -> str:
    """The name of a self-check: exact sizes, and of floats only what takes another way through a kernel."""
    x = args[0]
    return " ".join([*_exact(names, args), *(["reduced"] if reduced_products(x.device, x.dtype) else [])])


def _exact(names: Sequence[str], args: Sequence[Any], prefix: str = "") -> Iterator[str]:
    for name, arg in zip(names, args, strict=True):
        if isinstance(arg, Tensor):
            rows = arg.ndim == 4 and is_channels_last(arg)
            yield f"{prefix}{name}={_short(arg.dtype)}:{'x'.join(map(str, arg.shape))}{':rows' if rows else ''}"
        elif isinstance(arg, tuple):
            yield from _exact(getattr(arg, "_fields", [""] * len(arg)), arg, f"{prefix}{name}.")
        elif isinstance(arg, float):
            if name == "slope":
                yield f"slope={arg if arg in (0.0, 1.0) else 'leaky'}"
        elif arg is not None:
            yield f"{prefix}{name}={_short(arg)}"


def _short(value: Any) -> str:
    return str(value).removeprefix("torch.")


def reduced_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's settings allow products of less than float32 there, as ours make use of."""
    if dtype == torch.float64:
        return False
    return precision.conv_fp32() == "tf32" if device.type == "cuda" else not precision.exact_matmul()


def _fields(names: Sequence[str], args: Sequence[Any], prefix: str = "") -> Iterator[str]:
    for name, arg in zip(names, args, strict=True):
        name = prefix + name
        if isinstance(arg, Tensor):
            yield f"{name}={_tensor(name, arg)}"
        elif isinstance(arg, tuple):
            yield from _fields(getattr(arg, "_fields", [""] * len(arg)), arg, f"{name}.")
        elif isinstance(arg, float):
            if name == "slope":  # None is linear
                yield name
        elif arg is not None:
            yield f"{name}={_short(arg)}"


def is_image(name: str, tensor: Tensor) -> bool:
    """[N, C, H, W], of which the pixels are counted together; weights have a size each."""
    return tensor.ndim == 4 and not name.rpartition(".")[2].startswith("w")


def _tensor(name: str, t: Tensor) -> str:
    dtype = "" if t.dtype == torch.float32 else _short(t.dtype) + ":"
    if not is_image(name, t):
        return dtype + "x".join(map(str, t.shape))
    n, c, h, w = t.shape
    pixels = 1 << max(0, n * h * w - 1).bit_length()  # up to the next power of two
    few = f":{h}x{w}" if h * w <= FEW or min(h, w) == 1 else ""  # which torch and tiles like differently
    return f"{dtype}{c}@{pixels}{few}" + ("" if is_channels_last(t) or h == w == 1 or c == 1 else ":nchw")
