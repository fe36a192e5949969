from __future__ import annotations

import json
import math

import numpy as np
import pytest
import stats_program as program
import torch
from processes import run_ranks
from torch.utils._python_dispatch import TorchDispatchMode

from pggan_fast.training.stats import Collector, moments


def expected(values):
    x = np.asarray(values, dtype=np.float64)
    return {"num": len(x), "mean": pytest.approx(x.mean(), rel=1e-14), "std": pytest.approx(x.std(), rel=1e-7)}


def test_moments_are_numpys_in_float64():
    rng = np.random.default_rng(0)
    single, half = torch.randn(5), torch.randn(3).to(torch.bfloat16)
    collector = Collector()
    collector.report("far", torch.from_numpy(1e9 + rng.normal(size=50)))
    far = 1e9 + np.random.default_rng(0).normal(size=50)
    for value in (1.5, single, half, torch.tensor(2), single[0]):
        collector.report("mixed", value)
    assert collector.collect() == {
        "far": expected(far),
        "mixed": expected([1.5, *single.tolist(), *half.tolist(), 2.0, float(single[0])]),
    }


def test_collect_clears_and_sorts():
    collector = Collector()
    for name in ("b", "a"):
        collector.report(name, 1)
    assert list(collector.collect()) == ["a", "b"]
    assert collector.collect() == {}


def test_the_latest_values_can_be_read_before_the_tick():
    collector = Collector()
    for value in (1.0, torch.tensor([2.0, 3.0]), torch.tensor(4.5, dtype=torch.bfloat16)):
        collector.report("Loss/D", value)
        collector.report("Progress/x", 1.0)
    collector.report("Loss/A", torch.tensor([2.0, 3.0]))
    collector.report("Loss/none", torch.empty(0))
    assert collector.latest("Loss/") == {"Loss/A": 3.0, "Loss/D": 4.5}
    assert collector.collect()["Loss/D"]["num"] == 4


def test_moments_of_one_and_of_none():
    assert moments([3.0]) == {"num": 1, "mean": 3.0, "std": 0.0}
    none = moments([])
    assert none["num"] == 0
    assert math.isnan(none["mean"])
    assert math.isnan(none["std"])


def test_a_tensor_that_changes_later_was_reported_as_it_was():
    collector, x = Collector(), torch.zeros(2, requires_grad=True)
    collector.report("x", x)
    with torch.no_grad():
        x.fill_(7.0)
    assert collector.collect()["x"]["mean"] == 0.0


class Called(TorchDispatchMode):
    """The names of the operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


SYNCHRONISING = {"_local_scalar_dense", "_to_copy", "item", "nonzero", "equal", "is_nonzero"}


def test_a_report_reads_nothing_from_the_device():
    collector = Collector()
    with Called() as called:
        collector.report("x", torch.ones(()))
        collector.report("x", torch.ones(3))
    assert "clone" in called.names
    assert not SYNCHRONISING & set(called.names)
    with Called() as called:
        collector.collect()
    assert SYNCHRONISING & set(called.names)


@pytest.mark.parametrize("value", [torch.ones(2, 2), torch.ones(2, dtype=torch.complex64)])
def test_other_tensors_are_refused(value):
    with pytest.raises(ValueError, match=r"value: expected a number or real numbers \[N\] for Loss/D, got torch"):
        Collector().report("Loss/D", value)


def test_two_processes_have_the_moments_of_all_values(tmp_path):
    run_ranks(program.__file__, program.WORLD, str(tmp_path))
    shares = [program.values(rank) for rank in range(program.WORLD)]
    for rank in range(program.WORLD):
        found = json.loads((tmp_path / str(rank)).read_text())
        empty = found["moments"].pop(program.EMPTY)
        assert empty["num"] == 0
        assert math.isnan(empty["mean"])
        assert found["moments"] == {
            name: expected(np.concatenate([share[name] for share in shares])) for name in found["moments"]
        }
        assert set(found["moments"]) == {"Loss/D", "Loss/far", "Loss/one"}
        assert found["reduced"] == 1
        assert found["error"] == f"names: expected the same ones from every process, got Loss/of {rank} in {rank}"
