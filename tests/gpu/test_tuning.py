"""Plans of the convolutions on the device: all of them agree, and they are measured when asked, nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device_networks import Results, close
from pggan_fast.benchmarks import tune
from pggan_fast.benchmarks.tune_plans import tune_plans

from pggan_fast import ops
from pggan_fast.backends import registry, tables

configs: Any = pytest.importorskip("pggan_fast.kernels.configs", reason="Triton is not installed")
tuning: Any = pytest.importorskip("pggan_fast.backends.triton.tuning", reason="Triton is not installed")
conv: Any = pytest.importorskip("pggan_fast.backends.triton.conv", reason="Triton is not installed")

PROBLEM = configs.ConvProblem(
    pixels=1024, phases=1, inputs=32, columns=288, channels=32, itemsize=2, norm=False, tensor_cores=True, shared=101376
)


def test_tuning_in_a_capture_raises(device: str, triton: str) -> None:
    def seconds(plan: object) -> float:
        raise AssertionError("measured in a capture")

    x = torch.zeros(8, device=device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)  # a graph without a node warns
        with pytest.raises(RuntimeError, match="being captured"):
            tuning.tune("conv", PROBLEM, x.device, configs.conv_plans(PROBLEM), seconds)
    graph.replay()
    assert x.eq(1).all()


def test_tuning_outside_a_capture_measures(device: str, triton: str) -> None:
    plans = configs.conv_plans(PROBLEM)
    where = torch.device(device, 0)
    found = tuning.tune(
        "conv", PROBLEM, where, plans, lambda plan: -float(plans.index(plan))
    )  # the last is the fastest
    assert found == plans[-1] == tuning.plan_for("conv", PROBLEM, where, plans)


def test_running_an_op_never_measures(device: str, triton: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("something is measured where an op runs")

    for owner, name in ((tuning, "tune"), (tables, "add"), (torch.cuda, "Event")):
        monkeypatch.setattr(owner, name, refuse)
    x = torch.randn(2, 24, 12, 12, device=device, requires_grad=True)
    w = torch.randn(40, 24, 3, 3, device=device, requires_grad=True)
    ops.scaled_conv2d(x, w, weight_scale=0.1, negative_slope=0.2, backend=triton).sum().backward()
    assert w.grad is not None
    assert not tables.path_of(tables.device_key(x.device)).exists()


LAYERS = [  # x, output channels, resampling, norm: fused and split sums, whole and odd tiles
    ((2, 32, 16, 16), 64, "none", "after_act"),
    ((4, 512, 4, 4), 512, "none", "after_act"),
    ((2, 24, 9, 7), 40, "up", "after_act"),
    ((2, 64, 16, 16), 128, "down", "none"),
    ((16, 256, 8, 8), 256, "none", "none"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_plan_runs_and_agrees(
    device: str, triton: str, monkeypatch: pytest.MonkeyPatch, layer: Any, tf32: bool, dtype: torch.dtype
) -> None:
    """And each fits the device's shared memory and registers."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    shape, channels, resample, norm = layer
    x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(channels, shape[1], 3, 3, device=device, requires_grad=True)
    dy = torch.randn(channels, 1, 1, device=device, dtype=dtype)
    scale = (9 * shape[1]) ** -0.5
    tried: set[Any] = set()
    offered: set[Any] = set()
    real = tuning.plan_for

    def run(which: int | None, **options: Any) -> Results:
        def plan_for(op: str, problem: Any, where: torch.device, candidates: Any) -> Any:
            plan = candidates[which % len(candidates)] if which is not None else candidates[0]
            tried.add((op, problem, plan))
            offered.update((op, problem, candidate) for candidate in candidates)
            return plan

        monkeypatch.setattr(tuning, "plan_for", plan_for)
        try:
            y = ops.scaled_conv2d(x, w, weight_scale=scale, resample=resample, pixel_norm=norm, **options)
            dx, dw = torch.autograd.grad(y, (x, w), dy.expand_as(y))
            return {"y": y.detach(), "dx": dx, "dw": dw}
        finally:
            monkeypatch.setattr(tuning, "plan_for", real)

    want = run(None, backend="aten")
    for i in range(6):
        close(run(i, backend=triton), want, roundings=1e-2 if tf32 or dtype == torch.float16 else 1e-5)
    assert tried == offered
    assert len({op for op, *_ in offered}) == 3


@pytest.fixture
def layer(device: str, triton: str) -> tuple[Any, ...]:
    """Arguments of scaled_conv2d_forward."""
    x = torch.randn(2, 16, 4, 4, device=device).contiguous(memory_format=torch.channels_last)
    w, b = torch.randn(16, 16, 3, 3, device=device), torch.randn(16, device=device)
    return x, w, b, 0.1, 1.0, "none", 0.2, "after_act", 1e-8, "inside"


OP = "scaled_conv2d_forward"


def plans_tuned(layer: tuple[Any, ...], run: Callable[[], Any], seconds: Callable[[Any], float]) -> Any:
    plain = tune._floats(registry._TABLE["aten", OP].run(*layer))
    return tune_plans(OP, layer, lambda: tune._floats(run()), plain, 6e-3, tune._distance, seconds, print)


def test_the_plans_of_a_layer_are_measured(layer: Any) -> None:
    run = registry._TABLE["triton", OP].run
    best = plans_tuned(layer, lambda: run(*layer), lambda f: 1.0)
    problem, plans = conv.plans_of(OP, layer)
    assert best in plans
    assert tuning.plan_for(OP, problem, layer[0].device, plans) == best


@pytest.mark.parametrize("which", ["default", "other"])
def test_a_plan_that_is_off_is_not_kept(layer: Any, which: str) -> None:
    right = registry._TABLE["triton", OP].run
    problem, plans = conv.plans_of(OP, layer)
    assert len(plans) > 1

    def run() -> Any:
        y, *rest = right(*layer)
        first = tuning.plan_for(OP, problem, layer[0].device, plans) == plans[0]
        return y * 1.01 if first == (which == "default") else y, *rest

    times = iter((3.0, 1.0, 1.0, 1.0, 1.0))
    if which == "default":
        with pytest.raises(FloatingPointError, match="the default plan is off"):
            plans_tuned(layer, run, lambda f: next(times))
    else:
        assert plans_tuned(layer, run, lambda f: next(times)) == plans[0], "a wrong plan won"


def test_the_networks_are_tuned_and_the_choice_follows(device: str, triton: str) -> None:
    tuning_run = tune.Tuning(torch.device(device, 0), [torch.float32], [8], batch=4, budget_s=60.0)
    tuning_run.run()
    assert tuning_run.changes
    assert not tuning_run.wrong
    for change in tuning_run.changes:
        assert change.best in change.seconds
    known = tables.table(torch.device(device, 0))["ways"]
    assert {change.name for change in tuning_run.changes} <= set(known)
