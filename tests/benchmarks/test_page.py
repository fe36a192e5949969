"""Pictures and the page, of rows that hold everything and of rows that lack it."""

import dataclasses
import html.parser
import io

import pytest
from pggan_fast.benchmarks import compare, growth, page, plots, runs, schema, table
from pggan_fast.benchmarks.plots import cost, speed, style
from pggan_fast.benchmarks.schema import Report, Row
from PIL import Image
from rich.console import Console

from pggan_fast import drawing

PROVIDERS = {"auto": 0.5, "eager": 1.0, "eager_again": 1.01, "best_eager": 0.8}
SIZES = (8, 16, 32, 64)


def rows(case, resolution, batch=4, threads=2):
    """A row of every provider, with all that a row may hold."""
    work = growth.products(case, resolution)
    made = []
    for provider, part in PROVIDERS.items():
        time = part * batch * work / 1e10 / threads
        row = Row(case, provider, resolution, batch, "float32", "cpu", threads=threads, samples=[time] * 3)
        row.median_s, row.p20_s, row.p80_s, row.images_per_s = time, 0.9 * time, 1.1 * time, batch / time
        row.ratio, row.ratio_p20, row.ratio_p80 = 1 / part, 0.9 / part, 1.1 / part
        row.peak_bytes, row.error = int(part * work), 1e-6
        later = {"flops": 2.0 * work, "min_bytes": 0.1 * work, "floor_s": time / 3, "bound": "products", "noise": 0.02}
        for name, value in later.items():
            setattr(row, name, value)
        made.append(row)
    return made


@pytest.fixture
def full():
    cases = ("up.forward", "conv.forward", "G.forward", "pixel_norm.double")
    made = [row for case in cases for size in SIZES for row in rows(case, size)]
    made += [row for batch in (1, 2, 8) for row in rows("G.forward", 32, batch)]
    made += [row for threads in (1, 4) for row in rows("G.forward", 64, threads=threads)]
    made += rows("step", 32)
    made.append(Row("D.step", "compile", 32, 4, "float32", "cpu", reason="torch <refuses> & stops"))
    made.append(Row("G.step", "cuda", 32, 4, "float32", "cpu", reason="wrong: image", failed=True))
    machine = {"device": "A CPU", "threads": 2, "fp32_precision": "ieee", "memory_bytes": 2**34, "gpu": None}
    machine["ceilings"] = {"flops": 1e11, "bytes": 2e10, "launch_s": 5e-6}
    return Report(machine, {"torch": "2.13.0", "cuda": None}, "0123abc+", made, preset="full", seed=0, elapsed_s=9.0)


@pytest.fixture
def undrawn(monkeypatch):
    """For what the text says: pictures take seconds."""
    monkeypatch.setattr(drawing, "available", lambda: False)


def names(report):
    return {name for name, _, _ in plots.figures(report, growth.of(report.results))}


def test_every_picture_of_a_full_run(full):
    kinds = {"-".join(name.split("-")[: 2 if name.startswith("by-") else 1]) for name in names(full)}
    assert kinds == {"ratio", "speed", "layers", "roofline", "memory", "by-resolution", "by-batch", "by-threads"}


def test_only_what_the_rows_hold_is_drawn(full, report):
    assert names(report) == {"speed", "memory-bars"}
    forwards = [row for row in full.results if row.case == "G.forward" and row.batch == 4 and row.threads == 2]
    assert names(dataclasses.replace(full, results=forwards)) == {"ratio", "roofline", "memory", "by-resolution"}
    bare = dataclasses.replace(full, machine={"device": "A CPU", "threads": 2})
    assert cost.roofline(bare) is None
    assert cost.layers(dataclasses.replace(full, results=forwards)) is None
    others = dataclasses.replace(full, machine={**full.machine, "threads": 16})  # other ceilings than these rows had
    assert cost.roofline(others) is None
    assert names(dataclasses.replace(full, results=[])) == set()
    failed = [row for row in full.results if row.median_s is None]
    assert names(dataclasses.replace(full, results=failed)) == set()


