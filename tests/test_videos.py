"""Animations and videos: what is written is read again, frames come one by one, and a file is whole or as it was."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pggan_fast import videos

ANIMATIONS = [".gif", ".webp", ".apng"]


def pictures(n: int, mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> list[Image.Image]:
    """Smooth ones, as compression likes them, each of another colour."""
    ramp = np.linspace(0, 90, size[0])[None, :, None] + np.linspace(0, 60, size[1])[:, None, None]
    made = [ramp + 100 * np.array([i / n, 1 - i / n, (i % 3) / 3]) for i in range(n)]
    return [Image.fromarray(x[:, :, 0].astype(np.uint8) if mode == "L" else x.astype(np.uint8)) for x in made]


def read(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Frames in RGB and how long each lasts, in ms; it must loop forever."""
    frames, lasts = [], []
    with Image.open(path) as film:
        assert film.info["loop"] == 0
        for number in range(getattr(film, "n_frames", 1)):
            film.seek(number)
            film.load()
            lasts.append(film.info["duration"])
            frames.append(np.asarray(film.convert("RGB")).astype(int))
    return frames, lasts


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ANIMATIONS)
def test_frames_are_read_again(suffix: str, mode: str, tmp_path: Path) -> None:
    given = pictures(7, mode)
    videos.save(tmp_path / f"x{suffix}", iter(given), 7, fps=30)
    frames, lasts = read(tmp_path / f"x{suffix}")
    assert len(frames) == 7
    exact = suffix == ".apng" or (suffix, mode) == (".gif", "L")
    for got, want in zip(frames, given, strict=True):
        difference = np.abs(got - np.asarray(want.convert("RGB")))
        assert difference.max() <= (0 if exact else 12)
    unit = {".gif": 10, ".webp": 1, ".apng": 1e-3}[suffix]
    assert abs(sum(lasts) - 7000 / 30) <= unit  # what is rounded does not add up
    assert max(lasts) - min(lasts) <= 1.01 * unit


@pytest.mark.parametrize("suffix", ANIMATIONS)
def test_one_frame_is_in_memory_at_a_time(suffix: str, tmp_path: Path) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def frames() -> Iterator[Image.Image]:
        nonlocal most
        for i in range(12):
            frame = Image.new("RGB", (24, 16), (20 * i, 0, 0))
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            most = max(most, sum(ref() is not None for ref in alive))

    videos.save(tmp_path / f"x{suffix}", frames(), 12, fps=10)
    assert most <= 3  # the one that is written, the first, and the last that was


@pytest.mark.parametrize("suffix", ANIMATIONS)
@pytest.mark.parametrize("fault", [KeyboardInterrupt, "fewer", "more", "larger"])
def test_a_file_is_whole_or_as_it_was(suffix: str, fault: object, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"before")

    def frames() -> Iterator[Image.Image]:
        yield from pictures(3)
        if fault is KeyboardInterrupt:
            raise KeyboardInterrupt
        if fault == "larger":
            yield pictures(1, size=(25, 16))[0]
        elif fault == "more":
            yield from pictures(2)
            pytest.fail("a frame too many is enough")

    with pytest.raises(KeyboardInterrupt if fault is KeyboardInterrupt else ValueError) as raised:
        videos.save(path, frames(), 4, fps=10)
    assert fault is KeyboardInterrupt or "frames: expected 4" in str(raised.value)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said() -> None:
    with pytest.raises(ValueError, match=r"output: expected a name that ends in .gif, .webp, .apng, .mp4, got x.avi"):
        videos.check("x.avi", 30)
    with pytest.raises(ValueError, match=r"fps: expected at most 50 for .gif, got 60"):
        videos.check("X.GIF", 60)
    with pytest.raises(ValueError, match="fps: expected an integer >= 1, got 0"):
        videos.check("x.apng", 0)
    with pytest.raises(ValueError, match=r"size: expected 1 to 16383 pixels for .webp, got 20000x4"):
        videos.check("x.webp", 30, (20000, 4))


def test_without_ffmpeg_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(videos.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="output: MP4 needs ffmpeg: pip install imageio-ffmpeg"):
        videos.save(tmp_path / "x.mp4", iter(pictures(2)), 2, fps=30)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A program in its place, which the test writes, and a folder for its files."""
    program = tmp_path / "ffmpeg"
    (tmp_path / "imageio_ffmpeg.py").write_text(f"def get_ffmpeg_exe():\n    return {str(program)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imageio_ffmpeg", raising=False)
    (tmp_path / "films").mkdir()
    yield program
    sys.modules.pop("imageio_ffmpeg", None)


def write(program: Path, body: str) -> None:
    program.write_text(f"#!{sys.executable}\nimport sys, time\n{body}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ffmpeg_is_given_every_frame(ffmpeg: Path, mode: str) -> None:
    write(ffmpeg, "open(sys.argv[-1], 'wb').write(' '.join(sys.argv).encode() + b'|' + sys.stdin.buffer.read())")
    path, given = ffmpeg.parent / "films" / "x.mp4", pictures(3, mode)
    videos.save(path, iter(given), 3, fps=25)
    options, _, pixels = path.read_bytes().partition(b"|")
    assert pixels == b"".join(frame.convert("RGB").tobytes() for frame in given)
    assert all(text in options for text in (b"-pix_fmt rgb24 -s 24x16 -r 25 -i -", b"libx264", b"pad=ceil(iw/2)*2"))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "body", ["sys.exit('no such\\ncodec')", "sys.stdin.buffer.read(); sys.exit('no such\\ncodec')"]
)
def test_what_ffmpeg_says_is_one_line(ffmpeg: Path, body: str) -> None:
    write(ffmpeg, body)
    path = ffmpeg.parent / "films" / "x.mp4"
    with pytest.raises(OSError, match="ffmpeg failed: no such codec"):
        videos.save(path, iter(pictures(40, size=(200, 100))), 40, fps=25)
    assert not list(path.parent.iterdir())


def test_a_stopped_video_ends_ffmpeg_and_leaves_nothing(ffmpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(ffmpeg, "time.sleep(600)")
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(videos.subprocess, "Popen", Popen)

    def frames() -> Iterator[Image.Image]:
        yield from pictures(2)
        raise KeyboardInterrupt

    path = ffmpeg.parent / "films" / "x.mp4"
    with pytest.raises(KeyboardInterrupt):
        videos.save(path, frames(), 9, fps=25)
    assert started[0].returncode is not None
    assert not list(path.parent.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason=videos.MISSING)
def test_a_real_video_is_read_again(tmp_path: Path) -> None:
    import imageio_ffmpeg

    given = pictures(9, size=(47, 33))  # odd sizes are padded
    videos.save(tmp_path / "x.mp4", iter(given), 9, fps=25)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "x.mp4"), pix_fmt="rgb24")
    assert next(reader)["size"] == (48, 34)
    frames = [np.frombuffer(frame, np.uint8).reshape(34, 48, 3)[:33, :47].astype(int) for frame in reader]
    assert len(frames) == 9
    for got, want in zip(frames, given, strict=True):
        assert np.abs(got - np.asarray(want)).mean() < 6
