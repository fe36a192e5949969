"""`pggan-fast metrics`: its files, its table, one process and two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import make
from torch import Tensor

from pggan_fast import cli, networks
from pggan_fast.data import faces
from pggan_fast.metrics import scores
from pggan_fast.metrics.published import PUBLISHED
from pggan_fast.models import Generator
from pggan_fast.training import later

NAMES = ["swd40", "msssim40", "fd40", *(["fid40", "kid40", "is40"] if scores.available() else [])]


class Means(torch.nn.Module):
    """Small features for FID."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().unflatten(3, (4, 8)).mean(dim=(2, 4)).flatten(1)


def call(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        cli.main(["metrics", *map(str, arguments)])
    return stop.value.code


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    """The last line of each file."""
    files = sorted(folder.glob("metric-*.jsonl"))
    return {f.stem.removeprefix("metric-"): json.loads(f.read_text().splitlines()[-1]) for f in files}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    G, ema = make(Generator, 32), make(Generator, 32)
    assert isinstance(G, Generator)
    assert isinstance(ema, Generator)
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    networks.save(path, networks.Networks(G=G, G_ema=ema))
    return path


@pytest.mark.slow
def test_one_process_and_two_have_the_same_results(network: Path, tmp_path: Path) -> None:
    """The latter by torchrun, of which one process tells and writes; batches of 16 make an odd number of turns."""
    one, two = tmp_path / "one", tmp_path / "two"
    source = ["--network", network, "--data", "faces", "--mirror"]
    torch.jit.trace(Means(), torch.zeros(2, 3, 32, 32)).save(str(tmp_path / "means.pt"))
    rest = [*source, "--batch", 16, "--metrics", ",".join(NAMES), "--extractor", tmp_path / "means.pt", "--outdir"]
    assert call(*rest, one) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["pggan_fast.cli", "metrics", *map(str, rest), str(two)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found, shared = lines(one), lines(two)
    assert set(found) == set(shared) == set(NAMES)
    for name in NAMES:
        assert shared[name]["results"] == found[name]["results"]
        assert (found[name]["num_gpus"], shared[name]["num_gpus"]) == (1, 2)
        assert (one / found[name]["snapshot_pkl"]).resolve() == network
        assert found[name]["kimg"] is None
        assert len((two / f"metric-{name}.jsonl").read_text().splitlines()) == 1
    assert done.stdout.count("reals with reals") == 1


def test_the_score_of_another_runs_network_stays_when_a_run_goes_back(network: Path, tmp_path: Path) -> None:
    """That of its own, of later, is dropped: also by a link to its folder, and from within it."""
    own, other, link = tmp_path / "own", tmp_path / "other", tmp_path / "link"
    link.symlink_to(own)
    G = networks.load(network).G
    for folder, kimg in ((own, 100.0), (own, 200.0), (other, 300.0)):
        folder.mkdir(exist_ok=True)
        path = folder / networks.snapshot_name(int(kimg))
        networks.save(path, networks.Networks(G=G, source={"kimg": kimg}))
        for outdir in (own, link):
            assert call("--network", path, "--metrics", "msssim20", "--outdir", outdir) == 0
    (file,) = own.glob("metric-*.jsonl")
    names = [json.loads(line)["snapshot_pkl"] for line in file.read_text().splitlines()]
    first, second, third = (f"network-snapshot-000{kimg}.safetensors" for kimg in (100, 200, 300))
    assert names == [first, first, second, second, *[os.path.join("..", "other", third)] * 2]
    assert later.cut(own, 150.0) == [("stats.jsonl", 0), ("metric-msssim20.jsonl", 2)]
    assert [json.loads(line)["kimg"] for line in file.read_text().splitlines()] == [100.0, 100.0, 300.0, 300.0]


def test_it_takes_the_average_of_the_weights(network: Path, tmp_path: Path) -> None:
    held = networks.load(network)
    networks.save(tmp_path / "ema", networks.Networks(G=held.G_ema))
    networks.save(tmp_path / "raw", networks.Networks(G=held.G))
    values = []
    for path in (network, tmp_path / "ema", tmp_path / "raw"):
        assert call("--network", path, "--metrics", "msssim20", "--outdir", tmp_path) == 0
        values.append(lines(tmp_path)["msssim20"]["results"]["msssim20"])
    assert values[0] == values[1] != values[2]


def test_the_table_and_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "some.npz", images=faces()[:30].permute(0, 2, 3, 1).numpy())
    assert call("--data", tmp_path / "some.npz", "--images", "faces", "--metrics", "swd64,msssim64,fd64") == 0
    shown = capsys.readouterr()
    few = "of 30 images of the data set, not 64: it has no more, and none is used twice"
    assert f"swd64, msssim64, fd64: {few}" in shown.out
    assert "2 x 15" in shown.out
    rows = [[cell.strip() for cell in line.split("|")] for line in shown.out.splitlines() if "|" in line]
    assert rows[0][1:6] == ["metric", "", "value", "matched", "reals with reals"]
    assert [row[2] for row in rows][1:4] == ["32", "16", "avg"]
    assert [row[1] for row in rows if row[1]] == ["metric", "swd64, of 30", "msssim64", "fd64, of 30"]
    assert all("-" not in row[3:6] for row in rows[1:4])
    assert "msssim64: it has no floor: the reals' own similarity is what to compare with" in shown.out
    assert "what to compare is matched, the value of as many" in shown.out
    assert call("--data", "faces", "--images", "faces", "--metrics", "fd64") == 0
    assert "matched" not in capsys.readouterr().out
    assert all(text in shown.err for text in ("data set", "generated set", "64 of 64", "computing fd64"))


def test_published_numbers_stand_beside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", "faces", "--images", "faces", "--metrics", "msssim40,swd40", "--no-floor", "--dataset")
    assert call(*arguments, "lsun-bedroom") == 0
    assert "nothing was published of lsun-bedroom at 32x32" in capsys.readouterr().out
    known = PUBLISHED["celeba"]
    monkeypatch.setitem(PUBLISHED, "celeba", type(known)(32, known.source, known.rows))  # type: ignore[index]
    assert call(*arguments, "celeba") == 0
    shown = capsys.readouterr().out
    (converged,) = (line for line in shown.splitlines() if "(h) converged" in line)
    assert [cell.strip() for cell in converged.split("|")[2:8]] == ["2.42", "2.17", "2.24", "4.99", "2.96", "0.2828"]
    assert "this run, of fewer images" in shown
    assert "does not reproduce" in shown


def test_reals_are_taken_at_the_networks_resolution(tmp_path: Path) -> None:
    """From a ZIP of 32x32 for a network of 16x16: the distance of those at 16x16."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number, pixels in enumerate(faces()[:20].permute(0, 2, 3, 1).numpy()):
            with archive.open(f"{number:03}.png", "w") as file:
                Image.fromarray(pixels).save(file, "png")
    np.savez(tmp_path / "x.npz", images=faces(16)[:20].permute(0, 2, 3, 1).numpy())
    G = make(Generator, 16)
    assert isinstance(G, Generator)
    networks.save(tmp_path / "x", networks.Networks(G=G))
    values = []
    for data in ("x.zip", "x.npz"):
        assert (
            call("--network", tmp_path / "x", "--data", tmp_path / data, "--metrics", "fd20", "--outdir", tmp_path) == 0
        )
        values.append(lines(tmp_path)["fd20"]["results"])
        notes = lines(tmp_path)["fd20"]["notes"]
        assert any("made from 32x32" in note for note in notes) == (data == "x.zip")
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--data, --network, --images: expected one of them at least"),
        (["--data", "faces", "--network", "a", "--images", "b"], "expected one of them, got both"),
        (["--data", "faces", "--metrics", "swd16k,ppl"], "--metrics: got 'ppl', expected a kind"),
        (["--data", "faces", "--batch", "3"], "--batch: got 3"),
        (["--data", "faces", "--seed", "-1"], "--seed: got -1"),
        (["--data", "faces", "--outdir", f"{__file__}/x"], f"--outdir: cannot make {__file__}/x: Not a directory"),
        (["--data", "faces", "--scratch", "/no/such"], "--scratch: /no/such is no folder"),
        (["--data", "/no/such"], "/no/such"),
        (["--network", "/no/such"], "cannot read /no/such: No such file"),
        (["--network", __file__], "a network file, which is safetensors that"),
        (["--data", "faces", "--metrics", "fid10k"], "fid10k: needs an extractor"),
        (["--data", "faces", "--extractor", "/no/such"], "--extractor: cannot read /no/such"),
        (["--data", "faces", "--extractor", __file__], "not a TorchScript network"),
        (["--data", "faces", "--metrics", "fd64", "--no-floor"], "fd64: without a floor it needs generated images"),
        (["--images", "faces"], "swd16k: compares with reals, and there are none"),
    ],
)
def test_bad_options_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    (line,) = (text for text in capsys.readouterr().err.splitlines() if not text.startswith("["))
    assert line.startswith("pggan-fast: error: ")
    assert said in line


def test_too_little_memory_is_told_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pggan_fast.benchmarks import timing

    monkeypatch.setattr(timing, "available_bytes", lambda device: 1 << 20)
    assert call("--data", "faces") == 2
    assert "patches need 147 MiB of memory, 1 MiB are free; see --scratch" in capsys.readouterr().err
