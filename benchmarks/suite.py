"""Runs a plan: for each unit build every provider, check it, warm it up, time all of them in turns, measure memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pggan_fast.benchmarks import ceilings, conditions, fit, gate, providers, stats, timing, workloads
from pggan_fast.benchmarks.cases import COMBINED, STEPS, Case, Inputs, Unit, inputs
from pggan_fast.benchmarks.providers import EAGER, EAGER_AGAIN, REFERENCE, Provider, Weights
from pggan_fast.benchmarks.schema import GRAPH, Report, Row
from pggan_fast.benchmarks.subjects import Widths

from pggan_fast.backends import report
from pggan_fast.backends.registry import BackendUnavailable

# torch.compile starts on a case only where the budget has room for it: what the last one took and a half more (this
# many seconds before there was one), and what the units after it need at least.
FIRST_COMPILE_S = 30.0
UNIT_S = 6.0
CPU = torch.device("cpu")
GRAPHED = ("op", "layer", "block")  # kinds of cases


@dataclass
class Plan:
    units: Sequence[Unit]
    providers: Sequence[Provider]  # eager is added where it is missing: it is what ratios are of
    seed: int = 0
    repeats: int | None = None  # rounds; None: as many as fit the budget, at least timing.MIN_ROUNDS
    budget_s: float = 165.0
    preset: str | None = None
    widths: Widths = field(default_factory=Widths)
    build: workloads.Build = workloads.build
    say: Callable[[str], None] = lambda text: None  # progress, one line per thing begun
    keep: Callable[[list[Row]], None] = lambda rows: None  # the rows of each unit as soon as it is finished
    compile_steps: bool = True  # False: no torch.compile of training steps, which takes minutes on a CPU
    noise: bool = True  # whether eager is measured twice, where a call takes less than noise_s: the noise of longer
    noise_s: float = 2.0  # ones is that of others
    ceilings: ceilings.Ceilings | None = None  # of the machine, for the floor of every row


@dataclass
class _Lane:
    """One provider of one unit on its way to its rows."""

    provider: Provider
    runs: dict[str, Callable[[], Any]] = field(default_factory=dict)  # by case name
    reasons: dict[str, str] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    verdicts: dict[str, gate.Verdict] = field(default_factory=dict)
    first_s: dict[str, float] = field(default_factory=dict)
    warm_s: dict[str, float] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)  # made one by one in a sample
    copies: dict[str, int] = field(default_factory=dict)  # of the call in the graph that a call replays
    peaks: dict[str, int | None] = field(default_factory=dict)


def run(plan: Plan, device: torch.device = CPU) -> Report:
    """Run the whole plan; a case with a red gate is in the report with its reason and without times.

    Ctrl-C ends it with what is finished. `device` is that of the units.
    """
    started = time.perf_counter()
    result = empty_report(plan, device)
    if told := conditions.busy(result.machine):
        plan.say(told)
    clock = _Clock(started + plan.budget_s)
    threads = torch.get_num_threads()
    try:
        for number, unit in enumerate(plan.units):
            torch.set_num_threads(unit[0].threads or threads)
            rows = _Unit(plan, unit, lanes_of(plan), clock, len(plan.units) - number).run()
            if plan.ceilings is not None:
                ceilings.attach(rows, plan.ceilings)
            plan.keep(rows)
            result.results += rows
            gc.collect()
    except KeyboardInterrupt:
        result.interrupted = True
    finally:
        torch.set_num_threads(threads)
    result.machine["conditions"] = [*result.machine["conditions"], conditions.now(device)]
    result.elapsed_s = time.perf_counter() - started
    return result


def overrun(plan: Plan, report: Report) -> str | None:
    """A line where the run took longer than it aimed at, and why; None where it did not, or rounds were given."""
    took = report.elapsed_s or 0.0
    if plan.repeats is not None or took <= 1.05 * plan.budget_s:
        return None
    first = sum(row.first_call_s or 0.0 for row in report.results if row.case != COMBINED)
    return (
        f"took {took:.0f} s, more than the budget of {plan.budget_s:.0f} s: first runs ({first:.0f} s), their checks "
        f"and {timing.MIN_ROUNDS} rounds of each case are never left out; fewer cases or smaller sizes take less"
    )


def lanes_of(plan: Plan) -> list[Provider]:
    """The providers, eager among them, and eager again."""
    who = list(plan.providers)
    if EAGER not in who:
        who.insert(0, EAGER)
    return [*who, EAGER_AGAIN] if plan.noise else who


def empty_report(plan: Plan, device: torch.device = CPU) -> Report:
    """What a run's file begins with."""
    machine = {**report.machine(device), "conditions": [conditions.now(device)]}
    if plan.ceilings is not None:
        machine["ceilings"] = plan.ceilings.to_dict()
    return Report(machine, report.versions(), report.commit(), [], preset=plan.preset, seed=plan.seed)


