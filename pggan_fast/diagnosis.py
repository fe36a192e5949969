"""Every public op by every backend against reference.py in float64, on this machine: what `pggan-fast doctor` runs.

Outputs, gradients and gradients of gradients. The numbers lie on a coarse grid that no pre-activation leaves at zero,
so that a rounding does not turn a leaky ReLU's mask; a result may be twice as far from the reference as plain PyTorch
is in the same dtype.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.backends import BACKENDS, BackendUnavailable, selfcheck, unavailable

Call = Callable[..., Tensor]
LAYER: dict[str, Any] = {"weight_scale": 0.5, "negative_slope": 0.25}
NORM: dict[str, Any] = {**LAYER, "pixel_norm": "after_act"}
SCALES: dict[str, Any] = {"weight_scale_low": 0.5, "weight_scale_high": 0.25}
TIMED = 5  # rounds


class Case(NamedTuple):
    """An op as it is called with a module that has it; shapes of its inputs, all of them differentiated if `grads`."""

    name: str
    call: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    grads: bool = True


class Finding(NamedTuple):
    """How one backend does one case: the largest error as a part of what is allowed, and seconds of all of it."""

    case: str
    backend: str
    share: float | None
    seconds: float | None
    reason: str | None  # why it did not run, or what is wrong
    wrong: bool


def _conv(resample: str, k: int = 3, **options: Any) -> Callable[..., Tensor]:
    return lambda m, x, w, b, **kw: m.scaled_conv2d(x, w, b, resample=resample, **options, **kw)


WEIGHTS = (12, 10, 3, 3), (12,)
CASES = (
    Case("scaled_conv2d", _conv("none", **NORM), ((2, 10, 6, 8), *WEIGHTS)),
    Case("scaled_conv2d up", _conv("up", **NORM), ((2, 10, 4, 6), *WEIGHTS)),
    Case("scaled_conv2d down", _conv("down", **LAYER), ((2, 10, 6, 8), *WEIGHTS)),
    Case("scaled_conv2d pool", _conv("pool", **LAYER), ((2, 10, 6, 8), *WEIGHTS)),
    Case("scaled_conv2d 1x1", _conv("none", weight_scale=0.5), ((2, 10, 4, 6), (3, 10, 1, 1), (3,))),
    Case("scaled_linear", lambda m, x, w, b, **kw: m.scaled_linear(x, w, b, **LAYER, **kw), ((3, 10), (12, 10), (12,))),
    Case(
        "bias_act",
        lambda m, x, b, **kw: m.bias_act(x, b, negative_slope=0.25, pixel_norm="before_act", **kw),
        ((2, 12, 4, 6), (12,)),
    ),
    Case("pixel_norm", lambda m, x, **kw: m.pixel_norm(x, **kw), ((2, 12, 4, 6),)),
    Case("fade_in", lambda m, x, y, **kw: m.fade_in(x, y, 0.375, **kw), ((2, 3, 4, 6), (2, 3, 8, 12))),
    Case("fade_reals", lambda m, x, **kw: m.fade_reals(x, 0.375, **kw), ((2, 3, 8, 12),)),
    Case("minibatch_stddev", lambda m, x, **kw: m.minibatch_stddev(x, 2, **kw), ((4, 6, 4, 4),)),
    Case(
        "to_rgb_fade_in",
        lambda m, x, y, v, a, w, b, **kw: m.to_rgb_fade_in(x, y, v, a, w, b, 0.375, **SCALES, **kw),
        ((2, 10, 4, 6), (2, 8, 8, 12), (3, 10, 1, 1), (3,), (3, 8, 1, 1), (3,)),
    ),
    Case(
        "from_rgb_fade_in",
        lambda m, x, y, w, b, **kw: m.from_rgb_fade_in(x, y, w, b, 0.375, weight_scale=0.5, negative_slope=0.25, **kw),
        ((2, 3, 8, 12), (2, 10, 4, 6), (10, 3, 1, 1), (10,)),
    ),
    Case(
        "generator_stage",
        lambda m, x, v, a, w, b, u, **kw: m.generator_stage(
            x, ops.Scaled(v, a, 0.5), ops.Scaled(w, b, 0.5), ops.Scaled(u), **kw
        ),
        ((2, 10, 4, 6), (12, 10, 3, 3), (12,), (12, 12, 3, 3), (12,), (3, 12, 1, 1)),
        grads=False,
    ),
    Case(
        "discriminator_stem",
        lambda m, x, v, a, w, b, **kw: m.discriminator_stem(x, ops.Scaled(v, a, 0.5), ops.Scaled(w, b, 0.5), **kw),
        ((2, 3, 6, 8), (12, 3, 1, 1), (12,), (10, 12, 3, 3), (10,)),
        grads=False,
    ),
)


def inputs(case: Case, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Multiples of 1/8 up to 1, odd multiples of 1/64 for biases: products and sums of them are exact and not zero."""
    rng = torch.Generator().manual_seed(selfcheck.SEED)
    found = []
    for shape in case.shapes:
        numbers = torch.randint(-8, 9, shape, generator=rng) / 8.0
        if len(shape) == 1:
            numbers = (2 * torch.randint(-16, 16, shape, generator=rng) + 1) / 64.0
        t = numbers.to(device, dtype)
        image = len(shape) == 4 and shape[2:] not in ((1, 1), (3, 3))
        found.append(t.contiguous(memory_format=torch.channels_last) if image else t)
    return found


