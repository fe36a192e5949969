"""Levels of detail against the definition: 2x2 means of unquantised levels in numpy's float64, rounded last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pggan_fast.data import pyramid
from pggan_fast.data.pyramid import base_of, shrink


def definition(images: npt.NDArray[np.uint8], levels: int) -> list[npt.NDArray[np.uint8]]:
    """The official dataset tool's levels of [N, C, H, W]."""
    level, found = images.astype(np.float64), []
    for _ in range(levels):
        found.append(np.rint(level).clip(0, 255).astype(np.uint8))
        level = (level[..., 0::2, 0::2] + level[..., 0::2, 1::2] + level[..., 1::2, 0::2] + level[..., 1::2, 1::2]) / 4
    return found


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.sampled_from([(1, 1), (1, 3), (3, 2)]), st.sampled_from([1, 3]))
def test_every_level_is_that_of_the_definition(seed: int, k: int, base: tuple[int, int], channels: int) -> None:
    draw = np.random.default_rng(seed)
    most = int(draw.choice([1, 3, 255]))  # few values make many ties
    images = draw.integers(0, most + 1, (2, channels, base[0] << k, base[1] << k), np.uint8)
    for got, expected in zip(pyramid(torch.from_numpy(images), k + 1), definition(images, k + 1), strict=True):
        assert np.array_equal(got.numpy(), expected)


@pytest.mark.parametrize("size", [1024, 2048])
def test_the_largest_levels_are_exact(size: int) -> None:
    """Boxes whose mean is 200.5 and a little more: 201, where a sum in float32 that loses the little gives 200."""
    images = np.full((1, 1, size, size), 200, np.uint8)
    images[..., ::2] = 201
    images[..., :: size // 4, :: size // 4] += 1
    got = shrink(torch.from_numpy(images), size // 4).numpy()
    assert np.array_equal(got, definition(images, size.bit_length() - 2)[-1])
    assert (got == 201).all()


def test_rounding_every_level_would_differ() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8))
    assert not torch.equal(shrink(shrink(images, 2), 2), shrink(images, 4))


@pytest.mark.parametrize("factor", [0, 3, 32, -2])
def test_other_factors_are_refused(factor: int) -> None:
    with pytest.raises(ValueError, match="factor: expected a power of two that divides 16x16"):
        shrink(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), factor)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match="images: expected a uint8 tensor"):
        shrink(torch.zeros(1, 3, 16, 16), 2)


@pytest.mark.parametrize(
    ("size", "base", "expected"),
    [
        ((32, 32), None, ((4, 4), 32)),
        ((4, 4), None, ((4, 4), 4)),
        ((96, 160), None, ((6, 10), 64)),
        ((96, 160), (3, 5), ((3, 5), 128)),
        ((32, 16), None, ((8, 4), 16)),
        ((33, 33), None, ((33, 33), 4)),
        ((2, 2), None, ((2, 2), 4)),
        ((8, 8), (8, 8), ((8, 8), 4)),
    ],
)
def test_the_base_of_a_size(size: tuple[int, int], base: tuple[int, int] | None, expected: object) -> None:
    assert base_of(*size, base) == expected


@pytest.mark.parametrize(("size", "base"), [((96, 160), (4, 4)), ((33, 33), (11, 11)), ((8, 8), (16, 16))])
def test_a_base_that_is_never_the_size(size: tuple[int, int], base: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="base_shape: expected the size"):
        base_of(*size, base)