def test_points_stand_under_the_roof_where_they_belong(full):
    figure = cost.roofline(full)
    ax = figure.axes[0]
    assert ax.get_title(loc="left") == "layers, float32"
    xs, ys = ax.lines[0].get_data()
    assert (max(ys), ys[1] / xs[1]) == (100.0, 20.0)  # GFLOP/s, GB/s
    auto = ax.collections[0].get_offsets()
    assert list(auto[:, 0]) == pytest.approx([20.0] * 8)
    assert list(auto[:, 1]) == pytest.approx([2.0 / 0.5 * 1e10 * 2 / 4 / 1e9] * 8)


def test_the_stack_is_of_the_same_layers_for_both(full):
    lacking = [row for row in full.results if (row.case, row.resolution, row.provider) != ("up.forward", 8, "auto")]
    stacks = cost._stacks([row for row in lacking if row.case in ("up.forward", "conv.forward")])
    assert list(stacks) == list(SIZES)
    assert set(stacks[8]) == {"conv"}
    assert set(stacks[16]) == {"up", "conv"}
    eager, auto = stacks[16]["conv"]
    assert eager == pytest.approx(2 * auto)
    assert eager == pytest.approx(1e3 * growth.products("conv.forward", 16) / 1e10 / 2)  # of one image


def test_a_stack_is_of_one_batch_which_is_named(full):
    full.results += [row for batch in (1, 4) for row in rows("up.forward", 128, batch)]
    titles = [ax.get_title(loc="left") for ax in cost.layers(full).axes if ax.get_title(loc="left")]
    assert titles == [f"all layers, forward, float32, batch {batch}" for batch in (4, 1)]
    ticks = [[label.get_text() for label in ax.get_xticklabels()] for ax in cost.layers(full).axes[:2]]
    assert ticks == [["8", "16", "32", "64", "128"], ["128"]]


def test_one_line_for_each_provider_with_its_colour(full):
    (panel,) = [draw for title, draw in speed.ratios(full) if title == "conv.forward, float32"]
    figure = style.grid([("", panel)], "title", "foot", legend=True)
    found = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert found["auto"] == style.COLOURS["auto"]
    assert len({found[style.name(name)] for name in PROVIDERS}) == len(PROVIDERS)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "auto"]
    assert list(line.get_xdata()) == list(SIZES)
    assert list(line.get_ydata()) == [2.0] * 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [style.name(name) for name in PROVIDERS]


def test_many_panels_are_several_pictures(full):
    many = [dataclasses.replace(row, case=f"{row.case}: {number}") for row in full.results[:16] for number in range(9)]
    found = sorted(names(dataclasses.replace(full, results=many)))
    assert [name for name in found if name.startswith("ratio")] == ["ratio-layers-1", "ratio-layers-2"]


class Outside(html.parser.HTMLParser):
    """Whatever a page would load, and its text."""

    def __init__(self):
        super().__init__()
        self.loads, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "style", "data")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_holds_everything_and_loads_nothing(full):
    found = page.sections([("run.json", full)])
    text = page.render(found)
    parser = Outside()
    parser.feed(text)
    assert parser.tags.count("img") == len(found[0].pictures) == len(names(full))
    assert all(value.startswith("data:image/png;base64,") for value in parser.loads)
    assert not {"script", "link", "iframe"} & set(parser.tags)
    assert "url(" not in text
    assert "@import" not in text
    said = "\n".join(parser.text)
    for piece in (
        "run.json", "A CPU", "torch 2.13.0", "0123abc with changes", "16.00 GiB", "100 GFLOP/s, 20 GB/s",
        "at most 2.0 %", "float64 reference", "torch <refuses> & stops", "wrong: image", "WRONG", "x eager",
        "products", "33 %", "on small maps summing such kernels costs more than it saves",
    ):  # fmt: skip
        assert piece in said, piece
    assert "None" not in said


def test_a_ratio_within_the_noise_is_marked_in_the_page(full, undrawn):
    (row,) = [row for row in full.results if (row.case, row.provider) == ("step", "auto")]
    row.ratio, row.noise, row.samples = 1.23, 0.4, []
    assert "<td>~1.23</td>" in page.render(page.sections([("run.json", full)]))
    row.noise = 0.1
    assert "<td>1.23</td>" in page.render(page.sections([("run.json", full)]))


