"""Image files of any format, mode and size to uint8 arrays, and back to PNG. Hostile bytes are refused."""

from __future__ import annotations

import functools
import io
import stat
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pggan_fast.data.errors import ImageRefused
from pggan_fast.errors import line

Pixels = npt.NDArray[np.uint8]  # [H, W] or [H, W, 3]
Transform = Literal["center-crop", "center-crop-wide", "stretch"]
TRANSFORMS: tuple[Transform, ...] = ("center-crop", "center-crop-wide", "stretch")

MAX_PIXELS = 89_000_000  # 270 megabytes of RGB. Pillow warns of more than 89,478,485, and that would say it twice
MAX_BYTES = 1 << 28  # of one file
# Those that Pillow decodes by itself: EPS and WMF would start other programs
FORMATS = (
    *("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "SGI", "ICO"),
    *("PSD", "DDS", "QOI", "XBM", "ICNS", "MPO"),
)
_TOP = {"I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "I": 65535.0}


@functools.cache
def _formats() -> tuple[str, ...]:
    """Of FORMATS those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_file(path: Path) -> bytes:
    """The bytes of an image's file. Raises ImageRefused, of kind "giant", "not a file" or "unreadable"."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ImageRefused("not a file", "a folder, pipe, socket or device")
        if about.st_size > MAX_BYTES:
            raise ImageRefused("giant", f"{about.st_size} bytes, at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise ImageRefused("unreadable", error.strerror or line(error)) from None


def decode(data: bytes, channels: int | None = 3, background: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    """The pixels of an image file: uint8 [H, W, 3], or [H, W] for one channel.

    Turned upright as its EXIF says; of an animation the first frame. What is transparent shows `background`. 16 bits a
    channel are rounded to 8, float pixels are taken to be in [0, 1], or in [0, 255] where one is beyond 1. CMYK and
    other colour spaces are converted as Pillow does, without colour profiles.

    Args:
        channels: 3, 1 (grey), or None: 1 for files of one grey channel and 3 for all others.
    Raises:
        ImageRefused: of kind "not an image", "giant" (over 89 million pixels or 2^28 bytes) or "broken".
    """
    if len(data) > MAX_BYTES:
        raise ImageRefused("giant", f"{len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageRefused("giant", f"{width}x{height} pixels, at most {MAX_PIXELS} in all are decoded")
            return _pixels(image, channels, background)
    except ImageRefused:
        raise
    except UnidentifiedImageError:
        raise ImageRefused("not an image", "no image format that is known" if data else "an empty file") from None
    except Image.DecompressionBombError as error:
        raise ImageRefused("giant", line(error)) from None
    except Exception as error:  # decoders raise nearly anything over bytes that somebody made up
        raise ImageRefused("broken", f"{line(error)} ({type(error).__name__})") from None


def _pixels(image: Image.Image, channels: int | None, background: tuple[int, int, int]) -> Pixels:
    image.load()
    if channels is None:
        grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
        channels = 1 if grey and not image.has_transparency_data else 3
    image = _upright(image)
    if image.mode in _TOP or image.mode == "F":
        image = Image.fromarray(_eight_bits(image))
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.new("RGBA", over.size, (*background, 255))
        image.alpha_composite(over)
    if image.mode == "LAB":
        image = _from_lab(image)
    return np.asarray(image.convert("RGB" if channels == 3 else "L"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken metadata: the pixels are whole
        return image


def _eight_bits(image: Image.Image) -> Pixels:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        top = 1.0 if values.size and values.max() <= 1.0 else 255.0
    else:
        top = _TOP[image.mode]
        if values.size and values.max() > top:
            raise ImageRefused("broken", f"integers up to {values.max():.0f}, expected 16 bits at most")
    return np.rint(values * (255.0 / top)).clip(0, 255).astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None  # it is not done in place
    return converted


def fit(pixels: Pixels, size: tuple[int, int], transform: Transform, enlarge: bool = False) -> Pixels:
    """An image brought to `size` (height, width), with Lanczos' filter.

    center-crop: the largest part of the wanted shape in the middle, scaled. center-crop-wide: the same of width x
    height, in the middle of a black square of the width. stretch: all of it, whatever becomes of its shape.

    Raises ImageRefused of kind "tiny" where pixels would have to be invented, unless `enlarge`.
    """
    height, width = size
    h, w = pixels.shape[:2]
    if not enlarge and (w < width or h < height):
        raise ImageRefused("tiny", f"{w}x{h}, smaller than {width}x{height}")
    if transform != "stretch":
        part = min(w / width, h / height)
        cut_w, cut_h = max(1, round(part * width)), max(1, round(part * height))
        left, upper = (w - cut_w) // 2, (h - cut_h) // 2
        pixels = pixels[upper : upper + cut_h, left : left + cut_w]  # Pillow's own box lets its surroundings in
    if pixels.shape[:2] != size:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    if transform != "center-crop-wide":
        return pixels
    canvas = np.zeros((width, width, *pixels.shape[2:]), np.uint8)
    top = (width - height) // 2
    canvas[top : top + height] = pixels
    return canvas


def encode(pixels: Pixels) -> bytes:
    """PNG without compression, as the ZIP it goes into has none: reading costs next to nothing."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=0)
    return file.getvalue()
