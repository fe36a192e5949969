"""Which graph is captured, checked, kept and used: the same on any device, here with a stand-in for CUDA's graphs."""

from __future__ import annotations

import warnings

import pytest
import torch
from standin_graphs import StandIn
from torch import Tensor

from pggan_fast import BackendUnavailable
from pggan_fast.backends import graphs
from pggan_fast.backends.graphs import Graphs


class Doubling:
    """The function: counts its own runs, outside of replays too."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.runs += 1
        return 2 * x if y is None else 2 * x + y


def draw(n: int = 3) -> Tensor:
    return torch.randn(n, 4)


def test_the_second_call_with_a_key_captures_and_later_ones_replay() -> None:
    device, double = StandIn(), Doubling()
    runner = Graphs(device)
    for call, (captures, replays) in enumerate([(0, 0), (1, 1), (1, 2), (1, 3)]):
        x = draw()
        assert torch.equal(runner.run(3, double, (x, None)), 2 * x), call
        assert (device.captures, device.replays) == (captures, replays)


def test_demanded_the_first_call_captures() -> None:
    device = StandIn()
    x = draw()
    assert torch.equal(Graphs(device, demanded=True).run(3, Doubling(), (x,)), 2 * x)
    assert (device.captures, device.replays) == (1, 1)


def test_results_are_the_callers_own() -> None:
    runner = Graphs(StandIn(), demanded=True)
    xs = [draw() for _ in range(3)]
    results = [runner.run(3, Doubling(), (x, x)) for x in xs]
    assert all(torch.equal(result, 3 * x) for result, x in zip(results, xs, strict=True))
    results[0].zero_()
    assert torch.equal(runner.run(3, Doubling(), (xs[1], xs[1])), results[1])


def test_finish_is_applied_captured_or_not() -> None:
    runner = Graphs(StandIn())
    for _ in range(3):
        x = draw()
        assert torch.equal(runner.run(3, Doubling(), (x,), lambda y: y + 1), 2 * x + 1)


def test_the_latest_graphs_are_kept() -> None:
    device = StandIn()
    runner = Graphs(device, demanded=True)
    sizes = range(1, graphs.KEPT + 2)
    for n in sizes:
        runner.run(n, Doubling(), (draw(n),))
        runner.run(1, Doubling(), (draw(1),))  # used in between, so it stays
    assert device.captures == len(sizes)
    runner.run(1, Doubling(), (draw(1),))
    assert device.captures == len(sizes)
    runner.run(2, Doubling(), (draw(2),))  # it was the oldest
    assert device.captures == len(sizes) + 1
    assert len(runner._graphs) == graphs.KEPT


def test_sizes_in_turns_that_are_too_many_to_keep_are_not_captured_over_and_over() -> None:
    device = StandIn()
    runner = Graphs(device)
    for _ in range(3):
        for n in range(1, graphs.SEEN + 2):
            runner.run(n, Doubling(), (draw(n),))
    assert device.captures == 0
    assert len(runner._seen) == graphs.SEEN


FAULTS = {
    "old inputs": StandIn(lambda y: torch.ones_like(y)),
    "one wrong element": StandIn(lambda y: torch.where(torch.arange(12).view(3, 4) == 11, y + 1, y)),
    "NaN": StandIn(lambda y: y * float("nan")),
    "refused": StandIn(refuse=RuntimeError("operation not permitted when stream is capturing")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_or_failed_graph_is_warned_of_once_and_never_used(fault: str) -> None:
    device = FAULTS[fault]
    runner, x = Graphs(device), draw()
    assert torch.equal(runner.run(3, Doubling(), (x,)), 2 * x)
    with pytest.warns(RuntimeWarning, match="a CUDA graph cannot be used: .* launches run one by one, which is slower"):
        assert torch.equal(runner.run(3, Doubling(), (x,)), 2 * x)
    replays = device.replays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (3, 3, 5, 5):
            x = draw(n)
            assert torch.equal(runner.run(n, Doubling(), (x,)), 2 * x)
    assert device.replays == replays


@pytest.mark.parametrize("fault", FAULTS)
def test_where_it_was_demanded_or_under_strict_it_is_an_error(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="a CUDA graph cannot be used"):
        Graphs(FAULTS[fault], demanded=True).run(3, Doubling(), (draw(),))
    monkeypatch.setenv("PGGAN_FAST_STRICT", "1")
    runner = Graphs(FAULTS[fault])
    runner.run(3, Doubling(), (draw(),))
    with pytest.raises(BackendUnavailable, match="a CUDA graph cannot be used"):
        runner.run(3, Doubling(), (draw(),))


def test_roundings_and_nans_of_the_function_itself_are_no_fault() -> None:
    Graphs(StandIn(lambda y: y * (1 + 1e-4)), demanded=True).run(3, Doubling(), (draw(),))
    x = draw()
    x[1] = float("nan")
    got = Graphs(StandIn(), demanded=True).run(3, Doubling(), (x,))
    assert torch.allclose(got, 2 * x, equal_nan=True)


def test_a_graph_that_does_not_read_its_inputs_is_found_in_its_first_replay() -> None:
    """It was captured on other values: the same ones would agree."""

    class Constant(StandIn):
        def capture(self, run):  # type: ignore[no-untyped-def]
            return lambda: None, run()

    with pytest.raises(RuntimeError, match="its output differs by"):
        Graphs(Constant(), demanded=True).run(3, Doubling(), (draw(),))


def test_tensors_that_were_written_are_checked_again() -> None:
    """The stand-in replays with the weight that it was captured with."""
    weight, x = torch.ones(4), draw()
    device = StandIn()
    captured = weight.clone()
    runner = Graphs(device, demanded=True)

    def function(x: Tensor) -> Tensor:
        return x * weight

    runner.run(3, function, (x,))
    runs = device.replays
    device.spoil = lambda y: y / weight * captured
    weight.mul_(2)
    runner.check_again()
    with pytest.raises(RuntimeError, match="its output differs"):
        runner.run(3, function, (x,))
    assert device.replays == runs + 1
    assert not runner._graphs  # their memory is free


def test_after_a_check_only_replays_run() -> None:
    double = Doubling()
    runner = Graphs(StandIn(), demanded=True)
    runner.run(3, double, (draw(),))
    before = double.runs
    runner.run(3, double, (draw(),))
    assert double.runs == before + 1  # in the replay
    runner.check_again()
    runner.run(3, double, (draw(),))
    assert double.runs == before + 3  # and uncaptured


def test_the_functions_own_errors_are_the_callers() -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("mine")

    runner = Graphs(StandIn())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^mine$"):
            runner.run(3, fails, (draw(),))
    assert not runner._fallback.failed


def test_within_the_callers_own_capture_nothing_is_captured_or_replayed() -> None:
    device, double = StandIn(), Doubling()
    runner = Graphs(device, demanded=True)
    device.users_capture = True
    runner.run(3, double, (draw(),))
    assert (device.captures, device.replays, double.runs) == (0, 0, 1)


def test_captured_in_inference_mode_it_serves_outside_too() -> None:
    runner = Graphs(StandIn(), demanded=True)
    with torch.inference_mode():
        runner.run(3, Doubling(), (draw(),))
    x = draw()
    assert torch.equal(runner.run(3, Doubling(), (x,)), 2 * x)
