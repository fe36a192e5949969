"""Layers as they run on a GPU by themselves: torch's convolutions, and CUDA kernels after them, emulated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import emulate
import grid
import pytest
import torch

from pggan_fast import ops
from pggan_fast.backends import cuda, cuda_layer, registry
from pggan_fast.backends.aten import conv

LAYERS, DENSE = grid.load("test_scaled_conv2d"), grid.load("test_scaled_linear")


def runs_here(case: grid.Case) -> bool:
    """No kernel comes after float64's convolutions. Of one input, normalised, dx is a sixtieth of what it is a sum of:
    the order of a mean counts."""
    alone = case["cin"] == 1 and case["norm"] != "none"
    return case["dtype"] != torch.float64 and case.get("size", 1) < 64 and not alone


GRID = [
    (module, i)
    for module in (LAYERS, DENSE)
    for i in range(grid.cover_length(module.CASES))
    if runs_here(module.CASES[i])
]


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backend "cuda" means the ways that a GPU's automatic choice has, in its order."""
    monkeypatch.setattr(conv, "_on_cpu", lambda x: False)
    monkeypatch.setitem(registry.NAMED, "cuda", ("aten+cuda", "cuda", "aten"))
    registry.forget()
    with emulate.emulated():
        yield
    registry.forget()


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("few", [0, 1 << 20])
@pytest.mark.parametrize(("layers", "i"), GRID, ids=lambda v: str(v) if isinstance(v, int) else v.__name__)
def test_grid(monkeypatch: pytest.MonkeyPatch, layers: Any, i: int, few: int) -> None:
    """With summed taps and without. Twice: the second call is by what the first one learned."""
    monkeypatch.setattr(conv, "FEW_PIXELS_GPU", few)
    for _ in range(2):
        layers.test_grid("cuda", i)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any] | None]:
    """What was planned for whole backward passes."""
    plans: list[Callable[..., Any] | None] = []

    def plan(*args: Any) -> Callable[..., Any] | None:
        plans.append(cuda_layer._down_backward_plan(*args))
        return plans[-1]

    monkeypatch.setitem(registry.LAYER_BACKWARD, ("cuda", "aten"), plan)
    return plans


def gradients(wanted: str, resample: str, bias: bool, size: int = 8, k: int = 3) -> dict[str, torch.Tensor]:
    """By backend "cuda", of the tensors whose letters are in `wanted`."""
    shapes = {"x": (2, 5, size, size), "w": (6, 5, k, k), "b": (6,)}
    generator = torch.Generator().manual_seed(3)
    x, w, b = (torch.randn(s, generator=generator).requires_grad_(name in wanted) for name, s in shapes.items())
    y = ops.scaled_conv2d(
        x, w, b if bias else None, weight_scale=0.3, bias_scale=0.7, resample=resample, negative_slope=0.2,
        backend="cuda",
    )  # fmt: skip
    y.backward(torch.randn(y.shape, generator=generator))
    return {name: t.grad for name, t in (("x", x), ("w", w), ("b", b)) if t.grad is not None}


@pytest.mark.parametrize(("wanted", "bias"), [("xwb", True), ("xw", False), ("x", True), ("xb", True)])
def test_down_layers_of_few_pixels_run_backward_at_once(
    planned: list[Callable[..., Any] | None], wanted: str, bias: bool
) -> None:
    first, second = (gradients(wanted, "down", bias) for _ in range(2))
    assert len(planned) == 1
    assert planned[0] is not None
    assert list(first) == list(second) == list(wanted)
    for name, grad in second.items():
        assert torch.equal(grad, first[name])
        assert grad.stride() == first[name].stride()


@pytest.mark.parametrize(
    ("wanted", "resample", "size", "k"),
    [("xwb", "none", 8, 3), ("xwb", "up", 8, 3), ("xwb", "pool", 8, 3), ("wb", "down", 8, 3), ("xwb", "down", 8, 1),
     ("xwb", "down", 64, 3)],
)  # fmt: skip
def test_others_do_not(planned: list[Callable[..., Any] | None], wanted: str, resample: str, size: int, k: int) -> None:
    for _ in range(2):
        gradients(wanted, resample, True, size, k)
    assert planned == [None]


def test_a_wrong_plan_is_seen(planned: list[Callable[..., Any] | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call is compared with the first: seeded, a pool where a spread mean was meant."""
    real = cuda_layer._down_backward_plan

    def halved(*args: Any) -> Callable[..., Any] | None:
        run = real(*args)
        return run and (lambda *tensors: tuple(g if g is None else g / 2 for g in run(*tensors)))

    monkeypatch.setattr(cuda_layer, "_down_backward_plan", halved)
    with pytest.raises(AssertionError):
        test_down_layers_of_few_pixels_run_backward_at_once(planned, "xwb", True)


# What torch launches of its own, by the names of its profiler, but for the fills that poison new tensors here
LAUNCHING = {
    f"aten::{name}"
    for name in ("conv2d", "convolution_backward", "avg_pool2d", "avg_pool2d_backward", "upsample_nearest2d",
                 "upsample_nearest2d_backward", "mul", "mm", "addmm", "add", "sum", "leaky_relu", "copy_")
}  # fmt: skip

EMULATED = "a kernel, emulated"


def launches(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> list[str]:
    """What a second run launches: operations of torch, but for those inside of others, and kernels of ours."""
    run()
    kernels: list[str] = []
    real = cuda.emulator
    assert real is not None

    def noted(name: str, *args: Any) -> Any:
        kernels.append(name)
        with torch.profiler.record_function(EMULATED):
            return real(name, *args)

    monkeypatch.setattr(cuda, "emulator", noted)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        run()
    outer = [e.name for e in recorded.events() if e.name in LAUNCHING and not inside_another(e)]
    return sorted(name.removeprefix("aten::") for name in outer + kernels)


def inside_another(event: Any) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in LAUNCHING or parent.name == EMULATED:
            return True
        parent = parent.cpu_parent
    return False


@pytest.mark.parametrize(
    ("resample", "norm", "forward", "backward"),
    [
        ("none", "none", ["conv2d"], ["convolution_backward"]),
        ("none", "after_act", ["conv2d"], ["convolution_backward"]),
        ("down", "none", ["avg_pool2d", "conv2d"], ["convolution_backward"]),
        ("up", "after_act", ["conv2d", "upsample_nearest2d"],
         ["convolution_backward", "upsample_nearest2d", "upsample_nearest2d_backward"]),
    ],
)  # fmt: skip
def test_launches_of_a_layer(
    monkeypatch: pytest.MonkeyPatch, resample: str, norm: str, forward: list[str], backward: list[str]
) -> None:
    """No weight is scaled, no gradient summed or scaled apart: besides the convolutions and what resamples, a kernel in
    each direction."""
    tensors = [torch.randn(s, requires_grad=True) for s in ((2, 8, 4, 4), (8, 8, 3, 3), (8,))]
    layer = functools.partial(
        ops.scaled_conv2d, weight_scale=0.3, resample=resample, negative_slope=0.2, pixel_norm=norm, backend="cuda"
    )
    with torch.no_grad():
        assert launches(monkeypatch, lambda: layer(*tensors)) == sorted([*forward, "bias_act_forward"])
    dy = torch.randn_like(layer(*tensors).detach())
    both = [*forward, "bias_act_forward", "bias_act_backward", *backward]
    assert launches(monkeypatch, lambda: torch.autograd.grad(layer(*tensors), tensors, dy)) == sorted(both)
