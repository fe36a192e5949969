"""Two runs side by side: rows made by hand whose verdicts are known."""

import dataclasses
import json

import pytest
from pggan_fast.benchmarks import compare, runs, schema
from pggan_fast.benchmarks.schema import Report, Row
from rich.console import Console


def run(*rows, **machine):
    facts = {"device": "a CPU", "threads": 2, "fp32_precision": "ieee", **machine}
    return Report(facts, {"torch": "2.13.0"}, "0123456789abcdef", list(rows))


def row(case, ratio, provider="auto", *, median=1.0, p20=None, p80=None, **fields):
    made = Row(case, provider, 32, 4, "float32", "cpu", ratio=ratio, median_s=median)
    made.ratio_p20, made.ratio_p80 = p20 or ratio, p80 or ratio
    for name, value in fields.items():
        setattr(made, name, value)  # noise too, which older rows do not have
    return made


def verdicts(a, b):
    return {change.key.case: change.verdict for change in compare.reports(a, b)}


def test_a_verdict_for_every_case():
    a = run(
        row("same", 2.0, p20=1.9, p80=2.1), row("up", 2.0), row("down", 2.0), row("gone", 2.0),
        row("broken", 2.0), row("never", None, median=None, reason="torch refuses"),
    )  # fmt: skip
    b = run(
        row("same", 2.2, p20=2.1, p80=2.3), row("up", 2.2), row("down", 1.8), row("new", 2.0),
        row("broken", None, median=None, failed=True, reason="wrong: image"),
        row("never", None, median=None, reason="torch refuses"),
    )  # fmt: skip
    assert verdicts(a, b) == {
        "same": "no difference",
        "up": "faster",
        "down": "slower",
        "broken": "wrong",
        "never": "not measured",
        "gone": "only in A",
        "new": "only in B",
    }


def test_a_machine_that_is_slower_today_changes_nothing():
    rows = [row("G", 2.0, median=1.0), row("G", 1.0, "eager", median=2.0)]
    slower = [dataclasses.replace(r, median_s=10 * r.median_s) for r in rows]
    (change,) = compare.reports(run(*rows), run(*slower))
    assert change.verdict == "no difference"
    assert (change.times, change.a.median_s, change.b.median_s) == (1.0, 1.0, 10.0)


def test_ratios_of_runs_that_have_none_come_from_the_samples():
    def of(seconds):
        rows = [row("train", None, "eager", median=2.0), row("train", None, median=seconds)]
        rows[0].samples, rows[1].samples = [2.0, 2.0], [seconds, seconds]
        return run(*rows)

    (change,) = compare.reports(of(1.0), of(0.5))
    assert (change.a.ratio, change.b.ratio, change.verdict) == (2.0, 4.0, "faster")


def test_ratios_of_the_samples_come_before_what_a_file_tells():
    """A file that has the ratio of the medians, 10, beside the spread of the rounds, 1 to 2.8."""
    rows = [row("G", 1.0, "eager"), row("G", 10.0, p20=1.0, p80=2.8)]
    rows[0].samples, rows[1].samples = [1.0, 1.0, 10.0, 10.0, 10.0], [1.0, 1.0, 1.0, 10.0, 10.0]
    (change,) = compare.reports(run(*rows), run(*rows))
    assert change.a.ratio == pytest.approx(1.0)
    assert runs.filled(run(*rows)).results[1].ratio == pytest.approx(1.0)


def test_the_noise_of_both_counts_the_rows_own_or_the_runs_and_the_spread():
    a, b = row("G", 2.0, noise=0.02), row("G", 2.3, noise=0.02)
    assert verdicts(run(a), run(b)) == {"G": "faster"}  # 15 %, against 4
    wide = row("G", 2.0, p80=2.4, noise=0.02)  # two runs of few rounds that agree by chance
    assert verdicts(run(wide), run(b)) == {"G": "no difference"}
    assert verdicts(run(a), run(row("G", 2.3, noise=0.15))) == {"G": "no difference"}
    other = row("D", 1.0, noise=0.2)  # the largest of the run holds for rows without one
    assert verdicts(run(row("G", 2.0), other), run(row("G", 2.3), other))["G"] == "no difference"
    assert verdicts(run(row("G", 2.0, p20=1.8)), run(row("G", 2.2)))["G"] == "no difference"
    assert verdicts(run(row("G", 2.0)), run(row("G", 2.2)))["G"] == "faster"


def test_threads_tell_rows_apart_only_where_nothing_else_does():
    one = [row("G", 2.0, threads=1), row("G", 4.0, threads=2)]
    changes = compare.reports(run(*one), run(*one))
    assert [change.key.threads for change in changes] == [1, 2]
    (change,) = compare.reports(run(row("G", 2.0, threads=1)), run(row("G", 4.0, threads=2)))
    assert change.times == 2.0


def test_other_machines_are_warned_of():
    assert compare.differences(run(), run()) == []
    (text,) = compare.differences(run(), run(threads=8))
    assert text.startswith("warning: threads: A 2, B 8")


def test_turns_of_the_same_code_are_apart_by_noise():
    turns = [compare.measured(run(row("G", ratio))) for ratio in (2.0, 2.42)]
    (both,) = compare.together(turns).values()
    assert both.ratio == pytest.approx(2.2)
    assert both.noise == pytest.approx(0.1)


def test_below_a_limit():
    a, b = run(row("G", 2.0), row("D", 2.0), row("x", 2.0)), run(row("G", 1.3), row("D", 1.5), row("x", 2.0))
    b.results[2].failed = True
    assert [change.key.case for change in compare.below(compare.reports(a, b), 0.7)] == ["x", "G"]
    assert compare.below(compare.reports(a, a), 0.99) == []
    noisy = run(row("G", 1.3, noise=0.9))
    assert compare.below(compare.reports(a, noisy), 0.7) == []


def test_the_table_tells_ratios_times_and_reasons(report):
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        changes = compare.reports(report, report)
        console.print(compare.render(changes, ("one", "other"), ["a note"], terminal=False))
    text = capture.get()
    assert "2.41" in text
    assert "B: other" in text
    assert "a note" in text
    assert "wrong: score is off" in text
    assert "11 no difference, 3 not measured, 1 wrong" in text


def test_either_form_of_file_is_read(report, tmp_path):
    whole = tmp_path / "whole.json"
    whole.write_text(schema.dumps(report))
    data = json.loads(whole.read_text())
    rows = data.pop("results")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, [data, *rows])) + "\n")
    assert schema.read(whole) == schema.read(lines) == report
    lines.write_text("\n".join(map(json.dumps, [data, *rows]))[:-20])  # killed while it wrote
    assert schema.read(lines).results == report.results[:-1]
    lines.write_text(json.dumps(data))
    assert schema.read(lines).results == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("\x89PNG\nx", "line 1 is not JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ('{"schema": 2, "results": []}', "schema: got 2, expected 1"),
        ('{"schema": 1, "machine": {}, "versions": {}, "commit": null}\nbroken\n{}', "line 2 is not JSON"),
        ('{"schema": 1, "results": [{"kernel": "x"}]}', "not a benchmark report"),
    ],
)
def test_other_files_are_one_line(text, said, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        schema.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
