"""The suite's cases by pytest-benchmark: `pytest benchmarks/ --benchmark-only`, and with `-k up` only those.

One group of its table is a case, one line a provider; nothing is timed before it agrees with the float64 reference.
Full width, float32, on the CUDA device if there is one. Whole runs, with what they need to be compared, are those of
`pggan-fast bench`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pggan_fast.benchmarks import gate, workloads
from pggan_fast.benchmarks.cases import Case, Inputs, inputs
from pggan_fast.benchmarks.providers import EAGER, PROVIDERS, REFERENCE, Weights
from pggan_fast.benchmarks.subjects import SUBJECTS, Widths

from pggan_fast.backends import report
from pggan_fast.backends.registry import BackendUnavailable

DEVICE = report.default_device()
LAYERS = [name for name, subject in SUBJECTS.items() if subject.kind != "network"]
NAMES = [*(f"{name}.{mode}" for name in LAYERS for mode in workloads.MODES), "G.forward", "D.forward", "D.step"]
SIZES = {"dense": (4,)}  # of the others 16 and 32
SIDES = (16, 32)
BATCH = 4


def _cases() -> list[Case]:
    sized = ((name, r) for name in NAMES for r in SIZES.get(name.split(".")[0], SIDES))
    found = (Case(name, r, BATCH, torch.float32, DEVICE) for name, r in sized)
    return [case for case in found if not (case.name == "D.step" and case.resolution == max(SIDES))]


@pytest.fixture(scope="module")
def references() -> dict[Case, tuple[Weights, Inputs, dict[str, torch.Tensor], dict[str, float]]]:
    """By case: weights, inputs, the reference's results and the errors of eager."""
    return {}


@pytest.mark.parametrize("provider", [name for name, p in PROVIDERS.items() if p.compile_mode is None])
@pytest.mark.parametrize("case", _cases(), ids=lambda case: f"{case.name}-{case.resolution}")
def test_case(benchmark: Any, references: dict[Case, Any], case: Case, provider: str) -> None:
    if case not in references:
        weights, data = Weights(Widths(), case.resolution, seed=0), inputs(case, 0, Widths())
        expected = {k: t.clone() for k, t in workloads.build(case, REFERENCE, weights, data)().items()}
        eager = gate.errors(workloads.build(case, EAGER, weights, data)(), expected)
        references[case] = weights, data, expected, eager
    weights, data, expected, eager = references[case]
    try:
        run = workloads.build(case, PROVIDERS[provider], weights, data)
        result = run()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    verdict = gate.judge(gate.errors(result, expected), eager, case.dtype)
    assert not verdict.red, str(verdict)
    benchmark.group = case.title
    benchmark.extra_info.update(error=verdict.error, batch=case.batch)
    benchmark(_to_the_end(run))


def _to_the_end(run: workloads.Workload) -> workloads.Workload:
    """On CUDA a call ends when the device is done."""
    if DEVICE.type != "cuda":
        return run

    def whole() -> dict[str, torch.Tensor]:
        result = run()
        torch.cuda.synchronize(DEVICE)
        return result

    return whole
