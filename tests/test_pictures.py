"""Pictures of several images: every image in its place, files whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import LATENT, make

from pggan_fast.inference import Sampler
from pggan_fast.models import Generator
from pggan_fast.pictures import grid, grid_size, save_png


def some(n: int, channels: int = 3, height: int = 2, width: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gap", [0, 2])
def test_every_image_is_in_its_place(channels: int, gap: int) -> None:
    images = some(5, channels)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    last = images.permute(0, 2, 3, 1)
    for given in (images, list(images), channels_last, last, list(last)):
        picture = grid(given, 2, gap)
        assert picture.mode == ("L" if channels == 1 else "RGB")
        pixels = np.asarray(picture).reshape(*picture.size[::-1], channels)
        want = np.full((gap + 3 * (2 + gap), gap + 2 * (3 + gap), channels), 128, np.uint8)
        for number, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]):
            y, x = gap + top * (2 + gap), gap + left * (3 + gap)
            want[y : y + 2, x : x + 3] = images[number].permute(1, 2, 0).numpy()
        assert np.array_equal(pixels, want)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_a_sampler_gives_becomes_a_file(channels: int, tmp_path: Path) -> None:
    """The three lines that anybody writes; its bytes are [N, H, W, C]."""
    G = make(Generator, channels=channels)
    assert isinstance(G, Generator)
    pixels = Sampler(G).uint8(torch.randn(4, LATENT))
    save_png(tmp_path / "x.png", grid(pixels))
    with Image.open(tmp_path / "x.png") as read:
        assert read.mode == ("L" if channels == 1 else "RGB")
        found = np.asarray(read).reshape(32, 32, channels)
    assert np.array_equal(found[16:, :16], pixels[2].numpy())


def test_what_could_be_either_has_its_channels_first() -> None:
    assert grid(some(1, 3, 5, 3)).size == (3, 5)


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (64, 8, 8), (65, 9, 8)])
def test_about_as_many_columns_as_rows(n: int, columns: int, rows: int) -> None:
    assert grid(some(n)).size == (3 * columns, 2 * rows)


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [(4, 4, (32, 32)), (128, 128, (32, 32)), (256, 256, (30, 16)), (1024, 1024, (7, 4)), (96, 512, (15, 32))],
)
def test_the_size_of_a_trainings_grid(height: int, width: int, want: tuple[int, int]) -> None:
    assert grid_size(height, width) == want


def test_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="expected one or more, got none"):
        grid([])
    with pytest.raises(TypeError, match=r"expected torch.uint8, got torch.float32"):
        grid(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match=r"expected \[N, 1 or 3, H, W\] or \[N, H, W, 1 or 3\], got \[2, 4, 2, 5\]"):
        grid(some(2, 4, 2, 5))
    with pytest.raises(
        ValueError, match=r"number 1: expected torch.uint8 \[3, 2, 3\] as the first, got .* \[3, 2, 4\]"
    ):
        grid([*some(1), *some(1, width=4)])
    with pytest.raises(ValueError, match="columns: expected an integer >= 1, got 0"):
        grid(some(1), 0)
    with pytest.raises(ValueError, match="gap: expected an integer >= 0, got -1"):
        grid(some(1), 1, -1)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    picture, path = grid(some(4)), tmp_path / "x.png"
    save_png(path, picture)
    with Image.open(path) as read:
        assert np.array_equal(np.asarray(read), np.asarray(picture))
    before = path.read_bytes()

    class Stopped(Image.Image):
        def save(self, fp, *args, **kwargs):  # type: ignore[no-untyped-def]
            fp.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_png(path, Stopped())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
