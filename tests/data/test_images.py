"""Any image file to uint8 pixels: modes, sizes, hostile bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import attempt, file_of, pixels
from PIL import Image

from pggan_fast.data.errors import ImageRefused
from pggan_fast.data.images import MAX_PIXELS, decode, encode, fit

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # on metadata, and on sizes that are refused

RGB = pixels(0, 5, 7)
KINDS = ("not an image", "broken", "giant")
GREY = RGB[..., 0]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    data = file_of(RGB, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode(data), RGB)


def test_transparent_pixels_show_the_background() -> None:
    rgba = np.dstack([RGB, np.full((5, 7), 255, np.uint8)])
    rgba[0, 0, 3], rgba[1, 1, 3] = 0, 51  # a fifth
    got = decode(file_of(rgba), background=(255, 0, 10))
    assert got[0, 0].tolist() == [255, 0, 10]
    expected = np.rint(0.2 * RGB[1, 1] + 0.8 * np.array([255, 0, 10]))
    assert np.abs(got[1, 1].astype(int) - expected).max() <= 1
    assert np.array_equal(got[2:], RGB[2:])
    grey = np.dstack([GREY, rgba[..., 3]])
    assert decode(file_of(Image.fromarray(grey, "LA")))[0, 0].tolist() == [255, 255, 255]


def test_palettes_with_and_without_a_transparent_colour() -> None:
    image = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(decode(file_of(image)), np.asarray(image.convert("RGB")))
    index = int(np.asarray(image)[2, 3])
    got = decode(file_of(image, transparency=index), background=(1, 2, 3))
    assert (got[np.asarray(image) == index] == (1, 2, 3)).all()
    assert np.array_equal(decode(file_of(Image.fromarray(GREY > 99)))[..., 0], (GREY > 99) * np.uint8(255))


def test_sixteen_bits_are_rounded() -> None:
    deep = np.array([[0, 128, 129, 257, 385, 386, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 1, 2, 255]  # 128.5 and 385.5 are the middles
    assert decode(file_of(Image.fromarray(deep)), channels=None)[0].tolist() == expected
    assert decode(file_of(Image.fromarray(deep), "TIFF"))[0, :, 2].tolist() == expected
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert decode(file_of(floats, "TIFF"), channels=1)[0].tolist() == [0, 128, 255]
    wide = Image.fromarray(np.array([[0.0, float("nan"), 300.0]], np.float32))
    assert decode(file_of(wide, "TIFF"), channels=1)[0].tolist() == [0, 0, 255]


def test_cmyk_and_lab_become_rgb() -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = decode(file_of(cmyk, "TIFF"))
    assert red[0, 0].tolist() == [255, 0, 0]
    assert decode(file_of(cmyk, "JPEG", quality=95)).shape == (4, 4, 3)
    white = decode(file_of(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"))
    assert white.min() >= 250


def test_exif_turns_and_broken_exif_does_not_matter() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    assert np.array_equal(decode(file_of(RGB, exif=exif)), np.rot90(RGB, -1))
    assert np.array_equal(decode(file_of(RGB, exif=b"Exif\0\0nonsense")), RGB)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(pixels(i, 5, 7)) for i in range(3)]
    data = file_of(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode(data), pixels(0, 5, 7))
    gif = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert decode(file_of(gif[0], "GIF", save_all=True, append_images=gif[1:]))[0, 0].tolist() == [255, 0, 0]


def test_channels() -> None:
    assert np.array_equal(decode(file_of(GREY), None), GREY)
    assert decode(file_of(RGB), None).shape == (5, 7, 3)
    assert np.array_equal(decode(file_of(GREY)), np.dstack([GREY] * 3))
    assert decode(file_of(RGB), 1).shape == (5, 7)


def giant_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (file_of(RGB)[:-60], "broken"),
        (giant_png(MAX_PIXELS, 2), "giant"),
        (giant_png(MAX_PIXELS // 2 + 1, 2), "giant"),
        (giant_png(1 << 30, 1 << 30), "giant"),
    ],
)
def test_what_is_refused(data: bytes, kind: str) -> None:
    with pytest.raises(ImageRefused) as refused:
        decode(data)
    assert refused.value.kind == kind
    assert "\n" not in str(refused.value)


WHOLE = [file_of(RGB), file_of(RGB, "JPEG"), file_of(RGB, "GIF"), file_of(RGB, "TIFF"), file_of(RGB, "WEBP")]
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8)


@given(st.sampled_from(WHOLE), edits, st.integers(0, 400) | st.none())
def test_damaged_files_are_decoded_or_refused(whole: bytes, changes: list[tuple[int, int]], cut: int | None) -> None:
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    got = attempt(decode, bytes(data[:cut]))
    if isinstance(got, ImageRefused):
        return
    assert got.dtype == np.uint8
    assert got.ndim == 3


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for head in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"BM", b"P6 ", b"qoif"):
        got = attempt(decode, head + data)
        assert got.kind in KINDS if isinstance(got, ImageRefused) else got.dtype == np.uint8


def test_center_crop_takes_the_middle() -> None:
    image = np.zeros((6, 10, 3), np.uint8)
    image[:, 2:8] = 200
    assert (fit(image, (6, 6), "center-crop") == 200).all()
    assert (fit(image, (3, 3), "center-crop") == 200).all()
    assert (fit(image.transpose(1, 0, 2), (6, 6), "center-crop") == 200).all()
    assert np.array_equal(fit(image, (6, 10), "center-crop"), image)
    assert (fit(image, (6, 6), "stretch")[:, 0] < 200).all()


def test_wide_crops_stand_in_a_black_square() -> None:
    got = fit(np.full((8, 10, 3), 200, np.uint8), (4, 8), "center-crop-wide")
    assert got.shape == (8, 8, 3)
    assert (got[2:6] == 200).all()
    assert not got[:2].any()
    assert not got[6:].any()


def test_small_images_are_enlarged_only_if_that_is_wanted() -> None:
    with pytest.raises(ImageRefused, match="7x5, smaller than 6x6") as refused:
        fit(RGB, (6, 6), "center-crop")
    assert refused.value.kind == "tiny"
    assert fit(RGB, (6, 6), "center-crop", enlarge=True).shape == (6, 6, 3)
    assert fit(pixels(1, 1, 3000), (8, 8), "center-crop", enlarge=True).shape == (8, 8, 3)


def test_encoding_loses_nothing() -> None:
    for image in (RGB, GREY):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(image)))), image)
