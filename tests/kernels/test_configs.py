"""The plans: inside the chip's limits, whole tiles, no empty split, and the norm only where all channels fit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pggan_fast.kernels.configs import ConvPlan, ConvProblem, conv_plans, gradient_plans
from pggan_fast.kernels.launch import cdiv

pytestmark = pytest.mark.any_process

problems = st.builds(
    ConvProblem,
    pixels=st.integers(0, 2**33), phases=st.sampled_from([1, 4]), inputs=st.integers(1, 2048),
    columns=st.integers(1, 16 * 1024), channels=st.integers(1, 2048), itemsize=st.sampled_from([2, 4]),
    norm=st.booleans(), tensor_cores=st.booleans(),
    shared=st.sampled_from([64 * 1024, 99 * 1024, 163 * 1024, 227 * 1024]),
)  # fmt: skip


def is_power_of_2(n: int) -> bool:
    return n & (n - 1) == 0


def faults(p: ConvProblem, plan: ConvPlan, summed: int) -> list[str]:
    bm, bn, bk, warps, stages = plan.config
    wrong = []
    if not all(is_power_of_2(n) and n >= 16 for n in (bm, bn, bk)):
        wrong.append("a tile that tl.dot cannot take")
    if stages * (bm + bn) * bk * p.itemsize > p.shared:
        wrong.append("more shared memory than there is")
    if bm * bn // (32 * warps) > 128:
        wrong.append("more than 128 accumulators a thread")
    steps = cdiv(summed, bk)
    if plan.splits > 1 and cdiv(steps, plan.splits) * (plan.splits - 1) >= steps:
        wrong.append("an empty split")
    return wrong


@given(problems)
def test_every_plan_can_run(p: ConvProblem) -> None:
    plans = conv_plans(p)
    assert plans
    for plan in plans:
        assert not faults(p, plan, p.columns)
        assert not plan.fused or plan.splits == 1
        assert not (plan.fused and p.norm) or plan.config.bn >= p.channels


@given(problems)
def test_every_gradient_plan_can_run(p: ConvProblem) -> None:
    plans = gradient_plans(p)
    assert plans
    for plan in plans:
        assert not faults(p, plan, p.pixels)


def layers() -> list[ConvProblem]:
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    return [
        ConvProblem(batch * r * r // phases, phases, c, 9 * c, c, 2, norm, True, 227 * 1024)
        for (r, c), batch, phases, norm in itertools.product(widths.items(), (1, 16), (1, 4), (False, True))
    ]


@pytest.mark.parametrize("p", layers(), ids=str)
def test_the_networks_layers_fill_the_chip_or_are_split(p: ConvProblem) -> None:
    """At least 64 programs, but where the whole sum has too few steps to be worth splitting."""
    plan = conv_plans(p)[0]
    tiles = cdiv(p.pixels, plan.config.bm) * cdiv(p.channels, plan.config.bn) * p.phases
    assert tiles * plan.splits >= min(64, tiles * (p.columns // plan.config.bk // 4))


def test_a_wrong_plan_is_seen() -> None:
    p = ConvProblem(1024, 1, 64, 576, 64, 2, True, True, 99 * 1024)
    right = conv_plans(p)[0]
    assert not faults(p, right, p.columns)
    large = right.config._replace(bm=512, bk=64, stages=4)
    assert faults(p, right._replace(config=large), p.columns) == ["more shared memory than there is"]
    wide = right.config._replace(bm=512, warps=4)
    assert faults(p, right._replace(config=wide), p.columns)[-1] == "more than 128 accumulators a thread"
    assert faults(p, right._replace(config=right.config._replace(bn=24)), p.columns)
    assert faults(p, right._replace(splits=1000), p.columns)
