from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pggan_fast import cli, drawing
from pggan_fast.training import curves, report

EVIL = "<script>alert('&')</script>"


def tick(kimg, resolution=16, alpha=1.0, loss=1.0):
    values = {
        "Progress/kimg": kimg, "Progress/tick": kimg, "Progress/resolution": resolution, "Progress/alpha": alpha,
        "Progress/minibatch": 16, "Timing/sec_per_kimg": 3.5, "Timing/total_sec": 3.5 * kimg, "Timing/wait_share": 0.1,
        "Loss/D": loss, f"Loss/{EVIL}": 2.0, "Loss/_g$": 1.0,
    }  # fmt: skip
    return {**{k: {"num": 1, "mean": v, "std": 0.0} for k, v in values.items()}, "timestamp": 1.8e9}


def picture(path, shade=0, size=(64, 32)):
    Image.new("RGB", size, (shade, 0, 0)).save(path)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "00007-<b>run&"
    path.mkdir()
    ticks = [tick(1, 8), tick(2, 16, 0.25), tick(3, 16, 0.75, None), tick(4, 16)]
    (path / "stats.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ticks))
    for kimg in (1, 2, 4):
        picture(path / f"fakes{kimg:06d}.png", 50 * kimg)
    picture(path / "fakes_init.png", 10)
    picture(path / "reals.png", 250)
    lines = [
        {"results": {"fd10k": v}, "snapshot_pkl": f"network-snapshot-{k:06d}.safetensors"}
        for k, v in ((4, 7.5), (2, 9.5))
    ]
    (path / "metric-fd10k.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (path / "training_options.json").write_text(json.dumps({"data": EVIL, "schedule": {"lr": {"8": 0.5}, "kimg": {}}}))
    return path


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def images(self):
        """(alternative text, pixels' mean red)."""
        for tag, attributes in self.tags:
            if tag == "img":
                data = base64.b64decode(attributes["src"].partition("base64,")[2])
                with Image.open(io.BytesIO(data)) as image:
                    yield attributes["alt"], np.asarray(image.convert("RGB"))[..., 0].mean()


def page(folder):
    return Page((folder / "report.html").read_text())


def test_the_page_has_curves_pictures_and_options_in_it(folder):
    assert report.make(folder) == [folder / "report.html", folder / "report.png"]
    found = page(folder)
    shown = dict(found.images())
    red = {
        "kimg 0": 10,
        "kimg 1, 8x8": 50,
        "kimg 2, 16x16 fading in, alpha 0.25": 100,
        "kimg 4, 16x16": 200,
        "reals": 250,
    }
    assert {k: v for k, v in shown.items() if k in red} == pytest.approx(red, abs=2)
    assert set(shown) - set(red) == {"curves against kimg"}
    for text in ("00007-<b>run&", "schedule.lr.8 0.5", "schedule.kimg {}", "fd10k 7.5 4 2", f'data "{EVIL}"'):
        assert text in found.text
    assert "14s" in found.text


def test_the_page_needs_no_other_file_and_runs_nothing(folder):
    report.make(folder)
    text = (folder / "report.html").read_text()
    tags = page(folder).tags
    assert {tag for tag, _ in tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "img", "figure", "figcaption", "div", "p",
        "table", "tr", "th", "td",
    }  # fmt: skip
    assert all(a["src"].startswith("data:image/") for _, a in tags if "src" in a)
    assert not re.search(r"href|url\(|@import|http", re.sub(r"base64,[^\"]*", "", text))


def test_the_picture_is_a_png(folder):
    report.make(folder)
    with Image.open(folder / "report.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_without_matplotlib_a_line_says_how_to_get_curves(folder, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(folder)])
    assert stop.value.code == 0
    assert "pip install 'pggan-fast[bench]'" in page(folder).text
    assert capsys.readouterr().out.splitlines() == [str(folder / "report.html"), drawing.MISSING]
    assert not (folder / "report.png").exists()
    assert "kimg 4, 16x16" in dict(page(folder).images())


def test_of_a_long_history_pictures_of_the_whole_run_are_shown(folder):
    for kimg in range(5, 205):
        picture(folder / f"fakes{kimg:06d}.png")
    with open(folder / "stats.jsonl", "a") as file:
        file.write(json.dumps(tick(204)) + "\n")
    told = []
    report.make(folder, lambda done, total: told.append((done, total)))
    assert told == [(i, report.HISTORY) for i in range(1, report.HISTORY + 1)]
    shown = [alt for alt, _ in page(folder).images()]
    history = shown[2 : 2 + report.HISTORY]  # after the last fakes and the curves
    assert history[0] == "kimg 0"
    assert history[-1] == "kimg 204, 16x16"
    assert len(set(history)) == report.HISTORY
    assert len(shown) == 3 + report.HISTORY
    assert "24 of 204; all are in the run's folder." in page(folder).text


def test_large_grids_are_made_smaller(folder):
    picture(folder / "fakes000002.png", size=(7680, 64))
    report.make(folder)
    widths = {a["alt"]: int(a["width"]) for tag, a in page(folder).tags if tag == "img" and "width" in a}
    assert widths["kimg 2, 16x16 fading in, alpha 0.25"] == report.WIDTH
    assert widths["kimg 4, 16x16"] == 64


def test_what_cannot_be_read_is_said(folder):
    """A run that goes on writes just now; and files that are something else."""
    with open(folder / "stats.jsonl", "a") as file:
        file.write('{"Progress/kimg": {"num": 1')
    (folder / "fakes000004.png").write_bytes((folder / "fakes000004.png").read_bytes()[:40])
    (folder / "training_options.json").write_text("{")
    (folder / "metric-kid.jsonl").write_text(
        '[1]\n{"results": 3}\n{"results": {"kid": "high"}, "snapshot_pkl": null}\n'
    )
    report.make(folder)
    text = page(folder).text
    assert "stats.jsonl: line 5 of 5 is not JSON of a record" in text
    assert "fakes000004.png: cannot be read" in text
    assert "training_options.json: not JSON" in text
    assert "metric-kid.jsonl: line 1 of 3 is not JSON of a record" in text
    assert "kimg 2, 16x16 fading in, alpha 0.25" in dict(page(folder).images())


def test_a_run_without_a_tick_has_a_page(tmp_path):
    (tmp_path / "stats.jsonl").touch()
    assert report.make(tmp_path) == [tmp_path / "report.html"]
    assert "No tick was written down yet." in page(tmp_path).text


def test_series_are_what_was_written(folder):
    run = report.read(folder)
    kimg, loss = run.series("Loss/D")
    assert kimg == [1, 2, 3, 4]
    assert loss[:2] == [1.0, 1.0]
    assert math.isnan(loss[2])
    assert run.metrics["fd10k"] == [(2.0, {"fd10k": 9.5}), (4.0, {"fd10k": 7.5})]
    assert run.at(2.5, "Progress/alpha") == 0.25
    assert run.at(0.5, "Progress/alpha") is None


def test_a_few_spikes_are_cut_off_and_steps_are_not():
    calm = np.sin(np.arange(200.0))
    assert curves._calm(calm) is None
    assert curves._calm(np.repeat([1.0, 2.0, 9.0], 50)) is None
    assert curves._calm(np.full(100, 3.0)) is None
    low, high = curves._calm(np.append(calm, [1e4, np.nan]))
    assert -1.5 < low < -1
    assert 1 < high < 1.5


def test_fades_are_from_the_tick_before_to_the_tick_that_has_it_all():
    assert list(curves._fades([1, 2, 3, 4, 5, 6], [1, 0.2, 0.8, 1, 1, 0.5])) == [(1, 4), (5, 6)]


def test_another_folder_is_one_line_and_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(tmp_path)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line == (f"pggan-fast: error: run_dir: expected the folder of a run, with a stats.jsonl, got {tmp_path}")


def test_a_picture_that_would_start_a_program_is_left_out(folder, monkeypatch):
    """Pillow hands EPS to Ghostscript; a pipe would never end."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    (folder / "fakes000001.png").write_bytes(eps.getvalue())
    (folder / "fakes000002.png").unlink()
    os.mkfifo(folder / "fakes000002.png")
    with Image.open(io.BytesIO(eps.getvalue())) as image, contextlib.suppress(AttributeError, AssertionError, OSError):
        image.load()
    assert started  # as it would
    started.clear()
    report.make(folder)
    assert not started
    assert "fakes000001.png: cannot be read" in page(folder).text
    assert "fakes000002.png: cannot be read" in page(folder).text


def test_names_that_are_no_text(folder):
    """Of the folder, of a metric's file and of a loss: the fonts take none of them."""
    text = (folder / "stats.jsonl").read_text().replace("Loss/D", "Loss/\\ud800")
    (folder / "stats.jsonl").write_text(text)
    (folder / os.fsdecode(b"metric-\xff.jsonl")).write_bytes((folder / "metric-fd10k.jsonl").read_bytes())
    odd = folder.with_name(os.fsdecode(b"\xffrun"))
    folder.rename(odd)
    assert report.make(odd) == [odd / "report.html", odd / "report.png"]


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1e308", "NaN"])
def test_numbers_that_are_too_large_are_none(number, folder):
    lines = (folder / "stats.jsonl").read_text().splitlines()
    (folder / "stats.jsonl").write_text("\n".join([lines[0].replace('"mean": 1.0', f'"mean": {number}'), *lines[1:]]))
    (folder / "metric-fd10k.jsonl").write_text(f'{{"results": {{"fd10k": {number}}}, "snapshot_pkl": "x-1.pkl"}}\n')
    report.make(folder)
    assert "kimg 4, 16x16" in dict(page(folder).images())
