"""Animated pictures that loop forever, and videos: one frame in memory at a time, and files whole or not at all.

GIF has 256 colours a frame; APNG loses nothing; WebP and MP4 (H.264) are compressed with loss. Frames of the first
three are encoded by Pillow and put together here, since Pillow keeps all frames of an animation until the last has
come; MP4 is written by the ffmpeg that comes with imageio-ffmpeg.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import GifImagePlugin, Image, features

from pggan_fast.files import write_atomically
from pggan_fast.ops import _checks

__all__ = ["FORMATS", "Film", "Format", "check", "save", "unavailable"]

MISSING = "MP4 needs ffmpeg: pip install imageio-ffmpeg"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Film:
    """Pictures of one size and of mode "L" or "RGB", which come as they are asked for."""

    frames: Iterator[Image.Image]
    count: int
    size: tuple[int, int]  # width, height
    fps: int

    def until(self, number: int, per_second: int) -> int:
        """When frame `number` begins, in 1 / per_second s: rounded so that no error adds up."""
        return round(number * per_second / self.fps)

    def lasts(self, number: int, per_second: int) -> int:
        return self.until(number + 1, per_second) - self.until(number, per_second)


def _gif(file: BinaryIO, film: Film) -> None:
    file.write(b"GIF89a" + struct.pack("<2H3B", *film.size, 0, 0, 0))  # each frame has its own colours
    file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # again, forever
    for number, frame in enumerate(film.frames):
        indexed = frame.convert("P") if frame.mode == "L" else frame.quantize(256)
        for block in GifImagePlugin.getdata(indexed, duration=10 * film.lasts(number, 100), include_color_table=True):
            file.write(block)
    file.write(b";")


def _apng(file: BinaryIO, film: Film) -> None:
    def chunk(kind: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

    sequence = 0
    for number, frame in enumerate(film.frames):
        parts = list(_png_chunks(_encoded(frame, "PNG")))
        if number == 0:
            file.write(_PNG)
            chunk(*parts[0])  # IHDR
            chunk(b"acTL", struct.pack(">2I", film.count, 0))
        chunk(b"fcTL", struct.pack(">5I2H2B", sequence, *film.size, 0, 0, 1, film.fps, 0, 0))
        sequence += 1
        for data in (data for kind, data in parts if kind == b"IDAT"):
            if number == 0:
                chunk(b"IDAT", data)
            else:
                chunk(b"fdAT", struct.pack(">I", sequence) + data)
                sequence += 1
    chunk(b"IEND", b"")


def _webp(file: BinaryIO, film: Film) -> None:
    def chunk(kind: bytes, data: bytes) -> None:
        file.write(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))

    def three(*numbers: int) -> bytes:  # of three bytes each
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    start = file.tell()
    size = film.size[0] - 1, film.size[1] - 1
    file.write(b"RIFF\0\0\0\0WEBP")
    chunk(b"VP8X", bytes((2, 0, 0, 0)) + three(*size))  # animated
    chunk(b"ANIM", bytes(6))  # on black, forever
    for number, frame in enumerate(film.frames):
        still = _encoded(frame, "WEBP", quality=90)
        chunk(b"ANMF", three(0, 0, *size, film.lasts(number, 1000)) + b"\x02" + still[12:])  # in place of the last one
    end = file.tell()
    file.seek(start + 4)
    file.write(struct.pack("<I", end - start - 8))
    file.seek(end)


def _mp4(file: BinaryIO, film: Film) -> None:
    """By way of a file of ffmpeg's own, which it must be able to seek in and to name."""
    with tempfile.TemporaryDirectory(prefix="pggan-fast-") as folder, tempfile.TemporaryFile() as said:
        made = Path(folder) / "film.mp4"
        process = subprocess.Popen(_ffmpeg(film, made), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it has given up, and says why
                for frame in film.frames:
                    process.stdin.write(frame.convert("RGB").tobytes())
                process.stdin.close()
            status = process.wait()
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
        if status:
            said.seek(0)
            raise OSError(f"ffmpeg failed: {' '.join(said.read().decode(errors='replace').split())[-500:]}")
        with open(made, "rb") as whole:
            shutil.copyfileobj(whole, file)


def _ffmpeg(film: Film, made: Path) -> list[str]:
    import imageio_ffmpeg

    width, height = film.size
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(film.fps), "-i", "-"]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]  # players want colours at half the resolution
    coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "17", "-movflags", "+faststart"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *given, *even, *coded, str(made)]


def _encoded(frame: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12


@dataclass(frozen=True)
class Format:
    """How a kind of file is written, and what viewers take of it."""

    write: Callable[[BinaryIO, Film], None]
    largest: int  # side, in pixels
    fastest: int  # frames per second; viewers show a GIF's frames for 2/100 s at least


FORMATS = {
    ".gif": Format(_gif, 65535, 50),
    ".webp": Format(_webp, 16383, 1000),
    ".apng": Format(_apng, 65535, 1000),
    ".mp4": Format(_mp4, 16384, 1000),
}


def check(path: str | os.PathLike[str], fps: int, size: tuple[int, int] | None = None) -> None:
    """Raise ValueError where a video of this name, speed and, if given, (width, height) cannot be written here."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"output: expected a name that ends in {', '.join(FORMATS)}, got {Path(path).name}")
    if reason := unavailable(suffix):
        raise ValueError(f"output: {reason}")
    _checks.counts(1, fps=fps)
    if fps > FORMATS[suffix].fastest:
        raise ValueError(f"fps: expected at most {FORMATS[suffix].fastest} for {suffix}, got {fps}")
    if size is not None and not 1 <= min(size) <= max(size) <= FORMATS[suffix].largest:
        raise ValueError(f"size: expected 1 to {FORMATS[suffix].largest} pixels for {suffix}, got {size[0]}x{size[1]}")


def unavailable(suffix: str) -> str | None:
    """Why files of this suffix cannot be written here."""
    if suffix == ".webp" and not features.check("webp"):
        return "this Pillow was built without WebP"
    if suffix != ".mp4":
        return None
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return MISSING
    import imageio_ffmpeg

    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        return f"imageio-ffmpeg finds no ffmpeg: {' '.join(str(error).split())}"
    return None


def save(path: str | os.PathLike[str], frames: Iterator[Image.Image], count: int, *, fps: int) -> None:
    """Write `count` pictures of one size as the path's suffix says: .gif, .webp, .apng or .mp4.

    frames: "L" or "RGB" of Pillow, asked for one by one. Raises ValueError as `check` does, and where frames differ in
    size or number; OSError of the file system and of ffmpeg. Where anything is raised the path is left as it was.
    """
    check(path, fps)
    _checks.counts(1, count=count)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"frames: expected {count}, got none")
    check(path, fps, first.size)
    film = Film(_checked(first, frames, count), count, first.size, fps)
    write_atomically(Path(path), lambda file: FORMATS[Path(path).suffix.lower()].write(file, film))


def _checked(first: Image.Image, others: Iterator[Image.Image], count: int) -> Iterator[Image.Image]:
    yield first
    number = 1
    for frame in others:
        if number == count or (frame.size, frame.mode) != (first.size, first.mode):
            got = f"another one of {frame.mode} {frame.size[0]}x{frame.size[1]}"
            raise ValueError(f"frames: expected {count} of {first.mode} {first.size[0]}x{first.size[1]}, got {got}")
        yield frame
        number += 1
    if number != count:
        raise ValueError(f"frames: expected {count}, got {number}")
