"""`pggan-fast tune`: the calls of the networks, only right results timed, and the fastest way runs from then on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from pggan_fast.benchmarks import tune

from pggan_fast import cli
from pggan_fast.backends import cpu, registry, signature, tables

pytestmark = [
    pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}"),
    pytest.mark.usefixtures("fresh_choices"),
]

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds by way in place of a clock: nothing runs."""
    seconds = {"cpu": 3.0, "aten+cpu": 2.0, "aten": 1.0, "parts": 4.0}
    monkeypatch.setattr(tune, "_seconds", lambda runs, args, device: {way: seconds[way] for way in runs})
    return seconds


def small(op: str = "scaled_conv2d_forward", resample: str = "none") -> tune.Call:
    x = torch.empty(2, 16, 16, 16, device="meta").contiguous(memory_format=torch.channels_last)
    w = torch.empty(16, 16, 3, 3, device="meta")
    if op == "conv":
        return tune.Call(op, (x, w, 0.1, resample, False))
    return tune.Call(op, (x, w, None, 0.1, 1.0, resample, 0.2, "after_act", 1e-8, "inside"))


def tuned(monkeypatch: pytest.MonkeyPatch, *calls: tune.Call, **options: Any) -> tune.Tuning:
    monkeypatch.setattr(tune, "calls", lambda resolution, batch, dtype: iter(calls))
    tuning = tune.Tuning(CPU, [torch.float32], [4], **options)
    tuning.run()
    return tuning


def drawn(call: tune.Call) -> tuple[Any, ...]:
    return tune._drawn(call.args, CPU)


def test_the_calls_are_those_of_training_and_sampling() -> None:
    found = list(tune.calls(8, 2, torch.bfloat16))
    names = {call.op for call in found}
    # Of a discriminator that pools; and what its rule alone chooses, on real tensors
    assert names == set(registry._NAMES) - {"masked_pool"}
    dtypes = {t.dtype for call in found for t in call.args if isinstance(t, torch.Tensor)}
    assert dtypes >= {torch.bfloat16, torch.float32}
    assert all(t.is_meta for call in found for t in call.args if isinstance(t, torch.Tensor))
    resamples = {call.args[3] for call in found if call.op == "conv"}
    assert resamples == {"none", "up", "down"}


def test_the_fastest_way_runs_from_then_on(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]) -> None:
    call = small()
    args = drawn(call)
    assert registry.choose(call.op, None, "cpu", args).way == "cpu"
    tuning = tuned(monkeypatch, call)
    (change,) = tuning.changes
    assert (change.before, change.best, change.gain) == ("cpu", "aten", 3.0)
    assert registry.choose(call.op, None, "cpu", args).way == "aten"
    assert registry.choose(call.op, "cpu", "cpu", args).way == "aten+cpu"  # of its two ways
    tables.forget()
    registry.forget()
    assert registry.choose(call.op, None, "cpu", args).way == "aten"
    assert signature.bucket(call.op, registry.names_of(call.op), args) == change.name


def test_a_difference_within_the_noise_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    clock["cpu"] = 1.05
    assert tuned(monkeypatch, small()).changes[0].best == "cpu"
    clock["cpu"] = 1.1
    assert tuned(monkeypatch, small(), again=True).changes[0].best == "aten"


