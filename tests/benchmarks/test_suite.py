import pytest
import torch
from pggan_fast.benchmarks import best_eager, cases, providers, suite, workloads
from pggan_fast.benchmarks.cases import CASES, PRESETS, Case, matching, units
from pggan_fast.benchmarks.providers import EAGER, EAGER_AGAIN, PROVIDERS, REFERENCE, provider
from pggan_fast.benchmarks.subjects import SUBJECTS, Widths

from pggan_fast.inference import Sampler

pytestmark = pytest.mark.early

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


def test_all_providers_hold_the_same_weights_and_no_bias_is_zero():
    weights = providers.Weights(Widths(32, 8, 16), 8, seed=3)
    a, b = (weights.module("D", who).state_dict() for who in (EAGER, AUTO))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(value.abs().min() > 0 for value in a.values())


def test_presets_put_steps_first_and_options_replace_their_sizes():
    cpu = torch.device("cpu")
    quick = units("quick", cpu, torch.float32)
    assert [case.name for case in quick[0]] == ["D.step", "G.step"]
    assert {case.resolution for unit in quick for case in unit} == {32, 128}
    (unit,) = units("quick", cpu, torch.float32, names=("G.forward",), resolutions=(64,), batches=(3,))
    assert [(case.name, case.resolution, case.batch) for case in unit] == [("G.forward", 64, 3)]
    sizes = [
        (case.name, case.resolution, case.batch) for (case,) in units("quick", cpu, torch.float32, names=("G.sample",))
    ]
    assert sizes == [("G.sample", 128, 4), ("G.sample", 32, 4)]
    (unit,) = units("full", cpu, torch.float32, names=("G.sample",), resolutions=(64,), batches=(3,))
    assert [(case.name, case.resolution, case.batch) for case in unit] == [("G.sample", 64, 3)]
    assert all(case.name != "G.sample" for name in PRESETS for unit in units(name, cpu, torch.float32) for case in unit)
    full = {(case.name, case.resolution, case.batch) for unit in units("full", cpu, torch.float32) for case in unit}
    assert {("D.step", 64, 8), ("G.step", 64, 8), ("G.step", 128, 4), ("G.forward", 1024, 1)} <= full


def smallest(name):
    """The case in small: 16 images for a family whose groups are of 16."""
    least = SUBJECTS[name.rpartition(".")[0]].resolutions[0] if name.rpartition(".")[0] in SUBJECTS else 8
    return {"resolution": least, "batch": 16 if "genforce" in name else 4}


# Others' networks stand in their steps whole: their forwards alone, each fused once more, are slow tests.
HERE = [name for name in CASES if not name.startswith(("pro-gan-pth", "gan-lab"))]
FORWARDS = [name for name in HERE if name.startswith(tuple(cases.PEERS)) and name.endswith("forward")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in FORWARDS else name for name in HERE]
)
def test_every_case_by_every_provider_that_runs_here_agrees(plan, name):
    who = [p for p in PROVIDERS.values() if p.name not in ("triton", "cuda") and p.compile_mode is None]
    report = suite.run(plan(name, providers=who, repeats=1, **smallest(name)))
    assert not report.red, [row.reason for row in report.results if row.reason]
    timed = {row.provider for row in report.results if row.median_s is not None}
    assert {"auto", "eager"} <= timed
    assert all(row.reason for row in report.results if row.provider not in timed)
    if not name.startswith(tuple(cases.PEERS)) and not name.endswith("sample"):
        assert timed == {p.name for p in who}


@pytest.mark.parametrize("mode", ["forward", "backward", "double"])
def test_a_wrong_layer_is_red(plan, mode, monkeypatch):
    """The phases of an up-convolution with the kernel mirrored: an output like any other."""
    real = best_eager._summed
    monkeypatch.setattr(best_eager, "_summed", lambda w: real(w.flip(3)))
    row = suite.run(plan(f"up.{mode}", providers=[EAGER, provider("best_eager")])).results[1]
    assert row.failed


