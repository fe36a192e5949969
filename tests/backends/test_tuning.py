"""Measured plans of the Triton convolutions: kept in the device's table, and never measured unasked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from pggan_fast.kernels.configs import ConvPlan, ConvProblem, bucketed, conv_plans

from pggan_fast.backends import tables
from pggan_fast.backends.triton import tuning

CPU = torch.device("cpu")
PROBLEM = ConvProblem(4096, 1, 512, 4608, 512, 2, True, True, 227 * 1024)
PLANS = conv_plans(PROBLEM)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path))
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    tables.forget()
    tuning.forget()


def tune(problem: ConvProblem = PROBLEM, fastest: int = 1) -> ConvPlan:
    """With a clock of its own: candidate number `fastest` takes 1 s, the others 2, the first none at all."""
    plans = conv_plans(problem)
    took = dict.fromkeys(plans, 2.0) | {plans[fastest]: 1.0}
    return tuning.tune("conv", problem, CPU, plans, took.__getitem__)


def test_without_a_measurement_the_first_candidate_runs() -> None:
    assert tuning.plan_for("conv", PROBLEM, CPU, PLANS) == PLANS[0]


def test_the_fastest_plan_runs_from_then_on_here_and_in_other_processes() -> None:
    assert len(PLANS) > 1
    assert tune() == PLANS[1]
    for _ in range(2):
        assert tuning.plan_for("conv", PROBLEM, CPU, PLANS) == PLANS[1]
        assert tuning.plan_for("conv_weight_grad", PROBLEM, CPU, PLANS) == PLANS[0]
        near, far = (bucketed(PROBLEM._replace(pixels=n)) for n in (3000, 10000))
        assert tuning.plan_for("conv", near, CPU, PLANS) == PLANS[1]
        assert tuning.plan_for("conv", far, CPU, PLANS) == PLANS[0]
        forget()


def test_a_plan_that_cannot_run_never_wins() -> None:
    took = dict.fromkeys(PLANS, math.inf) | {PLANS[-1]: 5.0}
    assert tuning.tune("conv", PROBLEM, CPU, PLANS, took.__getitem__) == PLANS[-1]


def test_a_plan_is_preferred_in_this_process_only() -> None:
    tuning.prefer("conv", PROBLEM, CPU, PLANS[1])
    assert tuning.plan_for("conv", PROBLEM, CPU, PLANS) == PLANS[1]
    forget()
    assert tuning.plan_for("conv", PROBLEM, CPU, PLANS) == PLANS[0]


def test_a_plan_that_is_no_candidate_any_more_is_passed_over() -> None:
    tune()
    assert tuning.plan_for("conv", PROBLEM, CPU, PLANS[:1]) == PLANS[0]


def test_nothing_is_measured_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="tune before the capture"):
        tuning.tune("conv", PROBLEM, torch.device("cuda"), [], lambda plan: 0.0)