@dataclass
class _Clock:
    """How much of the budget is left, and what the next compilation will take of it."""

    end: float
    compile_s: float = FIRST_COMPILE_S

    def left(self) -> float:
        return max(0.0, self.end - time.perf_counter())


class _Unit:
    """One unit of the plan; `units_left` counts it too."""

    def __init__(self, plan: Plan, unit: Unit, who: Sequence[Provider], clock: _Clock, units_left: int) -> None:
        self.plan, self.unit, self.device = plan, unit, unit[0].device
        self.clock, self.units_left = clock, units_left
        self.lanes = [_Lane(provider) for provider in who]
        self.weights = Weights(plan.widths, unit[0].resolution, plan.seed)
        self.references: dict[str, dict[str, torch.Tensor]] = {}  # by case name

    def run(self) -> list[Row]:
        available = timing.available_bytes(self.device)
        for case in self.unit:
            too_big = fit.reason_not_to_run(case, available)
            if too_big:
                self._refuse(case.name, too_big)
            else:
                self._check(case)
        self._measure_memory()
        self._time()
        return self._rows()

    def _refuse(self, name: str, reason: str) -> None:
        for lane in self.lanes:
            lane.reasons.setdefault(name, reason)
            lane.runs.pop(name, None)

    def _check(self, case: Case) -> None:
        """Build and run every provider once and hold its result to the gate; a red one refuses the whole case."""
        self.plan.say(f"{case.title}: float64 reference")
        data = inputs(case, self.plan.seed, self.plan.widths)
        try:
            reference = self.plan.build(case, REFERENCE, self.weights, data)()
        except ModuleNotFoundError as error:  # of somebody else's networks
            self._refuse(case.name, str(error))
            return
        reference = {name: tensor.clone() for name, tensor in reference.items()}
        self.references[case.name] = reference
        torchs: dict[str, float] = {}
        for lane in sorted(self.lanes, key=lambda lane: lane.provider != EAGER):  # eager first: the limits come from it
            found = self._first_run(case, lane, data, reference)
            if found is None:
                continue
            torchs = torchs or found
            lane.errors[case.name] = found
            lane.verdicts[case.name] = gate.judge(found, torchs, case.dtype)
        red = [lane.provider.name for lane in self.lanes if case.name in lane.verdicts and lane.verdicts[case.name].red]
        for lane in self.lanes:
            if lane.provider.name in red:
                lane.reasons[case.name] = f"wrong: {lane.verdicts[case.name]}"
        if red:
            self._refuse(case.name, f"not timed, because {', '.join(red)} failed the correctness gate")

    def _first_run(
        self, case: Case, lane: _Lane, data: Inputs, reference: Mapping[str, torch.Tensor]
    ) -> dict[str, float] | None:
        """Errors of the first result; None, with the reason noted, where the provider cannot run this case."""
        provider = lane.provider
        reason = provider.reason(case)
        if provider.compile_mode is not None:
            reason = reason or self._reason_not_to_compile(case)
        if provider == EAGER_AGAIN and self._eager().first_s[case.name] > self.plan.noise_s:
            reason = f"a call takes more than {self.plan.noise_s:g} s: no second run for the noise"
        if reason:
            lane.reasons[case.name] = reason
            return None
        self.plan.say(f"{case.title}: {provider.name}, first run and check")
        start = time.perf_counter()
        try:
            workload = self.plan.build(case, provider, self.weights, data)
            result = workload()
            timing.synchronize(self.device)
        except BackendUnavailable as error:
            lane.reasons[case.name] = str(error)
            return None
        except Exception as error:
            # Ours and eager must run. torch.compile may refuse: the reason is torch's own, from this very call.
            if provider.compile_mode is None:
                raise
            lane.reasons[case.name] = f"torch.compile failed: {_first_line(error)}"
            torch._dynamo.reset()
            return None
        lane.first_s[case.name] = time.perf_counter() - start
        if provider.compile_mode is not None:
            self.clock.compile_s = 1.5 * lane.first_s[case.name]
        found = gate.errors(result, reference)
        lane.runs[case.name] = workload
        return found

    def _reason_not_to_compile(self, case: Case) -> str | None:
        if case.differentiates_twice and (refusal := providers.refusal_of_double_backward()):
            return refusal
        if case.training and not self.plan.compile_steps:
            return "the quick preset compiles no training steps, which takes minutes on a CPU; --preset full does"
        if self.clock.left() < self.clock.compile_s + UNIT_S * self.units_left:
            estimate = f"compiling takes about {self.clock.compile_s:.0f} s"
            return f"{estimate}, more than is left of the budget; a larger --budget makes room"
        return None

    def _measure_memory(self) -> None:
        """The second run of each measures memory; those after it warm up, and tell what a round will cost."""
        for lane in self.lanes:
            for name, workload in list(lane.runs.items()):
                self.plan.say(f"{self._title(name)}: {lane.provider.name}, warm-up and peak memory")
                start = time.perf_counter()
                lane.peaks[name] = timing.peak_bytes(workload, self.device)
                lane.warm_s[name] = time.perf_counter() - start
                self._take_cold(lane, name)
                workload = lane.runs[name]
                if lane.warm_s[name] < timing.WARM_UP_S:
                    lane.warm_s[name] = timing.warm_up(workload, self.device)
                    lane.calls[name] = timing.calls_for(lane.warm_s[name])

    def _take_cold(self, lane: _Lane, name: str) -> None:
        """On CUDA, of parts of networks: a graph of calls in place of one from Python, so that neither the host nor
        what a cache has kept is measured. Where it cannot be captured the calls stay."""
        case = next(case for case in self.unit if case.name == name)
        if case.kind not in GRAPHED or case.mode == "double" or lane.provider.compile_mode is not None:
            return
        data = inputs(case, self.plan.seed, self.plan.widths)
        size = case.dtype.itemsize * sum(x.numel() for x in data.inputs)
        copies = timing.cold_copies(size, self.device)
        if copies is None:
            return
        calls = [self.plan.build(case, lane.provider, self.weights, data) for _ in range(copies)]
        try:
            replay = timing.captured(lambda: [call() for call in calls])
            result = replay()[-1]
            timing.synchronize(self.device)
        except RuntimeError as error:
            self.plan.say(f"{case.title}: {lane.provider.name} is timed without a graph: {_first_line(error)}")
            return
        found = gate.errors(result, self.references[name])
        if gate.judge(found, lane.errors[name], case.dtype).red:
            self.plan.say(f"{case.title}: {lane.provider.name} is timed without a graph, which gives other results")
            return
        lane.runs[name], lane.copies[name] = replay, copies

    def _time(self) -> None:
        runs = {(i, name): run for i, lane in enumerate(self.lanes) for name, run in lane.runs.items()}
        if not runs:
            return
        calls = {(i, name): self.lanes[i].calls.get(name, 1) for i, name in runs}
        one_round = sum(self.lanes[i].warm_s[name] * count for (i, name), count in calls.items())
        share = self.clock.left() / self.units_left
        rounds = self.plan.repeats or timing.rounds_for(share, one_round)
        self.plan.say(f"{self._title()}: {rounds} rounds, about {rounds * one_round:.0f} s")
        samples = timing.interleave(runs, rounds, self.device, calls)
        for i, name in runs:
            copies = self.lanes[i].copies.get(name, 1)
            self.lanes[i].samples[name] = [s / copies for s in samples[i, name]]

    def _rows(self) -> list[Row]:
        eager = self._eager()
        rows = [self._row(case, lane, eager) for case in self.unit for lane in self.lanes]
        if tuple(case.name for case in self.unit) == STEPS:
            rows += [
                self._row(replace(self.unit[0], name=COMBINED), _combine(lane), _combine(eager)) for lane in self.lanes
            ]
        return rows

    def _row(self, case: Case, lane: _Lane, eager: _Lane) -> Row:
        verdict = lane.verdicts.get(case.name)
        row = Row(
            case=case.name,
            provider=lane.provider.name,
            resolution=case.resolution,
            batch=case.batch,
            dtype=str(case.dtype).removeprefix("torch."),
            device=str(case.device),
            error=_finite(verdict and verdict.error),
            error_limit=_finite(verdict and verdict.limit),
            first_call_s=lane.first_s.get(case.name),
            mode=lane.provider.compile_mode,
            fp32_precision=report.fp32_precision(case.device),
            threads=torch.get_num_threads(),
            asked_threads=case.threads,
            reason=lane.reasons.get(case.name),
            failed=verdict is not None and verdict.red,
        )
        samples = lane.samples.get(case.name)
        if not samples:
            return row
        time_s = stats.spread(samples)
        row.median_s, row.p20_s, row.p80_s, row.samples = *time_s, samples
        copies = lane.copies.get(case.name)
        row.timing = None if copies is None else GRAPH
        row.images_per_s, row.calls = case.batch / time_s.median, (copies or 1) * lane.calls.get(case.name, 1)
        row.peak_bytes = lane.peaks.get(case.name)
        if eager.samples.get(case.name):
            row.ratio, row.ratio_p20, row.ratio_p80 = stats.speedup(eager.samples[case.name], samples)
        again = next((lane for lane in self.lanes if lane.provider == EAGER_AGAIN), None)
        if again is not None and again.samples.get(case.name):
            row.noise = stats.noise(eager.samples[case.name], again.samples[case.name])
        return row

    def _eager(self) -> _Lane:
        return next(lane for lane in self.lanes if lane.provider == EAGER)

    def _title(self, name: str | None = None) -> str:
        name = name or " + ".join(case.name for case in self.unit)
        return replace(self.unit[0], name=name).title


def _combine(lane: _Lane) -> _Lane:
    """D.step + G.step of the same round as one lane; without a number where either has none."""
    whole = _Lane(lane.provider)
    missing = [name for name in STEPS if not lane.samples.get(name)]
    if missing:
        whole.reasons[COMBINED] = f"no {' and no '.join(missing)}: {lane.reasons[missing[0]]}"
        return whole
    d, g = (lane.samples[name] for name in STEPS)
    whole.samples[COMBINED] = [a + b for a, b in zip(d, g, strict=True)]
    whole.first_s[COMBINED] = sum(lane.first_s[name] for name in STEPS)
    peaks = [peak for name in STEPS if (peak := lane.peaks[name]) is not None]
    whole.peaks[COMBINED] = max(peaks, default=None)
    whole.verdicts[COMBINED] = max((lane.verdicts[name] for name in STEPS), key=lambda v: v.error / v.limit)
    return whole


def _finite(x: Any) -> float | None:
    """JSON has no NaN or infinity; a red row's reason tells the figure."""
    return float(x) if x is not None and abs(x) < float("inf") else None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