def test_networks_that_are_not_installed_are_told_and_not_run(plan, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = suite.run(plan("pro-gan-pth.step"))
    assert not report.red
    assert {row.reason for row in report.results} == {"pro-gan-pth is not installed: pip install --no-deps pro-gan-pth"}


def test_two_runs_of_the_same_give_the_noise(plan):
    report = suite.run(plan("G.forward", noise=True))
    rows = {row.provider: row for row in report.results}
    again = rows["eager_again"]
    expected = max(abs(x - 1) for x in (again.ratio, again.ratio_p20, again.ratio_p80))
    assert [row.noise for row in rows.values()] == [pytest.approx(expected)] * 3
    assert suite.run(plan("G.forward")).results[0].noise is None


def test_no_second_run_where_a_call_takes_long(plan):
    rows = {row.provider: row for row in suite.run(plan("G.forward", noise=True, noise_s=0.0)).results}
    assert rows["eager_again"].median_s is None
    assert "no second run for the noise" in rows["eager_again"].reason
    assert rows["auto"].median_s


def test_ctrl_c_keeps_what_is_finished(plan):
    kept = []

    def build(case, who, weights, data):
        if case.name == "D.forward":
            raise KeyboardInterrupt
        return workloads.build(case, who, weights, data)

    both = plan("G.forward", build=build, keep=kept.append)
    both.units = [*both.units, *plan("D.forward").units]
    report = suite.run(both)
    assert report.interrupted
    assert [row.case for row in report.results] == ["G.forward"] * 2
    assert [[row.case for row in rows] for rows in kept] == [["G.forward"] * 2]


def test_threads_are_the_cases_and_set_back(plan):
    before, seen = torch.get_num_threads(), []

    def build(case, who, weights, data):
        seen.append(torch.get_num_threads())
        return workloads.build(case, who, weights, data)

    one = plan("G.forward", build=build)
    one.units = [(Case("G.forward", 8, 4, torch.float32, torch.device("cpu"), threads=1),)]
    (row, *_) = suite.run(one).results
    assert set(seen) == {1}
    assert (row.threads, row.asked_threads) == (1, 1)
    assert torch.get_num_threads() == before


def test_options_multiply_and_patterns_choose():
    cpu = torch.device("cpu")
    assert matching(["up.*", "G.forward"]) == ["up.forward", "up.backward", "up.double", "G.forward"]
    with pytest.raises(ValueError, match="'nothing', which is no case"):
        matching(["nothing"])
    with pytest.raises(ValueError, match=r"'up', which is no case; --list shows them, up\.\* is all of up"):
        matching(["up"])
    asked = {"names": ["up.forward"], "resolutions": [4, 8], "batches": [1, 2], "threads": [1, 2]}
    found = [(c.resolution, c.batch, c.threads) for (c,) in units("quick", cpu, torch.float32, **asked)]
    assert found == [(8, n, t) for n in (1, 2) for t in (1, 2)]  # there is no up-convolution at 4x4


def test_half_types_cast_layers_and_refuse_peers(plan):
    half = plan("conv.backward")
    half.units = [(Case("conv.backward", 8, 4, torch.bfloat16, torch.device("cpu")),)]
    report = suite.run(half)
    assert not report.red
    assert Case("wsconv.step", 8, 4, torch.bfloat16, torch.device("cpu")).reason() is not None


def test_the_second_run_of_eager_and_the_reference_are_no_choice():
    assert EAGER_AGAIN.name not in PROVIDERS
    assert REFERENCE.name not in PROVIDERS


def test_parts_are_timed_in_graphs_where_there_are_any(plan, monkeypatch):
    """With graphs that only call: K calls with data of their own in one, and their mean."""
    built = []

    def build(case, who, weights, data):
        run = workloads.build(case, who, weights, data)
        built.append(who.name)
        return run

    monkeypatch.setattr(suite.timing, "cold_copies", lambda size, device: 5)
    monkeypatch.setattr(suite.timing, "captured", lambda run: run)
    rows = suite.run(plan("conv.backward", build=build)).results
    assert built.count("auto") == 1 + 5
    assert {(row.timing, row.calls) for row in rows} == {("graph, L2 cold", 5)}
    assert {row.timing for row in suite.run(plan("G.forward", "conv.double")).results} == {None}


def test_a_graph_that_fails_or_is_wrong_is_not_timed(plan, monkeypatch):
    said = []

    def refused(run):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def stale(run):
        return lambda: [{name: 2 * t for name, t in result.items()} for result in run()]

    monkeypatch.setattr(suite.timing, "cold_copies", lambda size, device: 2)
    for captured, told in ((refused, "not permitted when stream is capturing"), (stale, "gives other results")):
        monkeypatch.setattr(suite.timing, "captured", captured)
        rows = suite.run(plan("conv.forward", say=said.append)).results
        assert all(row.timing is None and row.median_s for row in rows)
        assert any(told in text for text in said)
