import pytest
import torch
from pggan_fast.benchmarks import conditions, timing
from pggan_fast.benchmarks.timing import MAX_ROUNDS, MIN_ROUNDS, interleave, peak_bytes, rounds_for

CPU = torch.device("cpu")


def test_interleave_takes_turns():
    order = []
    samples = interleave({name: lambda name=name: order.append(name) for name in "ABC"}, 3, CPU)
    assert order == list("ABC") * 3
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys("ABC", 3)


def test_rounds_fit_the_time_between_their_bounds():
    assert rounds_for(10.0, 1.0) == 10
    assert rounds_for(0.0, 1.0) == MIN_ROUNDS
    assert rounds_for(1e9, 1.0) == MAX_ROUNDS
    assert rounds_for(1.0, 0.0) == MAX_ROUNDS


def test_peak_memory_sees_what_is_freed_inside_the_call_and_not_what_was_there():
    held = torch.ones(16 << 20)  # 64 MiB, there before
    peak = peak_bytes(lambda: torch.ones(32 << 20).mean(), CPU)  # 128 MiB, gone again
    if peak is None:
        pytest.skip("this system does not let a process reset its memory high-water mark")
    assert 120 << 20 < peak < 150 << 20
    assert held.sum() > 0
    assert peak_bytes(lambda: None, CPU) < 8 << 20


def test_peak_is_none_where_the_mark_cannot_be_reset(monkeypatch):
    monkeypatch.setattr(timing, "_reset_high_water_mark", lambda: False)
    assert peak_bytes(lambda: None, CPU) is None


def test_samples_of_short_calls_are_means_of_many():
    assert timing.calls_for(1.0) == 1
    assert timing.calls_for(1e-3) == 2
    assert timing.calls_for(0.0) == timing.calls_for(1e-9) == 1000
    made = []
    samples = interleave({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, 2, CPU, {"a": 3})
    assert made == ["a", "a", "a", "b"] * 2
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 2, "b": 2}


def test_warming_up_ends_when_times_no_longer_fall(monkeypatch):
    times = iter([5.0, 3.0, 2.0, 1.95, 1.0])
    monkeypatch.setattr(timing, "timed", lambda run, device: next(times))
    assert timing.warm_up(lambda: None, CPU) == 1.95
    assert next(times) == 1.0
    monkeypatch.setattr(timing, "WARM_UP_S", 0.0)
    monkeypatch.setattr(timing, "timed", lambda run, device: 7.0)
    assert timing.warm_up(lambda: None, CPU) == 7.0


@pytest.mark.parametrize(("load", "told"), [(2.4, False), (2.6, True), (None, False)])
def test_a_busy_machine_is_told_of(load, told):
    machine = {"cores": 2, "conditions": [{} if load is None else {"load": load}, {"load": 9.0}]}
    said = conditions.busy(machine)
    assert (said is not None) == told
    assert said is None or "load 2.6 on 2 cores" in said
    assert conditions.busy({}) is None
