"""`pggan-fast video`: key frames are the seeds' images, cells have their own, and what is refused before any work."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_networks
from PIL import Image
from small_networks import LATENT

from pggan_fast import cli, networks, sampling, videos
from pggan_fast.inference import Sampler, latents

saved = functools.partial(small_networks.saved, name="G_ema", resolution=8)


def call(*arguments: object) -> object:
    with pytest.raises(SystemExit) as stop:
        cli.main(["video", *map(str, arguments)])
    return stop.value.code


def frames(path: Path) -> np.ndarray:
    with Image.open(path) as film:
        found = []
        for number in range(getattr(film, "n_frames", 1)):
            film.seek(number)
            found.append(np.asarray(film.convert("RGB")).astype(int))
    return np.stack(found)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    saved(tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def image(network: Path, seed: int) -> np.ndarray:
    G = networks.load(network).G_ema
    assert G is not None
    return Sampler(G).uint8(latents(1, LATENT, seed=seed))[0].numpy().astype(int)


def test_key_frames_are_the_seeds_images(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two cells with three seeds each; the frame after the last is the first again."""
    options = ("--seeds", "5-10", "--grid", "1x2", "--w-frames", 4, "--output", tmp_path / "x.apng", "--fps", 10)
    assert call("--network", network, *options) == 0
    shown = frames(tmp_path / "x.apng")
    assert shown.shape == (12, 16, 8, 3)
    for cell in range(2):
        for key in range(3):
            got = shown[4 * key, 8 * cell : 8 * cell + 8]
            assert np.abs(got - image(network, 5 + 3 * cell + key)).max() <= 1
    steps = [np.abs(shown[(i + 1) % 12] - shown[i]).mean() for i in range(12)]
    jump = np.abs(shown[4] - shown[0]).mean()
    assert 0 < max(steps) < 0.7 * jump  # no cut anywhere, the last to the first included
    said = capsys.readouterr()
    assert "x.apng: 12 frames of 8x16, 1.2 s" in said.out
    assert "frames: 12 of 12" in said.err


def test_batches_do_not_change_it(network: Path, tmp_path: Path) -> None:
    shown = []
    for batch in (1, 5, 64):
        path = tmp_path / f"{batch}.apng"
        options = ("--seeds", "0-5", "--grid", "2x1", "--w-frames", 3, "--batch", batch)
        assert call("--network", network, *options, "--output", path) == 0
        shown.append(frames(path))
    assert max(np.abs(shown[0] - other).max() for other in shown[1:]) <= 1


def test_seeds_start_again_where_more_are_needed(network: Path, tmp_path: Path) -> None:
    options = ("--seeds", "0-2", "--grid", "2x1", "--num-keyframes", 2, "--w-frames", 1)
    assert call("--network", network, *options, "--output", tmp_path / "x.apng") == 0
    shown = frames(tmp_path / "x.apng")
    for frame, cell, seed in ((0, 0, 0), (1, 0, 1), (0, 1, 2), (1, 1, 0)):
        assert np.abs(shown[frame][:, 8 * cell : 8 * cell + 8] - image(network, seed)).max() <= 1


def test_a_cell_keeps_its_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of its first seed; a label between two classes was never trained."""
    G = saved(tmp_path / "x", labelled=True)
    own = sampling.classes_of_seeds(range(2, 8), 3)
    assert call("--network", tmp_path / "x", "--seeds", "2-7", "--grid", "3x1", "--w-frames", 1,
                "--output", tmp_path / "x.apng") == 0  # fmt: skip
    assert "3 classes: each cell has one of its own" in capsys.readouterr().out
    shown = frames(tmp_path / "x.apng")
    assert len({own[0], own[2], own[4]}) > 1
    assert any(own[2 * cell] != own[2 * cell + 1] for cell in range(3))
    for cell in range(3):
        for key in range(2):
            labels = sampling.labels_of_seeds(G, [0], own[2 * cell])
            want = Sampler(G).uint8(latents(1, LATENT, seed=2 + 2 * cell + key), labels)[0].numpy().astype(int)
            assert np.abs(shown[key][:, 8 * cell : 8 * cell + 8] - want).max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".GIF"])
def test_other_animations_have_as_many_frames(suffix: str, network: Path, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    assert call("--network", network, "--seeds", "0-1", "--w-frames", 5, "--output", path, "--fps", 50) == 0
    assert frames(path).shape == (10, 8, 8, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "x.avi"], "--output: expected a name that ends in .gif, .webp, .apng, .mp4, got x.avi"),
        (["--output", "x"], "--output: expected a name that ends in"),
        (["--output", "x.mp4"], "--output: MP4 needs ffmpeg: pip install imageio-ffmpeg"),
        (["--output", "/no/such/x.gif"], "--output: the folder /no/such does not exist"),
        (["--grid", "4"], "--grid: got '4', expected columns and rows, such as 4x3"),
        (["--grid", "0x3"], "--grid: got '0x3'"),
        (["--seeds", "0-8", "--grid", "4x3"], "--seeds: got 9 for 12 cells, expected 2 or more for each: 24, 36"),
        (["--seeds", "0"], "--seeds: got 1 for 1 cells"),
        (["--seeds", "a"], "--seeds: got 'a'"),
        (["--num-keyframes", "1"], "--num-keyframes: got 1, expected a number >= 2"),
        (["--w-frames", "0"], "--w-frames: got 0"),
        (["--fps", "0"], "--fps: expected an integer >= 1, got 0"),
        (["--fps", "60"], "--fps: expected at most 50 for .gif, got 60"),
        (["--class", "0"], "--class: expected none, as the network has no classes"),
        (["--trunc", "0.7"], "--trunc: expected none, as the network normalises its latents"),
        (["--batch", "0"], "--batch: got 0"),
        (["--output", "x.webp", "--grid", "999x1", "--num-keyframes", "2", "--network", "WIDE"],
         "--grid: expected 1 to 16383 pixels for .webp, got 31968x8"),
        (["--network", "/no/such"], "--network: cannot read /no/such"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line_before_any_work(
    options: list[str], said: str, network: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Sampler, "uint8", lambda *args: pytest.fail("it has begun"))
    real = videos.unavailable
    monkeypatch.setattr(videos, "unavailable", lambda suffix: videos.MISSING if suffix == ".mp4" else real(suffix))
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "wide", base_shape=(4, 16))
    before = sorted(tmp_path.iterdir())
    given = [str(tmp_path / "wide") if word == "WIDE" else word for word in options]
    rest = [("--network", network), ("--output", "x.gif")]
    assert call(*given, *(word for pair in rest if pair[0] not in given for word in pair)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("pggan-fast: error: ")
    assert said in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)])
@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_a_run_that_is_stopped_leaves_the_file_as_it_was(
    suffix: str, error: BaseException, status: int, network: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, made = tmp_path / f"x{suffix}", []
    path.write_bytes(b"before")
    real = Sampler.uint8

    def uint8(self: Sampler, *args: Any) -> Any:
        made.append(args)
        if len(made) == 4:
            raise error
        return real(self, *args)

    monkeypatch.setattr(Sampler, "uint8", uint8)
    before = sorted(tmp_path.iterdir())
    assert call("--network", network, "--seeds", "0-1", "--w-frames", 5, "--batch", 1, "--output", path) == status
    assert len(made) == 4
    assert path.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == before
    if status == 1:
        assert f"cannot write {path}: No space left on device" in capsys.readouterr().err