def test_a_run_that_is_not_whole_says_so_everywhere(full, undrawn):
    cut = dataclasses.replace(full, interrupted=True)
    (section,) = page.sections([("run.json", cut)])
    assert runs.UNFINISHED in page.render([section])
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(table.render(section.report, False))
    assert runs.UNFINISHED in captured.get()
    assert compare.differences(full, cut) == [f"warning: B was {runs.UNFINISHED}"]
    assert runs.UNFINISHED not in page.render(page.sections([("run.json", full)]))
    parts = [("a", dataclasses.replace(cut, commit="0123abc")), ("b", dataclasses.replace(full, commit="0123abc"))]
    assert runs.together(parts)[0][1].interrupted


def test_files_of_one_commit_are_one_section_unless_it_had_changes(full):
    clean = dataclasses.replace(full, commit="0123abc")
    one, two = ([row for row in full.results if row.threads == n] for n in (1, 4))
    parts = [
        ("1.json", dataclasses.replace(clean, results=one)),
        ("4.json", dataclasses.replace(clean, results=two, machine={**full.machine, "threads": 4})),
    ]
    ((name, both),) = runs.together(parts)
    assert name == "1.json + 4.json"
    assert both.results == [*one, *two]
    assert both.elapsed_s == 18.0
    assert len(runs.together([("a", full), ("b", full)])) == 2
    assert len(runs.together([("a", clean), ("b", dataclasses.replace(clean, versions={"torch": "2.14"}))])) == 2


def test_ratios_are_of_the_run_that_measured_them(report):
    """Each against the baseline beside it, though the page keeps the last one alone."""

    def run(eager, provider):
        made = [Row("up.forward", name, 8, 4, "float32", "cpu", samples=[time] * 3, median_s=time)
                for name, time in (("eager", eager), (provider, 1.0))]  # fmt: skip
        return dataclasses.replace(report, commit="0123abc", results=made)

    (section,) = page.sections([("a.json", run(2.0, "auto")), ("b.json", run(4.0, "triton"))])
    assert {row.provider: row.ratio for row in section.report.results} == {"eager": None, "auto": 2.0, "triton": 4.0}


def test_without_matplotlib_there_is_a_page_that_says_so(full, undrawn):
    found = page.sections([("run.json", full)])
    assert list(page.files(found)) == ["report.html"]
    assert drawing.MISSING.replace("'", "&#x27;") in page.render(found)


@pytest.mark.slow
def test_pictures_are_pngs_of_a_size_that_can_be_read(full):
    made = page.files(page.sections([("a/run.json", full), ("b.json", dataclasses.replace(full, seed=1))]))
    pictures = {name: data for name, data in made.items() if name != "report.html"}
    assert {name[:6] for name in pictures} == {"1-run-", "2-b-ra", "2-b-sp", "2-b-la", "2-b-ro", "2-b-me", "2-b-by"}
    for data in pictures.values():
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG"
            assert 700 <= image.width <= 2100


EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"


def test_scripts_in_every_text_of_a_run_stay_text(full, tmp_path):
    for row in full.results[:8]:
        row.reason = row.bound = row.mode = row.dtype = EVIL
    full.results += [dataclasses.replace(full.results[0], case=f"{EVIL}.forward", provider=EVIL, median_s=None)]
    full.machine[EVIL] = full.machine["device"] = EVIL
    full.versions[EVIL] = full.versions["torch"] = full.commit = full.preset = EVIL
    path = tmp_path / f"{EVIL.replace('/', '')}.json"
    path.write_text(schema.dumps(full))
    made = page.files(page.sections([(path.name, schema.read(path))]))
    parser = Outside()
    parser.feed(made["report.html"].decode())
    assert not {"script", "link", "iframe"} & set(parser.tags)
    assert all(value.startswith("data:image/png;base64,") for value in parser.loads)
    assert "alert(1)" in "".join(parser.text)
    assert all("/" not in name and len(name) < 200 for name in made)


def test_bars_of_other_threads_are_other_panels_and_what_never_runs_is_told_once(report):
    lines = []
    for threads in (1, 2):
        made = rows("G.forward", 32, threads=threads)
        made.append(Row("G.forward", "compile", 32, 4, "float32", "cpu", reason="it cannot"))
        for row in made:
            row.asked_threads = threads
        lines += made
    figure = speed.bars(dataclasses.replace(report, results=lines))
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert titles == [f"G.forward, 32×32, batch 4, float32, {told}" for told in ("1 thread", "2 threads")]
    assert all(label.get_text() != "compile" for ax in figure.axes for label in ax.get_yticklabels())
    assert sum(text.get_text().count("compile: it cannot") for text in figure.texts) == 1
