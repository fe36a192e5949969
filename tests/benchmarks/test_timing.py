import pytest
import torch
from pggan_fast.benchmarks import timing
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
