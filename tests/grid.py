"""The grid: which cases are run, on which numbers, and how a backend's results are judged.

A result is compared with the float64 reference and has to be within twice the error that torch itself makes in the
same dtype. The leaky ReLU's kink would make that comparison a lottery (one element on its other side is an error of
order one), so cases with a kink use numbers on a coarse grid, whose pre-activations are exact and keep away from zero.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.backends import BACKENDS, BackendUnavailable, layout, ops_of, unavailable
from pggan_fast.backends.triton.availability import interpreted

Case = dict[str, Any]
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CHANNELS = (1, 3, 16, 24, 32, 48, 64, 128, 512)
SIZES = (1, 4, 5, 7, 8, 33, 64)
LAYOUTS = ("nchw", "channels_last", "sliced", "transposed")
RESAMPLE = ("none", "up", "down", "pool")
NORMS = ("none", "after_act", "before_act")
EPS_MODES = ("inside", "outside")
SLOPES = (None, 0.2, 1.0, 0.0)
WIDE = 128  # channel counts from here on come with few pixels only
FEW = 8

# Backends of CUDA tensors alone: tests/gpu runs them. Under TRITON_INTERPRET=1 the Triton kernels run on the CPU's
# tensors, under PGGAN_TEST_EMULATOR=1 the CUDA kernels; the process is theirs alone.
DEVICE_ONLY = ("triton", "cuda")
EMULATED = os.environ.get("PGGAN_TEST_EMULATOR") == "1"
SLOW_MOTION = EMULATED or interpreted()
CONVOLVED = tuple(c for c in CHANNELS if c <= 64 or not EMULATED)  # the CUDA kernels convolve no more
BACKENDS_UNDER_TEST = (
    [name for name in BACKENDS if name not in DEVICE_ONLY and unavailable(name) is None and ops_of(name)]
    if not SLOW_MOTION
    else ["cuda" if EMULATED else "triton"]
)
DOUBLE_BACKENDS = [name for name in BACKENDS_UNDER_TEST if name not in DEVICE_ONLY]  # that have float64 kernels
RUNNABLE = [(b, d) for b in BACKENDS_UNDER_TEST for d in DTYPES if d != torch.float64 or b in DOUBLE_BACKENDS]

EPILOGUE = {"norm": NORMS, "eps_mode": EPS_MODES, "slope": SLOPES, "bias": (None, "same", "float32")}
COMMON = {"dtype": DTYPES, "size": SIZES, "narrow": (False, True), "layout": LAYOUTS, "batch": (1, 3)}
COTANGENT = {"cotangent": ("same", "nchw", "expanded")}


def size_of(case: Case) -> tuple[int, int]:
    """Height and width of a case of COMMON."""
    if isinstance(case["size"], tuple):
        return case["size"]
    return case["size"], max(1, case["size"] // 2) if case["narrow"] else case["size"]


# Pairwise covers


def pairs_of(axes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Any, str, Any]]:
    for (a, values), (b, others) in itertools.combinations(axes.items(), 2):
        for value, other in itertools.product(values, others):
            yield a, value, b, other


def too_large(case: Case) -> bool:
    """Wide and large at once: left to the pairs of either with everything else."""
    channels = max([v for k, v in case.items() if k in ("cin", "cout", "channels")], default=1)
    return channels >= WIDE and case.get("size", 1) > FEW


def covers(axes: Mapping[str, Sequence[Any]], cost: Callable[[Case], float], limit: float, times: int) -> list[Case]:
    """`times` covers with other random choices: each pair in other company. One is what slow motion can carry."""
    cases = [case for seed in range(1 if SLOW_MOTION else times) for case in cover(axes, cost, limit, seed)]
    return list(map(_slender, cases)) if interpreted() else cases


def _slender(case: Case) -> Case:
    """What is as long as two tiles is not as wide, where every pixel takes its time."""
    if FEW < case.get("size", 0) < max(SIZES):
        return {**case, "size": (case["size"], 3 if case["narrow"] else 5)}
    return case


def cover(axes: Mapping[str, Sequence[Any]], cost: Callable[[Case], float], limit: float, seed: int = 0) -> list[Case]:
    """Cases that hold every pair of values of two axes, none of them too large or dearer than `limit`.

    Greedy: start from an uncovered pair, then give each other axis the value that covers most, at random among equals.
    """
    rng = random.Random(seed)
    open_pairs = dict.fromkeys(p for p in pairs_of(axes) if not too_large({p[0]: p[1], p[2]: p[3]}))
    cases: list[Case] = []
    while open_pairs:
        a, value, b, other = next(iter(open_pairs))
        case = _fill({a: value, b: other}, axes, cost, limit, open_pairs, rng)
        cases.append(case)
        for p in pairs_of({k: (case[k],) for k in axes}):
            open_pairs.pop(p, None)
    return cases


def _fill(
    start: Case, axes: Mapping[str, Sequence[Any]], cost: Callable[[Case], float], limit: float, open_pairs: Any,
    rng: random.Random,
) -> Case:  # fmt: skip
    cheapest = {k: v[0] for k, v in axes.items()}
    case = dict(start)
    rest = [k for k in axes if k not in start]
    rng.shuffle(rest)
    for axis in rest:

        def gain(value: Any, axis: str = axis) -> int:
            new = {**case, axis: value}
            order = [k for k in axes if k in new]
            return sum(
                (a, new[a], b, new[b]) in open_pairs for a, b in itertools.combinations(order, 2) if axis in (a, b)
            )

        values = list(axes[axis])
        rng.shuffle(values)
        allowed = [v for v in values if _feasible({**case, axis: v}, cheapest, cost, limit)]
        case[axis] = max(allowed, key=gain)
    return {axis: case[axis] for axis in axes}


def _feasible(partial: Case, cheapest: Case, cost: Callable[[Case], float], limit: float) -> bool:
    return not too_large(partial) and cost({**cheapest, **partial}) <= limit


def name_of(case: Case) -> str:
    return "-".join(str(v).removeprefix("torch.") for v in case.values())


def numbered(cases: Sequence[Case]) -> list[Any]:
    """The cases' numbers, as a test's parameters; the largest maps are slow for the interpreter of Triton."""
    return [
        pytest.param(i, id=name_of(case), marks=[pytest.mark.slow] * (interpreted() and case.get("size") == max(SIZES)))
        for i, case in enumerate(cases)
    ]


def cover_length(cases: Sequence[Case]) -> int:
    """How many of the first cases hold every pair that all of them hold: the first cover, or part of it."""
    seen: set[Any] = set()
    length = 0
    for i, case in enumerate(cases):
        pairs = set(pairs_of({k: (v,) for k, v in case.items()}))
        length = length if pairs <= seen else i + 1
        seen |= pairs
    return length


# The ops' own grids, in tests/ops: AXES, CASES and test_grid(backend, seed)

OPS = Path(__file__).parent / "ops"
FILES = sorted(p.stem for p in OPS.glob("test_*.py") if "grid.covers(" in p.read_text())


@functools.cache
def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"grid_of_{name}", OPS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Numbers


def arrange(t: Tensor, how: str) -> Tensor:
    """The same values in another memory layout; what lies between a slice's elements is NaN."""
    if how == "nchw" or t.ndim == 1:
        return t.contiguous()
    if how == "channels_last":
        return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.contiguous()
    if how == "sliced":
        gaps = t.new_full((*t.shape[:-1], 2 * t.shape[-1] + 1), float("nan"))
        gaps[..., 1::2] = t
        return gaps[..., 1::2]
    return t.transpose(-1, -2).contiguous().transpose(-1, -2)


