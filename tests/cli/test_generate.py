"""`pggan-fast generate`: files by seed, the grid, which network is taken, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import LATENT, make, saved

from pggan_fast import cli, networks, sampling
from pggan_fast.cli import UsageError, generators
from pggan_fast.inference import Sampler, latents, to_uint8
from pggan_fast.models import Discriminator, Generator


def call(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        cli.main(["generate", *map(str, arguments)])
    return stop.value.code


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    saved(tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_of_the_seeds(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert call("--network", network, "--outdir", out, "--seeds", "0,12345,4-6", "--batch", 1) == 0
    assert names(out) == ["seed0000.png", "seed0004.png", "seed0005.png", "seed0006.png", "seed12345.png"]
    G = networks.load(network).G
    assert G is not None
    for seed in (0, 12345, 5):
        with torch.no_grad():
            want = to_uint8(G(latents(1, LATENT, seed=seed)))[0]
        assert np.array_equal(pixels(out / f"seed{seed:04}.png"), want.numpy())
    shown = capsys.readouterr()
    assert f"G of {network}" in shown.out
    assert "seed0000.png to seed0006.png (5 files)" in shown.out
    assert "drawing: 5 of 5" in shown.err


def same_whatever_is_beside(network: Path, folder: Path, most: int) -> None:
    """Files of one seed, drawn in three company and by three batches."""
    for number, (seeds, batch) in enumerate([("3", 1), ("0-4", 1), ("0-5", 4), ("1,3,2", 2)]):
        assert call("--network", network, "--outdir", folder / str(number), "--seeds", seeds, "--batch", batch) == 0
    first, *others = (pixels(folder / str(number) / "seed0003.png").astype(int) for number in range(4))
    assert np.array_equal(first, others[0])  # as many at a time
    assert max(np.abs(first - other).max() for other in others[1:]) <= most


def test_a_seeds_image_is_the_same_whatever_is_beside(network: Path, tmp_path: Path) -> None:
    """Bit by bit for one at a time, up to a rounding of the kernels for more."""
    same_whatever_is_beside(network, tmp_path, 1)


def test_latents_in_one_stream_are_found(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a run's first seed decided all of them."""
    monkeypatch.setattr(
        sampling, "latents_of_seeds", lambda seeds, dim, truncation: latents(len(seeds), dim, seed=seeds[0])
    )
    with pytest.raises(AssertionError):
        same_whatever_is_beside(network, tmp_path, 1)


def test_the_grid_has_all_in_order(network: Path, tmp_path: Path) -> None:
    common = ("--network", network, "--seeds", "0-4", "--grid")
    assert call(*common, "--outdir", tmp_path / "both") == 0
    assert names(tmp_path / "both") == ["grid.png", *(f"seed000{i}.png" for i in range(5))]
    grid = pixels(tmp_path / "both" / "grid.png")
    assert grid.shape == (32, 48, 3)
    for seed in range(5):
        top, left = 16 * (seed // 3), 16 * (seed % 3)
        one = pixels(tmp_path / "both" / f"seed000{seed}.png")
        assert np.array_equal(grid[top : top + 16, left : left + 16], one)
    assert call(*common, "--outdir", tmp_path / "one", "--no-images", "--columns", 5) == 0
    assert names(tmp_path / "one") == ["grid.png"]
    assert pixels(tmp_path / "one" / "grid.png").shape == (16, 80, 3)


def test_grey_networks_give_grey_files(tmp_path: Path) -> None:
    saved(tmp_path / "x", channels=1)
    assert call("--network", tmp_path / "x", "--outdir", tmp_path, "--seeds", "0-1", "--grid") == 0
    assert pixels(tmp_path / "seed0001.png").shape == (16, 16)
    assert pixels(tmp_path / "grid.png").shape == (16, 32)


def test_classes_are_the_seeds_own_or_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "x", labelled=True)
    common = ("--network", tmp_path / "x", "--seeds", "0-5", "--batch", 1, "--outdir")
    assert call(*common, tmp_path / "own") == 0
    assert "3 classes: each seed has one of its own, --class N takes one for all" in capsys.readouterr().out
    own = sampling.classes_of_seeds(range(6), 3)
    assert len(set(own)) > 1
    for label in range(3):
        assert call(*common, tmp_path / str(label), "--class", label) == 0
        assert "of its own" not in capsys.readouterr().out
        for seed in range(6):
            file = f"seed{seed:04}.png"
            same = np.array_equal(pixels(tmp_path / "own" / file), pixels(tmp_path / str(label) / file))
            assert same == (own[seed] == label)


