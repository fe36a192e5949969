"""What speed hangs on and no clock blurs: torch ops issued and memory allocated by a call, ours in parts of eager's.

Registers, spills and shared memory of the CUDA kernels have their gates in tests/static_cuda, counted bytes and
products theirs in test_work.py.
"""

from __future__ import annotations

import pytest
import torch
from pggan_fast.benchmarks import workloads
from pggan_fast.benchmarks.cases import Case, inputs
from pggan_fast.benchmarks.providers import PROVIDERS, Weights
from pggan_fast.benchmarks.subjects import Widths
from torch.profiler import ProfilerActivity, profile

from pggan_fast.backends import cpu

NARROW = Widths(fmap_base=256, fmap_max=64, latent=64)
# Case at 16x16, batch 4 -> the most that ours may take of eager's: ops, and bytes that torch allocates. Measured, with
# the CPU kernels: G.forward 0.20, 0.05; D.forward 0.38, 0.24; G.step 0.57, 0.40; D.step 0.63, 0.43; up 0.18, 0.17.
MOST = {
    "G.forward": (0.25, 0.08),
    "D.forward": (0.45, 0.3),
    "G.step": (0.65, 0.48),
    "D.step": (0.7, 0.5),
    "up.backward": (0.25, 0.25),
}

pytestmark = pytest.mark.skipif(cpu.native is None, reason="the CPU kernels were not built")


def taken(name: str, provider: str) -> tuple[int, int]:
    """(torch ops, bytes allocated) of a call after two others."""
    case = Case(name, 16, 4, torch.float32, torch.device("cpu"))
    weights, data = Weights(NARROW, 16, seed=0), inputs(case, 0, NARROW)
    run = workloads.build(case, PROVIDERS[provider], weights, data)
    run(), run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
        run()
    events = list(watched.events() or [])
    ops = sum(event.name.startswith("aten::") for event in events)
    return ops, sum(max(0, event.self_cpu_memory_usage) for event in events)


@pytest.mark.parametrize("name", MOST)
def test_ours_issues_fewer_ops_and_allocates_less(name: str) -> None:
    for ours, theirs, most in zip(taken(name, "auto"), taken(name, "eager"), MOST[name], strict=True):
        assert ours <= most * theirs


@pytest.mark.parametrize("name", MOST)
def test_the_bounds_see_a_slower_way(name: str) -> None:
    """On torch's own convolutions, as if the CPU kernels were never chosen."""
    ratios = [ours / theirs for ours, theirs in zip(taken(name, "aten"), taken(name, "eager"), strict=True)]
    assert any(ratio > most for ratio, most in zip(ratios, MOST[name], strict=True)), ratios
