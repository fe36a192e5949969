import pytest
import torch
from pggan_fast.benchmarks import providers, suite, workloads
from pggan_fast.benchmarks.cases import PRESETS, units
from pggan_fast.benchmarks.providers import EAGER, provider

from pggan_fast.inference import Sampler

AUTO = provider("auto")


def spoil(change):
    """A build whose "auto" workload returns `change(result)`: the seeded fault."""

    def build(case, who, weights, data):
        run = workloads.build(case, who, weights, data)
        return (lambda: change(run())) if who == AUTO else run

    return build


def test_a_whole_run_has_every_row_and_every_number(plan):
    report = suite.run(plan("D.step", "G.step", providers=[provider("auto"), provider("eager_channels_last")]))
    assert not report.red
    found = {(row.case, row.provider): row for row in report.results}
    names = ("eager", "auto", "eager_channels_last")  # eager joins unasked
    assert set(found) == {(case, name) for case in ("D.step", "G.step", "step") for name in names}
    for row in found.values():
        assert row.reason is None
        assert len(row.samples) == 3
        assert row.p20_s <= row.median_s <= row.p80_s
        assert row.ratio > 0
        assert row.error <= row.error_limit
        assert row.images_per_s == pytest.approx(4 / row.median_s)
    assert found["D.step", "eager"].ratio == 1.0
    whole, d, g = (found[case, "auto"].samples for case in ("step", "D.step", "G.step"))
    assert whole == pytest.approx([a + b for a, b in zip(d, g, strict=True)])


def test_providers_take_turns(plan):
    calls = []

    def build(case, who, weights, data):
        run = workloads.build(case, who, weights, data)
        return lambda: calls.append((who.name, case.name)) or run()

    suite.run(plan("D.step", "G.step", build=build, repeats=4))
    one_round = [(who, case) for who in ("eager", "auto") for case in ("D.step", "G.step")]
    assert calls[-16:] == one_round * 4


def test_a_wrong_output_is_red_and_untimed(plan):
    report = suite.run(plan("G.forward", build=spoil(lambda out: {"image": out["image"] + 1e-3})))
    assert report.red
    by = {row.provider: row for row in report.results}
    assert by["auto"].failed
    assert "wrong: image" in by["auto"].reason
    assert not by["eager"].failed
    assert "auto failed the correctness gate" in by["eager"].reason
    assert all(row.median_s is None and row.samples == [] for row in report.results)


def truncated(result):
    """As a cast without rounding gives them: half of all are one level lower."""
    pixels = result["pixels"].int()
    return {"pixels": (pixels - torch.arange(pixels.numel()).view(pixels.shape) % 2).clamp(0, 255).to(torch.uint8)}


def one_wrong(result):
    pixels = result["pixels"].clone()
    pixels[3, 7, 7, 2] += 128
    return {"pixels": pixels}


@pytest.mark.parametrize("change", [truncated, one_wrong])
def test_wrong_bytes_are_red(plan, change):
    report = suite.run(plan("G.sample", build=spoil(change)))
    by = {row.provider: row for row in report.results}
    assert "wrong: pixels" in by["auto"].reason
    assert not by["eager"].failed


def test_sampling_is_the_samplers_and_is_timed(plan, monkeypatch):
    asked = []

    class Counting(Sampler):
        def uint8(self, *args):
            asked.append(self)
            return super().uint8(*args)

    monkeypatch.setattr(workloads, "Sampler", Counting)
    report = suite.run(plan("G.sample", providers=[AUTO, EAGER, provider("eager_channels_last"), provider("aten")]))
    assert not report.red
    assert all(len(row.samples) == 3 and row.error <= row.error_limit for row in report.results)
    assert [row.provider for row in report.results] == ["auto", "eager", "eager_channels_last", "aten"]
    assert len(set(map(id, asked))) == 2
    assert len(asked) == 2 * (1 + 2 + 3)  # beforehand; first run and memory; rounds