def test_truncation_is_for_networks_that_see_lengths(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "x", latent_norm="none")
    for psi in ("0.5", "30"):
        assert call("--network", tmp_path / "x", "--outdir", tmp_path / psi, "--seeds", 0, "--trunc", psi) == 0
    assert call("--network", tmp_path / "x", "--outdir", tmp_path, "--seeds", 0) == 0
    whole = pixels(tmp_path / "seed0000.png").astype(int)
    assert np.abs(pixels(tmp_path / "30" / "seed0000.png") - whole).max() <= 1
    assert np.abs(pixels(tmp_path / "0.5" / "seed0000.png") - whole).max() > 10
    capsys.readouterr()
    assert call("--network", network, "--outdir", tmp_path, "--trunc", 0.5) == 2
    assert "--trunc: expected none, as the network normalises its latents" in capsys.readouterr().err


def test_the_average_and_the_newest_snapshot_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    G, ema, D = make(Generator, 16), make(Generator, 16), make(Discriminator, 16)
    assert isinstance(G, Generator)
    assert isinstance(ema, Generator)
    assert isinstance(D, Discriminator)
    run = tmp_path / "00000-run"
    run.mkdir()
    networks.save(run / networks.snapshot_name(800), networks.Networks(G=G))
    networks.save(run / networks.snapshot_name(1200), networks.Networks(G=G, G_ema=ema, D=D))
    (run / "network-snapshot-latest.safetensors").write_bytes(b"")
    (run / "network-snapshot-009999.pt").write_bytes(b"")
    for name in ("run", "file"):
        path = run if name == "run" else run / "network-snapshot-001200.safetensors"
        assert call("--network", path, "--outdir", tmp_path / name, "--seeds", 0) == 0
        assert "G_ema of" in (said := capsys.readouterr().out)
        assert "network-snapshot-001200.safetensors" in said
        want = Sampler(ema).uint8(latents(1, LATENT, seed=0))[0].numpy()
        assert np.array_equal(pixels(tmp_path / name / "seed0000.png"), want)
    for kimg in (999_999, 1_000_000):  # a digit more
        (run / networks.snapshot_name(kimg)).write_bytes(b"")
    assert networks.newest_snapshot(run) == run / "network-snapshot-1000000.safetensors"


def test_levels_are_asked_for_or_the_snapshots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    G = make(Generator, 16)
    assert isinstance(G, Generator)
    networks.save(tmp_path / "x", networks.Networks(G=G, source={"resolution": 8, "alpha": 0.25}))
    common = ("--network", tmp_path / "x", "--seeds", 0, "--outdir")

    def drawn(*options: object) -> np.ndarray:
        assert call(*common, tmp_path, *options) == 0
        return pixels(tmp_path / "seed0000.png")

    def want(**level: Any) -> np.ndarray:
        return Sampler(G, **level).uint8(latents(1, LATENT, seed=0))[0].numpy()

    assert np.array_equal(drawn(), want(resolution=8, alpha=0.25))
    assert "resolution=8, alpha=0.25" in capsys.readouterr().out
    assert np.array_equal(drawn("--alpha", 1), want(resolution=8))
    assert np.array_equal(drawn("--resolution", 16), want())
    assert np.array_equal(drawn("--resolution", 16, "--alpha", 0.5), want(alpha=0.5))
    networks.save(tmp_path / "x", networks.Networks(G=G, source={"resolution": "8", "alpha": [1]}))
    for options, said in (((), "--resolution: expected one of [4, 8, 16], got '8'"),):
        assert call(*common, tmp_path, *options) == 2
        assert said in capsys.readouterr().err


def test_half_precision_is_near(network: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16", "float64"):
        assert call("--network", network, "--outdir", tmp_path / dtype, "--seeds", 0, "--dtype", dtype) == 0
    exact, single, half = (
        pixels(tmp_path / d / "seed0000.png").astype(int) for d in ("float64", "float32", "bfloat16")
    )
    assert np.abs(single - exact).max() <= 1
    assert 0 < np.abs(half - exact).mean() < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected numbers and ranges, such as 0,1,4-6"),
        ("0,,2", "expected numbers and ranges"),
        ("-3", "expected numbers and ranges"),
        ("1.5", "expected numbers and ranges"),
        ("٣", "expected numbers and ranges"),
        ("6-4", "got '6-4', expected a range that goes up"),
        ("4294967296", "below 2^32"),
        ("0-1000000", "expected at most 1,000,000"),
        ("0-4294967295", "expected at most 1,000,000"),
    ],
)
def test_seeds_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--seeds: ") as raised:
        generators.parse_seeds(text)
    assert said in str(raised.value)