def results(case: Case, module: Any, given: list[Tensor], **options: Any) -> list[Tensor]:
    """The output; then the gradients of a sum of it, and those of a sum of these."""
    if not case.grads:
        with torch.no_grad():
            return [_plain(case.call(module, *given, **options))]
    leaves = [t.detach().requires_grad_() for t in given]
    y = case.call(module, *leaves, **options)
    first = torch.autograd.grad((y * _pattern(y)).sum(), leaves, create_graph=True)
    total = torch.stack([(g * _pattern(g)).sum().to(y.dtype) for g in first]).sum()
    second: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if total.requires_grad:
        second = torch.autograd.grad(total, leaves, allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, second, strict=True)]
    return [_plain(t) for t in (y, *first, *zeros)]


def _plain(t: Tensor) -> Tensor:
    """A copy in the one order of its elements: strides are not compared."""
    return t.detach().clone(memory_format=torch.contiguous_format)


def _pattern(t: Tensor) -> Tensor:
    """Weights of a sum that no symmetry cancels."""
    return ((torch.arange(t.numel(), device=t.device) * 5 % 13 - 6) / 8.0).view(t.shape).to(t.dtype)


def examine(
    device: torch.device, dtype: torch.dtype, say: Callable[[str], None] = lambda text: None
) -> Iterator[Finding]:
    """All cases by all backends that could run on `device`, reference apart."""
    for case in CASES:
        given = inputs(case, device, dtype)
        exact = results(case, reference, [t.cpu().double() for t in given])
        plain = results(case, reference, given)
        for backend in BACKENDS[1:]:
            say(f"{case.name} by {backend}")
            yield _finding(case, backend, given, plain, exact)


def _finding(case: Case, backend: str, given: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> Finding:
    if (reason := unavailable(backend)) is not None:
        return Finding(case.name, backend, None, None, reason, False)
    try:
        got = results(case, ops, given, backend=backend)
    except BackendUnavailable as error:
        return Finding(case.name, backend, None, None, str(error).partition(": ")[2], False)
    except Exception as error:
        return Finding(case.name, backend, None, None, f"{type(error).__name__}: {error}", True)
    unit = selfcheck.rounding(given[0].device, given[0].dtype)
    verdict = selfcheck.worst([selfcheck.compared(*t, unit) for t in zip(got, plain, exact, strict=True)])
    share = verdict.error / verdict.limit if verdict.limit else math.inf
    took = _seconds(lambda: results(case, ops, given, backend=backend), given[0].device)
    return Finding(case.name, backend, share, took, verdict.reason, verdict.reason is not None)


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)