def few_values(case: Case) -> bool:
    """A pixel's channels hang on so few numbers, none of them a bias, that all of them can be (nearly) zero."""
    independent = min(case.get("cin", WIDE) * case.get("k", 1) ** 2, case.get("cout", WIDE), case.get("channels", WIDE))
    return independent < 16 and (case["bias"] is None or min(case.get("cout", WIDE), case.get("channels", WIDE)) < 16)


def is_singular(case: Case) -> bool:
    """An all-zero pixel under a norm with eps outside the root has no second derivative to compare.

    Relu makes such pixels, and so do few numbers that are zero without a bias, or round to zero in half precision.
    """
    zeros = case["slope"] == 0.0 and case["norm"] == "after_act"
    few = few_values(case) and (case["bias"] is None or case["dtype"] in HALF)
    return case["norm"] != "none" and case["eps_mode"] == "outside" and (zeros or few)


def eps_of(case: Case) -> float:
    """Pixels whose channels are all small magnify every rounding by 1 / sqrt(eps): there eps is large.

    With one channel dy - y * mean(dy * y) cancels to eps / (v^2 + eps) of dy.
    """
    if 1 in (case.get("cout"), case.get("channels")):
        return 16.0
    return 0.25 if few_values(case) else 1e-8


def place(t: Tensor, device: str) -> Tensor:
    """t on `device` with its strides; its storage goes whole, with what lies between a slice's elements."""
    if t.device.type == torch.device(device).type:
        return t
    whole = t.as_strided((t.untyped_storage().nbytes() // t.itemsize,), (1,), 0).to(device)
    return whole.as_strided(t.shape, t.stride(), t.storage_offset())


def is_kinked(slope: float | None) -> bool:
    return slope in (0.0, 0.2)


class Numbers:
    """Random tensors of a case, on the grid that keeps its pre-activations exact where the activation has a kink."""

    def __init__(self, case: Case, seed: int, kinked: bool) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.dtype, self.layout, self.kinked = case["dtype"], case["layout"], kinked

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, dtype=torch.float64)

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """N(0, 1); with a kink multiples of 1/2 up to 4: products and sums of four fit bfloat16's mantissa."""
        t = self.normal(*shape)
        t = (2.0 * t).round().clamp(-8, 8) / 2.0 if self.kinked else t
        return arrange(t.to(dtype or self.dtype), self.layout)

    def scale(self, fan_in: int, biased: bool) -> float:
        """About 1 / sqrt(fan_in); a power of two where the pre-activation has to be exact."""
        s = 1.0 / math.sqrt(fan_in)
        exact = self.kinked and (self.dtype in HALF or not biased)
        return float(2.0 ** round(math.log2(s))) if exact else s

    def bias(self, kind: str | None, channels: int, unit: float) -> Tensor | None:
        """With a kink odd multiples of unit / 32: sums of grid products, and their means of four, stay off zero."""
        if kind is None:
            return None
        b = torch.randint(-128, 128, (channels,), generator=self.rng) * 2.0 + 1.0
        b = b.double() / 32.0 * unit if self.kinked else self.normal(channels)
        return b.to(torch.float32 if kind == "float32" and self.dtype in HALF else self.dtype)


# Evaluation and judgement

Results = dict[str, "Tensor | None"]


def derivatives(
    f: Callable[..., Tensor], inputs: Mapping[str, Tensor | None], data: Sequence[str], seed: int, cotangent: str,
    dtype: torch.dtype, as_is: bool,
) -> Results:  # fmt: skip
    """y, its gradients for a random cotangent, and the gradients of <grad data, v> in every input and the cotangent."""
    leaves = {k: None if t is None else _leaf(t, as_is) for k, t in inputs.items()}
    wrt = {k: t for k, t in leaves.items() if t is not None}
    y = f(**leaves)
    dy = _leaf(_cotangent(y, seed, cotangent, dtype), as_is)
    results: Results = {"y": y}
    firsts = dict(zip(wrt, torch.autograd.grad(y, list(wrt.values()), dy, create_graph=True), strict=True))
    results |= {f"d/d{k}": g for k, g in firsts.items()}
    rng = torch.Generator().manual_seed(seed + 1)
    p = torch.zeros((), dtype=torch.float64, device=y.device)
    for k in data:
        v = torch.randn(firsts[k].shape, generator=rng).to(y.device, dtype)
        p = p + (firsts[k].double() * v.double()).sum()
    wrt["dy"] = dy
    seconds = torch.autograd.grad(p, list(wrt.values()), allow_unused=True)
    return results | {f"d2/d{k}": g for k, g in zip(wrt, seconds, strict=True)}


def _leaf(t: Tensor, as_is: bool) -> Tensor:
    return (t if as_is else t.double()).detach().requires_grad_()


def _cotangent(y: Tensor, seed: int, how: str, dtype: torch.dtype) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    if how == "expanded":
        return torch.randn((), generator=rng).to(y.device, dtype).expand_as(y)
    dy = torch.randn(y.shape, generator=rng).to(y.device, dtype)
    return dy if how == "nchw" or y.ndim != 4 else layout.dense(dy, layout.is_channels_last(y))


ROUNDINGS = 6.0


def tiny(dtype: torch.dtype, want: Tensor) -> float:
    """What is allowed beyond twice torch's error, in roundings of the largest element.

    `dtype` is the data's: a float32 gradient of half-precision data has half-precision terms. Six in general: torch's
    error is one draw, and sums of hundreds of terms in another order (phase sums, other blocking) are another; the
    worst seen in a thousand cases is 4.4. In float64 the reference is torch's own result, whose error
    counts as zero: 1000 there, enough for sums of 5000 terms in another order. A single sum may nearly cancel; its
    terms, of the cotangent's numbers, do not: what it is of counts as 1 at least.
    """
    roundings = 1000.0 if dtype == torch.float64 else ROUNDINGS
    largest = float(want.detach().abs().max()) if want.numel() else 0.0
    return roundings * torch.finfo(dtype).eps * (max(largest, 1.0) if want.numel() == 1 else largest)


def judge(ours: Results, torchs: Results, wants: Results, dtype: torch.dtype) -> list[str]:
    """What is wrong with `ours`, one line per result; empty if nothing."""
    wrong = []
    y = wants.get("y")
    empty = y is not None and not y.numel()  # torch loses track of an empty batch; zeros are as right as nothing
    for name, want in wants.items():
        got, rival = ours[name], torchs[name]
        if want is None or rival is None or got is None:
            # torch's activations return a zero tensor for their second derivative: "nothing" says the same
            zero = all(t is None or not t.any() for t in (want, rival))
            if not zero or (got is not None and not (empty and not got.any())):
                wrong.append(f"{name}: {'a tensor' if got is not None else 'None'}, in torch the opposite")
            continue
        if got.dtype != rival.dtype or got.shape != want.shape:
            wrong.append(f"{name}: {got.dtype} {tuple(got.shape)}, expected {rival.dtype} {tuple(want.shape)}")
            continue
        error, allowed = (_error(t, want) for t in (got, rival))
        bound = 2.0 * allowed + tiny(dtype, want)
        if not error <= bound:
            wrong.append(
                f"{name}: error {error:.3g}, torch's {allowed:.3g}, largest {float(want.detach().abs().max()):.3g}"
            )
    return wrong


def _error(got: Tensor, want: Tensor) -> float:
    return float((got.detach().to(want.device).double() - want.detach()).abs().max()) if want.numel() else 0.0


def expected_strides(shape: Sequence[int], first: Tensor) -> tuple[int, ...]:
    """The layout rule, written again: channels_last unless the first input is plainly contiguous or both agree."""
    _, c, h, w = shape
    if first.is_contiguous() or c == 1 or (h == 1 and w == 1):
        return c * h * w, h * w, w, 1
    return h * w * c, 1, w * c, c


def output(f: Callable[..., Tensor], inputs: Mapping[str, Tensor | None], as_is: bool) -> Results:
    """y alone, where no gradient is wanted."""
    with torch.no_grad():
        return {"y": f(**{k: t if t is None or as_is else t.double() for k, t in inputs.items()})}


def check(
    op: str | tuple[Callable[..., Tensor], Callable[..., Tensor]], inputs: Mapping[str, Tensor | None], options: Case,
    backend: str, *, data: Sequence[str], seed: int, cotangent: str = "same", device: str = "cpu",
    roundings: torch.dtype | None = None, gradients: bool = True,
) -> None:  # fmt: skip
    """Judge public op `op` of one backend on `device`: outputs, gradients, second order, layout of the output.

    torch is the rival on the same device; the float64 reference is the CPU's. `op`: its name, or what to call for it
    and for the reference. `roundings`: the type whose precision the products have where it is not the data's.
    """
    first = inputs[data[0]]
    assert first is not None
    dtype = first.dtype
    public, plain = (getattr(ops, op), getattr(reference, op)) if isinstance(op, str) else op
    there = {k: None if t is None else place(t, device) for k, t in inputs.items()}
    there_options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}

    def results(f: Callable[..., Tensor], tensors: Mapping[str, Tensor | None], as_is: bool) -> Results:
        return derivatives(f, tensors, data, seed, cotangent, dtype, as_is) if gradients else output(f, tensors, as_is)

    def run(f: Callable[..., Tensor], **extra: Any) -> Results:
        given = {**there_options, **extra}
        return results(lambda **t: f(**t, **given), there, True)

    if dtype == torch.float64 and backend not in DOUBLE_BACKENDS:
        with pytest.raises(BackendUnavailable, match=r"no kernels for torch\.float64"):
            run(public, backend=backend)
        return
    ours = run(public, backend=backend)
    want = results(lambda **t: plain(**t, **options), inputs, False)
    wrong = judge(ours, run(plain), want, roundings or dtype)
    assert not wrong, "\n".join(wrong)
    y = ours["y"]
    assert y is not None
    if y.ndim == 4 and y.numel():
        assert y.stride() == expected_strides(y.shape, first), f"strides {y.stride()} for {tuple(first.stride())}"