def test_seeds_are_numbers_and_ranges() -> None:
    assert generators.parse_seeds("0, 1 ,4-6,4,4294967295") == [0, 1, 4, 5, 6, 4, 4294967295]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seeds", "0-x"], "--seeds: got '0-x'"),
        (["--class", "3"], "--class: expected none, as the network has no classes, got 3"),
        (["--network", "LABELLED", "--class", "3"], "--class: expected 0 to 2, got 3"),
        (["--network", "LABELLED", "--class", "-1"], "--class: expected 0 to 2, got -1"),
        (["--network", "CRITIC"], "has no generator, only D"),
        (["--network", "FIVE"], "gives images of 5 channels, expected 1 or 3"),
        (["--network", "EMPTY"], "has no network-snapshot-*.safetensors"),
        (["--network", "RUNS"], "has no network-snapshot-*.safetensors, but folders in it have, as RUNS/00001"),
        (
            ["--network", "STATE"],
            "a file of torch.save; it is a training's state: its networks are in RUNS/00001, as",
        ),
        (["--network", "/no/such"], "--network: cannot read /no/such: No such file"),
        (["--network", __file__], "a network file, which is safetensors that"),
        (["--outdir", __file__], "expected a folder"),
        (["--outdir", f"{__file__}/x"], "--outdir: cannot make"),
        (["--outdir", "/proc/x"], "--outdir: cannot make /proc/x"),
        (["--batch", "0"], "--batch: got 0"),
        (["--trunc", "0"], "--trunc: got 0.0, expected a positive number"),
        (["--trunc", "nan"], "--trunc: got nan"),
        (["--alpha", "2"], "--alpha: got 2.0, expected 0 to 1"),
        (["--resolution", "32"], "--resolution: expected one of [4, 8, 16], got 32"),
        (["--device", "abacus"], "--device: got 'abacus'"),
        (["--dtype", "int8"], "int8"),
        (["--no-images"], "--no-images: nothing would be left to write without --grid"),
        (["--columns", "2"], "--columns: got 2, expected a number >= 1, with --grid"),
        (["--columns", "0", "--grid"], "--columns: got 0"),
    ],
)
def test_bad_options_are_one_line_before_any_work(
    options: list[str], said: str, network: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    D = make(Discriminator, 16)
    assert isinstance(D, Discriminator)
    networks.save(tmp_path / "critic", networks.Networks(D=D))
    saved(tmp_path / "labelled", labelled=True)
    saved(tmp_path / "five", channels=5)
    (tmp_path / "empty").mkdir()
    run = tmp_path / "runs" / "00001"
    run.mkdir(parents=True)
    saved(run / "network-snapshot-000000.safetensors")
    torch.save({}, run / "training-state-000000064.pt")
    monkeypatch.setattr(Sampler, "uint8", lambda *args: pytest.fail("it has begun"))
    own = {name.upper(): tmp_path / name for name in ("labelled", "critic", "five", "empty", "runs")}
    own["STATE"] = run / "training-state-000000064.pt"
    given = [str(own.get(word, word)) for word in options]
    rest = [("--network", network), ("--outdir", tmp_path / "out")]
    assert call(*given, *(word for pair in rest if pair[0] not in given for word in pair)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("pggan-fast: error: ")
    assert said.replace("RUNS", str(own["RUNS"])) in line
    assert not (tmp_path / "out").exists()


def test_a_grid_that_does_not_fit_is_told_before_the_work(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pggan_fast.benchmarks import timing

    monkeypatch.setattr(timing, "available_bytes", lambda device: 1 << 20)
    assert call("--network", network, "--outdir", tmp_path, "--seeds", "0-2000", "--grid") == 2
    assert "--grid: 2,001 images need 3 MiB of memory, 1 MiB are free" in capsys.readouterr().err
    assert names(tmp_path) == ["small.safetensors"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
def test_a_run_that_is_stopped_leaves_whole_files(
    error: BaseException, status: int, network: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Stopped in the middle of the third file."""
    real, begun = Image.Image.save, []

    def save(self: Image.Image, fp: Any, *args: Any, **options: Any) -> None:
        begun.append(fp)
        if len(begun) == 3:
            fp.write(b"half")
            raise error
        real(self, fp, *args, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    assert call("--network", network, "--outdir", tmp_path / "out", "--seeds", "0-9") == status
    assert names(tmp_path / "out") == ["seed0000.png", "seed0001.png"]
    assert pixels(tmp_path / "out" / "seed0001.png").shape == (16, 16, 3)
    if status == 1:
        assert f"cannot write {tmp_path / 'out'}: No space left on device" in capsys.readouterr().err