def test_what_was_measured_is_left_alone_but_for_again(
    monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    assert len(tuned(monkeypatch, small()).changes) == 1
    clock["cpu"] = 0.5
    second = tuned(monkeypatch, small(), small("conv"))
    assert (second.known, len(second.changes)) == (1, 1)
    again = tuned(monkeypatch, small(), again=True)
    assert [(c.before, c.best) for c in again.changes] == [("aten", "cpu")]


def test_the_budget_stops_it_with_the_most_work_done(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(tune.time, "perf_counter", lambda: float(next(ticks)))
    large = tune.Call("fade_reals", (torch.empty(64, 3, 256, 256, device="meta"), torch.empty((), device="meta")))
    said: list[tuple[str, int, int]] = []
    tuning = tuned(monkeypatch, small("conv"), large, small(), budget_s=0.5, say=lambda *what: said.append(what))
    assert tuning.left == 2
    assert [(text.split()[0], done, total) for text, done, total in said] == [("fade_reals", 0, 3)]


@pytest.mark.parametrize("wrong", ["check", "size"])
def test_a_wrong_way_is_never_timed(wrong: str, monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]) -> None:
    """Seen by the self-check, or only at the size of the call."""
    clock["cpu"] = 0.1
    right = registry._TABLE["cpu", "conv"]

    def run(x: torch.Tensor, *args: Any) -> torch.Tensor:
        return right.run(x, *args) * (1.0 if wrong == "size" and x.shape[2] < 16 else 1.1)

    monkeypatch.setitem(registry._TABLE, ("cpu", "conv"), right._replace(run=run, plan=None))
    tuning = tuned(monkeypatch, small("conv"), small("conv", "up"))
    assert len(tuning.wrong) == (2 if wrong == "size" else 0)
    assert all("cpu conv float32" in text and "off by 0.1" in text for text in tuning.wrong)
    assert not [change for change in tuning.changes if "cpu" in change.seconds]


def test_an_op_of_several_layers_competes_with_its_parts(
    monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    call = next(c for c in tune.calls(16, 2, torch.float32) if c.op == "generator_stage")
    layers = [call.args[i] for i in (1, 2)]
    narrow = [type(s)(s.weight.new_empty(16, 16, 3, 3), s.bias.new_empty(16), *s[2:]) for s in layers]
    x = call.args[0].new_empty(2, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    stage = tune.Call("generator_stage", (x, *narrow, *call.args[3:]))
    clock.update(cpu=3.0, parts=1.0)
    tuning = tuned(monkeypatch, stage)
    assert [(c.before, c.best) for c in tuning.changes] == [("cpu", "parts")]
    args = drawn(stage)
    assert registry.fused("generator_stage", None, "cpu", args) == (None, True)
    clock["parts"] = 9.0
    tuned(monkeypatch, stage, again=True)
    assert registry.fused("generator_stage", None, "cpu", args)[0] is not None


def test_the_environment_does_not_choose_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, clock: dict[str, float]
) -> None:
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "reference")
    tuning = tune.Tuning(CPU, [torch.float32], [8], batch=2, budget_s=0.0)
    monkeypatch.setattr(tune, "GROSS", {torch.float32: float("inf")})
    tuning.run()
    assert tuning.left > 20
    assert len(tuning.changes) == 1  # one at least, however small the budget


def test_a_real_clock_measures_a_real_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "CALL_SECONDS", 0.0)
    tuning = tuned(monkeypatch, small(), small("conv", "up"))
    assert len(tuning.changes) == 2
    for change in tuning.changes:
        assert all(s > 0.0 for s in change.seconds.values())
        assert change.best in change.seconds


def run_command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["tune", *args])
    return int(stop.value.code or 0), capsys.readouterr().out


def test_the_command(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float], capsys: Any) -> None:
    monkeypatch.setattr(tune, "calls", lambda resolution, batch, dtype: iter([small(), small("conv")]))
    status, out = run_command(capsys, "--resolution", "8", "--batch", "2")
    assert status == 0
    assert "2 measured; 2 of them run another way now" in out
    assert "3.00x" in out
    assert f"table: {tables.path_of(tables.device_key(CPU))}" in out
    _, out = run_command(capsys, "--resolution", "8", "--batch", "2")
    assert "0 measured; 0 of them run another way now; 2 measured before" in out


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, clock: dict[str, float], capsys: Any) -> None:
    monkeypatch.setattr(tune, "calls", lambda resolution, batch, dtype: iter([small("conv")]))
    monkeypatch.setattr(tune, "GROSS", {torch.float32: 1e-12})
    status, out = run_command(capsys, "--resolution", "8")
    assert status == 1
    assert "WRONG, left out: cpu conv float32" in out


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: dict[str, float], capsys: Any
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tune, "calls", lambda resolution, batch, dtype: iter([small("conv")]))
    with pytest.raises(SystemExit) as stop:
        cli.main(["tune", "--resolution", "8"])
    assert stop.value.code == 2
    assert "PGGAN_FAST_CACHE names another" in capsys.readouterr().err
