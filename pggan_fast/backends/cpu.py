"""Backend "cpu": the native kernels of csrc/cpu, one pass over memory each.

Arguments and results are those of the ops' schemas (pggan_fast/ops). Kernels run on torch's own thread pool; sums are
formed in fixed pieces, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pggan_fast import settings
from pggan_fast.backends.launch import launch
from pggan_fast.backends.layout import accumulator, contiguous, dense, empty, is_channels_last
from pggan_fast.backends.registry import Limit, backend_status, implement

native: Any = None
_missing: str | None = None
try:
    from pggan_fast import _cpu as native  # type: ignore[attr-defined, no-redef, unused-ignore]
except ImportError as error:
    _missing = str(error)

# The codes of csrc/cpu/kernels.h
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
_NORMS = {"none": 0, "after_act": 1, "before_act": 2}
_MAX_IMAGE_CHANNELS = 4


def build_report() -> dict[str, Any]:
    """What the build recorded, per native module: {"_cpu": {"built": bool, "reason": str where not}, ...}."""
    path = Path(__file__).resolve().parent.parent / "_build.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return report


def why_missing() -> str | None:
    """Why the native kernels cannot be used, with the remedy; None where they can."""
    if native is not None:
        return _bad_isa
    reason = build_report().get("_cpu", {}).get("reason") or _missing
    return f"the native module pggan_fast._cpu is missing ({reason}); install a C++17 compiler and reinstall pggan_fast"


def use_torch_threads() -> str | None:
    """Let the kernels run on torch's thread pool; returns the reason where they have to run serially."""
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"), None)
    try:
        function = ctypes.CDLL(str(library)).torch_parallel_for
    except (OSError, AttributeError) as error:
        native.set_parallel_for(0)
        return f"CPU kernels run on one thread: torch {torch.__version__} has no torch_parallel_for ({error})"
    native.set_parallel_for(ctypes.cast(function, ctypes.c_void_p).value)
    return None


def describe() -> dict[str, Any]:
    """For `pggan-fast info`: the instruction set in use, those that can run here, and why loops are serial if so."""
    if native is None:
        return {"missing": why_missing()}
    return {"isa": native.isa(), "isas": native.isas(), "serial": serial_reason}


def set_isa(name: str) -> None:
    """Use the kernels compiled for one instruction set; ValueError names those that can run here."""
    native.set_isa(name)


backend_status("cpu", why_missing)
serial_reason: str | None = None
_bad_isa: str | None = None
if native is not None:
    serial_reason = use_torch_threads()
    if (wanted := settings.cpu_isa()) is not None:
        try:
            set_isa(wanted)
        except ValueError as error:
            _bad_isa = f"PGGAN_FAST_CPU_ISA: {error}"


def unsupported(x: Tensor, *others: Any) -> str | None:
    """Reason of most ops: their first tensor's dtype and device decide, the rest has been checked against it."""
    if not x.is_cpu:
        return f"it needs tensors on the CPU, got {x.device}"
    if x.dtype not in DTYPES:
        return f"it has no kernels for {x.dtype}"
    return None


def _unsupported_to_rgb(x_low: Tensor, x_high: Tensor, w_low: Tensor, *others: Any) -> str | None:
    return unsupported(x_low) or _too_many_channels(w_low.shape[0])


def _unsupported_from_rgb(image: Tensor, *others: Any) -> str | None:
    return unsupported(image) or _too_many_channels(image.shape[1])


def _too_many_channels(channels: int) -> str | None:
    if channels <= _MAX_IMAGE_CHANNELS:
        return None
    return Limit(f"it handles images of at most {_MAX_IMAGE_CHANNELS} channels, got {channels}")


def _unsupported_backward(
    dy: Tensor, dr: Tensor | None, y: Tensor, r: Any, mask: Any, scale: float, bias_scale: float, slope: float | None,
    norm: str, *others: Any
) -> str | None:  # fmt: skip
    if norm == "before_act" and slope == 0.0:
        return "a slope of 0 after the norm leaves nothing of the normalised value in y"
    return unsupported(dy)