def test_a_sampler_that_truncates_is_red(plan, monkeypatch):
    def truncate(x):
        return (x * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    monkeypatch.setattr("pggan_fast.inference.to_uint8", truncate)
    assert suite.run(plan("G.sample")).red


@pytest.mark.parametrize("case", ["D.step", "G.step"])
def test_a_wrong_gradient_is_red(plan, case):
    def double_one(result):
        name = next(name for name in result if name.endswith("conv.weight"))
        return {**result, name: 1.05 * result[name]}

    report = suite.run(plan(case, build=spoil(double_one)))
    assert report.red
    assert "grad blocks" in next(row.reason for row in report.results if row.provider == "auto")


def test_one_wrong_step_leaves_no_sum_and_times_the_other(plan):
    def build(case, who, weights, data):
        run = workloads.build(case, who, weights, data)
        wrong = who == AUTO and case.name == "D.step"
        return (lambda: {name: 2 * t for name, t in run().items()}) if wrong else run

    by = {(row.case, row.provider): row for row in suite.run(plan("D.step", "G.step", build=build)).results}
    assert by["G.step", "auto"].median_s is not None
    for name in ("auto", "eager"):
        assert by["D.step", name].median_s is None
        assert by["step", name].median_s is None
        assert "no D.step" in by["step", name].reason


def test_compile_without_budget_or_double_backward_gives_a_reason(plan):
    compiled = provider("compile")
    row = suite.run(plan("D.forward", providers=[EAGER, compiled], budget_s=1.0)).results[1]
    assert "more than is left of the budget" in row.reason
    refusal = providers.refusal_of_double_backward()
    if refusal:  # torch may learn it; then there is a number to give
        row = suite.run(plan("D.step", providers=[EAGER, compiled])).results[1]
        assert row.median_s is None
        assert refusal in row.reason
        assert "double backward" in refusal


def test_a_case_that_does_not_fit_is_skipped_with_its_size(plan, monkeypatch):
    monkeypatch.setattr(suite.timing, "available_bytes", lambda device: 1 << 20)
    report = suite.run(plan("G.forward"))
    assert not report.red
    assert all("GiB are free" in row.reason for row in report.results)


def test_all_providers_hold_the_same_weights_and_no_bias_is_zero(factory):
    weights = providers.Weights(factory, 8, seed=3)
    a, b = (weights.network("D", who).state_dict() for who in (EAGER, AUTO))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(value.abs().min() > 0 for value in a.values())


def test_presets_put_steps_first_and_options_replace_their_sizes():
    cpu = torch.device("cpu")
    quick = units("quick", cpu, torch.float32)
    assert [case.name for case in quick[0]] == ["D.step", "G.step"]
    assert {case.resolution for unit in quick for case in unit} == {32, 128}
    (unit,) = units("quick", cpu, torch.float32, names=("G.forward",), resolutions=(64,), batch=3)
    assert [(case.name, case.resolution, case.batch) for case in unit] == [("G.forward", 64, 3)]
    sizes = [
        (case.name, case.resolution, case.batch) for (case,) in units("quick", cpu, torch.float32, names=("G.sample",))
    ]
    assert sizes == [("G.sample", 128, 4), ("G.sample", 32, 4)]
    (unit,) = units("full", cpu, torch.float32, names=("G.sample",), resolutions=(64,), batch=3)
    assert [(case.name, case.resolution, case.batch) for case in unit] == [("G.sample", 64, 3)]
    assert all(case.name != "G.sample" for name in PRESETS for unit in units(name, cpu, torch.float32) for case in unit)
    full = {(case.name, case.resolution, case.batch) for unit in units("full", cpu, torch.float32) for case in unit}
    assert {("D.step", 64, 8), ("G.step", 64, 8), ("G.step", 128, 4), ("G.forward", 1024, 1)} <= full
