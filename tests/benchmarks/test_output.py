import dataclasses
import io
import json
import os
import sys

import pytest
from pggan_fast.benchmarks import compare, plot, schema, table
from pggan_fast.benchmarks.plots import style
from pggan_fast.benchmarks.schema import Row
from rich.console import Console

# design: fields may be added, none renamed
FIELDS = {"case", "provider", "resolution", "batch", "dtype", "device", "median_s", "p20_s", "p80_s", "samples"}
FIELDS |= {"images_per_s", "peak_bytes", "error"}


def test_json_round_trip_and_its_promised_fields(report):
    text = schema.dumps(report)
    assert schema.loads(text) == report
    data = json.loads(text)
    assert {"schema", "machine", "versions", "commit", "results"} <= set(data)
    assert all(set(row) >= FIELDS for row in data["results"])
    data["results"][0]["a_later_field"] = 1
    assert schema.loads(json.dumps(data)) == report


def test_other_schemas_and_broken_files_are_refused(report):
    data = json.loads(schema.dumps(report))
    with pytest.raises(ValueError, match="schema: got 2, expected 1"):
        schema.loads(json.dumps({**data, "schema": 2}))
    with pytest.raises(ValueError, match="not a benchmark report"):
        schema.loads(json.dumps({"schema": 1, "results": []}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("case", 5), ("resolution", "8"), ("resolution", 0), ("batch", True), ("median_s", 0.0), ("median_s", -1.0),
        ("median_s", float("inf")), ("median_s", 10**400), ("ratio", 0), ("samples", [1.0, "x"]), ("samples", [0.0]),
        ("peak_bytes", 1.5), ("error", 1e300), ("failed", "no"), ("reason", ["x"]),
    ],
)  # fmt: skip
def test_rows_of_other_types_are_named(report, tmp_path, name, value):
    data = json.loads(schema.dumps(report))
    data["results"][0][name] = value
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"run\.json: {name}: expected ") as refused:
        schema.read(tmp_path / "run.json")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("ceilings", [5, {}, {"flops": 1e9, "bytes": 0, "launch_s": 1e-6}])
def test_ceilings_of_another_form_are_refused(report, tmp_path, ceilings):
    report.machine["ceilings"] = ceilings
    (tmp_path / "run.json").write_text(schema.dumps(report))
    with pytest.raises(ValueError, match=r"run\.json: machine: ceilings: expected a number above 0"):
        schema.read(tmp_path / "run.json")


def test_a_run_without_facts_of_its_machine_is_shown(report):
    row = dataclasses.replace(report.results[0], p20_s=None, p80_s=None)
    bare = dataclasses.replace(report, machine={}, versions={}, results=[row])
    screen = Console(file=io.StringIO(), width=200)
    screen.print(table.render(bare, False))
    assert row.case in screen.file.getvalue()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    schema.write_atomically(path, "old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        schema.write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "old"


def test_table_shows_numbers_reasons_and_red_rows_without_escapes(report):
    console = Console(width=table.PLAIN_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table.render(report, terminal=False))
    text = capture.get()
    assert "\x1b" not in text
    assert "2.41" in text
    assert "eager_channels_last" in text
    assert "does not currently support double backward" in " ".join(text.split())
    assert "wrong: score is off" in text
    assert "took 161 s" in text
    assert text.index("step ") < text.index("D.forward")


def test_the_same_reason_is_told_once(report):
    """Of all cases of a provider, and of all providers of the same cases."""
    report.results += [
        Row(case, who, 32, 4, "float32", "cpu", reason="it is not installed")
        for case in ("them.step", "them.G.forward")
        for who in ("auto", "eager")
    ]
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table.render(report, terminal=False))
    told = [line for line in capture.get().splitlines() if "not installed" in line]
    assert told == ["them.step 32x32 x4; them.G.forward 32x32 x4, auto and eager: it is not installed"]


def test_one_thread_is_no_threads(report):
    report.machine["threads"] = 1
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table.render(report, terminal=False))
    assert ", 1 thread, " in capture.get()
    assert ", 1 thread, " in compare.title(report, "A")


def test_units_of_time_and_memory():
    assert [table.seconds(x) for x in (12.34, 1.234, 0.1234, 0.01234, 2e-6)] == [
        "12.3 s",
        "1.23 s",
        "123 ms",
        "12.3 ms",
        "2.00 us",
    ]
    assert table.size(3 << 29) == "1.50 GiB"
    assert table.size(5 << 20) == "5 MiB"


def test_plot_is_a_png_that_names_the_faces(report, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # torchmetrics imports it
    path = tmp_path / "bench.png"
    plot.draw(report, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "not photographs" in style.embedded_images(report.results)
    forwards = [row for row in report.results if "step" not in row.case]
    assert style.embedded_images(forwards) == ""
    assert "matplotlib.pyplot" not in sys.modules  # no global state, no display


def test_a_case_at_many_resolutions_is_a_curve(report, tmp_path):
    forwards = [row for row in report.results if row.case == "G.forward"]
    assert forwards
    assert not plot.is_curve(report)
    rows = [dataclasses.replace(row, resolution=r) for row in forwards for r in (4, 8, 16, 32)]
    assert plot.is_curve(dataclasses.replace(report, results=rows))
    both = [*rows, dataclasses.replace(forwards[0], case="D.forward")]
    assert not plot.is_curve(dataclasses.replace(report, results=both))
    path = tmp_path / "curves.png"
    plot.draw(dataclasses.replace(report, results=rows), path)
    assert path.read_bytes().startswith(b"\x89PNG")