def _epilogue(
    u: Tensor, y: Tensor, r: Tensor | None, mask: Tensor | None, shape: tuple[int, ...], channels_last: bool,
    pool: bool, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str, eps: float,
    eps_mode: str,
) -> None:  # fmt: skip
    bias = contiguous(bias)
    launch(
        native.bias_act_forward, u, bias, y, r, mask, DTYPES[u.dtype], 0 if bias is None else DTYPES[bias.dtype],
        *shape, channels_last, pool, scale, bias_scale, 1.0 if slope is None else slope, _NORMS[norm], eps,
        eps_mode == "inside",
    )  # fmt: skip


def _norm_factor(u: Tensor, n: int, h: int, w: int, norm: str) -> Tensor | None:
    """r [N, 1, H, W] in the accumulator's dtype, where there is a norm."""
    return None if norm == "none" else empty((n, 1, h, w), u, False, accumulator(u.dtype))


@implement("cpu", "bias_act_forward", supports=unsupported)
def bias_act_forward(
    u: Tensor, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str, eps: float,
    eps_mode: str, pool: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    channels_last = is_channels_last(u)
    n, c, h, w = shape = u.shape
    u = dense(u, channels_last)
    y = empty((n, c, h // 2, w // 2) if pool else shape, u, channels_last)
    r = _norm_factor(u, n, h, w, norm)
    mask = empty((n, (c + 7) // 8, h, w), u, channels_last, torch.uint8) if pool and slope is not None else None
    _epilogue(u, y, r, mask, shape, channels_last, pool, bias, scale, bias_scale, slope, norm, eps, eps_mode)
    return y, r, mask


def bias_act_inplace(
    u: Tensor, bias: Tensor | None, scale: float, bias_scale: float, slope: float | None, norm: str, eps: float,
    eps_mode: str,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """bias_act_forward without pooling, written over u where u [N, C, H, W] is dense: (y, r or None)."""
    channels_last = is_channels_last(u)
    n, _, h, w = shape = u.shape
    y = dense(u, channels_last)
    r = _norm_factor(u, n, h, w, norm)
    _epilogue(y, y, r, None, shape, channels_last, False, bias, scale, bias_scale, slope, norm, eps, eps_mode)
    return y, r


@implement("cpu", "bias_act_backward", supports=_unsupported_backward)
def bias_act_backward(
    dy: Tensor, dr: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, scale: float, bias_scale: float,
    slope: float | None, norm: str, eps: float, eps_mode: str, pool: bool, need_bias: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    channels_last = is_channels_last(y)
    n, c, h, w = y.shape
    if pool:
        h, w = 2 * h, 2 * w
    du = empty((n, c, h, w), y, channels_last)
    db = dy.new_empty(c, dtype=accumulator(dy.dtype)) if need_bias else None
    y_read = None if mask is not None or pool else dense(y, channels_last)
    launch(
        native.bias_act_backward, dense(dy, channels_last), contiguous(dr), y_read,
        contiguous(r), None if mask is None else dense(mask, channels_last), du, db,
        DTYPES[dy.dtype], n, c, h, w, channels_last, pool, scale, bias_scale, 1.0 if slope is None else slope,
        _NORMS[norm], eps, eps_mode == "inside",
    )  # fmt: skip
    return du, db


@implement("cpu", "masked_pool", supports=unsupported)
def masked_pool(g: Tensor, mask: Tensor | None, scale: float, slope: float | None) -> Tensor:
    channels_last = is_channels_last(g)
    n, c, h, w = g.shape
    out = empty((n, c, h // 2, w // 2), g, channels_last)
    launch(
        native.masked_pool, dense(g, channels_last), None if mask is None else dense(mask, channels_last), out,
        DTYPES[g.dtype], n, c, h, w, channels_last, scale, 1.0 if slope is None else slope,
    )  # fmt: skip
    return out


@implement("cpu", "fade_in_forward", supports=unsupported)
def fade_in_forward(low: Tensor, high: Tensor, alpha: Tensor) -> Tensor:
    channels_last = is_channels_last(low)
    out = empty(high.shape, high, channels_last)
    launch(
        native.fade_in_forward, dense(low, channels_last), dense(high, channels_last), alpha, out,
        DTYPES[high.dtype], *high.shape, channels_last, low.shape[2:] != high.shape[2:],
    )  # fmt: skip
    return out


@implement("cpu", "fade_in_backward", supports=unsupported)
def fade_in_backward(dy: Tensor, alpha: Tensor, up: bool) -> tuple[Tensor, Tensor]:
    channels_last = is_channels_last(dy)
    n, c, h, w = dy.shape
    dlow = empty((n, c, h // 2, w // 2) if up else dy.shape, dy, channels_last)
    dhigh = empty(dy.shape, dy, channels_last)
    launch(
        native.fade_in_backward, dense(dy, channels_last), alpha, dlow, dhigh, DTYPES[dy.dtype], n, c, h, w,
        channels_last, up,
    )  # fmt: skip
    return dlow, dhigh


@implement("cpu", "fade_reals", supports=unsupported)
def fade_reals(image: Tensor, alpha: Tensor) -> Tensor:
    channels_last = is_channels_last(image)
    out = empty(image.shape, image, channels_last)
    launch(native.fade_reals, dense(image, channels_last), alpha, out, DTYPES[image.dtype], *image.shape, channels_last)
    return out


@implement("cpu", "to_rgb_fade_in_forward", supports=_unsupported_to_rgb)
def to_rgb_fade_in_forward(
    x_low: Tensor, x_high: Tensor, w_low: Tensor, b_low: Tensor | None, w_high: Tensor, b_high: Tensor | None,
    alpha: Tensor, weight_scale_low: float, weight_scale_high: float, bias_scale_low: float, bias_scale_high: float,
) -> Tensor:  # fmt: skip
    channels_last = is_channels_last(x_low)
    n, c_high, h, w = x_high.shape
    shape = n, w_high.shape[0], h, w
    image = empty(shape, x_high, channels_last)
    launch(
        native.to_rgb_fade_in_forward, dense(x_low, channels_last), dense(x_high, channels_last),
        *_parameters(w_low, b_low), *_parameters(w_high, b_high), alpha, image, DTYPES[image.dtype],
        *_codes(w_low, b_low), *_codes(w_high, b_high), *shape, channels_last, x_low.shape[1], c_high,
        weight_scale_low, weight_scale_high, bias_scale_low, bias_scale_high,
    )  # fmt: skip
    return image


def _parameters(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.contiguous(), contiguous(bias)


def _codes(weight: Tensor, bias: Tensor | None) -> tuple[int, int]:
    return DTYPES[weight.dtype], 0 if bias is None else DTYPES[bias.dtype]


@implement("cpu", "from_rgb_fade_in_forward", supports=_unsupported_from_rgb)
def from_rgb_fade_in_forward(
    image: Tensor, high: Tensor, w: Tensor, b: Tensor | None, alpha: Tensor, weight_scale: float, bias_scale: float,
    slope: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    channels_last = is_channels_last(image)
    n, c, height, width = shape = high.shape
    y = empty(shape, high, channels_last)
    mask = empty((n, (c + 7) // 8, height, width), high, channels_last, torch.uint8)
    launch(
        native.from_rgb_fade_in_forward, dense(image, channels_last), dense(high, channels_last), *_parameters(w, b),
        alpha, y, mask, DTYPES[high.dtype], *_codes(w, b), *shape, channels_last, image.shape[1], weight_scale,
        bias_scale, slope,
    )  # fmt: skip
    return y, mask


@implement("cpu", "minibatch_stddev_forward", supports=unsupported)
def minibatch_stddev_forward(x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    channels_last = is_channels_last(x)
    n, c, h, w = shape = x.shape
    out = empty((n, c + 1, h, w), x, channels_last)
    launch(
        native.minibatch_stddev_forward, dense(x, channels_last), out, DTYPES[x.dtype], *shape, channels_last, group,
        grouping == "strided", group - unbiased, eps,
    )  # fmt: skip
    return out


@implement("cpu", "minibatch_stddev_backward", supports=unsupported)
def minibatch_stddev_backward(dy: Tensor, x: Tensor, group: int, grouping: str, unbiased: bool, eps: float) -> Tensor:
    channels_last = is_channels_last(dy)
    shape = x.shape
    dx = empty(shape, x, channels_last)
    launch(
        native.minibatch_stddev_backward, dense(dy, channels_last), dense(x, channels_last), dx, DTYPES[x.dtype],
        *shape, channels_last, group, grouping == "strided", group - unbiased, eps,
    )  # fmt: skip
    return dx
