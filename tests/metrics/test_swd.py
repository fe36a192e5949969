"""The sliced Wasserstein distance against loops written from its definition, and where its value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pggan_fast.benchmarks import timing

from pggan_fast.data import faces
from pggan_fast.metrics import exactly, random, swd
from pggan_fast.metrics.swd import extract, laplacian_pyramid, patches_at, sliced_wasserstein


def mirrored(i: int, n: int) -> int:
    return -i if i < 0 else 2 * (n - 1) - i if i >= n else i


def smoothed(plane: np.ndarray, gain: float) -> np.ndarray:
    taps = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256 * gain
    h, w = plane.shape
    out = np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    out[y, x] += taps[dy + 2, dx + 2] * plane[mirrored(y + dy, h), mirrored(x + dx, w)]
    return out


def pyramid(plane: np.ndarray) -> list[np.ndarray]:
    """By loops, in float64."""
    if min(plane.shape) < 32:
        return [plane]
    small = smoothed(plane, 1)[::2, ::2]
    spread = np.zeros(plane.shape)
    spread[::2, ::2] = small
    return [plane - smoothed(spread, 4), *pyramid(small)]


def distance(a: np.ndarray, b: np.ndarray, directions: np.ndarray, channels: int) -> float:
    """Of descriptors [M, channels * K], one direction after the other."""
    sets = []
    for rows in (a, b):
        parts = np.array(rows, np.float64).reshape(len(rows), channels, -1)
        for c in range(channels):
            parts[:, c] = (parts[:, c] - parts[:, c].mean()) / parts[:, c].std()
        sets.append(parts.reshape(len(rows), -1))
    each = []
    for d in directions:
        d = d / math.sqrt(sum(d * d))
        each.append(np.mean(np.abs(np.array(sorted(sets[0] @ d)) - np.array(sorted(sets[1] @ d)))))
    return float(np.mean(each))


@pytest.mark.parametrize("size", [(32, 32), (64, 48)])
def test_the_pyramid_is_that_of_loops_and_adds_up(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (1, 2, *size)).float()
    levels = laplacian_pyramid(images)
    assert [tuple(t.shape[2:]) for t in levels] == swd.level_sizes(*size)
    for c in range(2):
        for got, want in zip(levels, pyramid(images[0, c].double().numpy()), strict=True):
            np.testing.assert_allclose(got[0, c].numpy(), want, atol=1e-4)
    total = levels[-1]
    for level in levels[-2::-1]:
        total = level + swd.scale_up(total, level.shape[2:])
    torch.testing.assert_close(total, images, atol=1e-4, rtol=0)


def test_levels_go_down_to_16() -> None:
    assert [s[0] for s in swd.level_sizes(1024, 1024)] == [1024, 512, 256, 128, 64, 32, 16]
    assert swd.level_sizes(16, 16) == [(16, 16)]
    with pytest.raises(ValueError, match="got 8x8"):
        swd.level_sizes(8, 8)


def test_patches_are_those_at_their_corners() -> None:
    level = torch.randn(2, 3, 9, 11)
    corners = torch.tensor([[[0, 0], [2, 4]], [[1, 3], [2, 0]]])
    got = patches_at(level, corners)
    for n in range(2):
        for p in range(2):
            y, x = corners[n, p].tolist()
            assert torch.equal(got[n, p], level[n, :, y : y + 7, x : x + 7].flatten())


def test_patches_depend_on_the_images_number_alone() -> None:
    images = faces()[:10]
    whole = extract(images, 100, seed=3, stream=1)
    assert [t.shape for t in whole] == [(10, 128, 147)] * 2
    parts = [extract(images[i : i + 5], 100 + i, seed=3, stream=1) for i in (0, 5)]
    assert all(torch.equal(torch.cat([a, b]), t) for a, b, t in zip(*parts, whole, strict=True))
    for other in ({"seed": 4, "stream": 1}, {"seed": 3, "stream": 0}):
        assert not torch.equal(extract(images, 100, **other)[0], whole[0])
    assert not torch.equal(extract(images, 101, seed=3, stream=1)[0], whole[0])


def test_patches_lie_everywhere_inside() -> None:
    """A level whose pixels are their places tells where the corners were: uniform over all 10 x 10 of 16 x 16."""
    place = torch.arange(256).reshape(1, 1, 16, 16).expand(64, 3, 16, 16).to(torch.uint8)
    corners = extract(place, 0)[0][..., 0].flatten().long()
    counts = torch.bincount(corners, minlength=256).reshape(16, 16)
    assert counts[:10, :10].min() > 40  # of 81.9 on average
    assert counts.sum() == counts[:10, :10].sum() == 64 * 128


@pytest.mark.parametrize("small", [False, True])
def test_the_distance_is_that_of_loops(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:  # every loop over parts has several turns
        monkeypatch.setattr(swd, "ROWS", 50)
        monkeypatch.setattr(swd, "PROJECTIONS_BYTES", 2 * 4 * 130 * 7)
    rng = np.random.default_rng(0)
    a = (rng.standard_normal((130, 12)) * [[1, 2, 3] * 4] + 7).astype(np.float32)
    b = (rng.random((130, 12)) ** 2 * 50).astype(np.float32)
    drawn = random.at(5, random.DIRECTIONS, 2).standard_normal((20, 12))
    got = sliced_wasserstein(torch.from_numpy(a), torch.from_numpy(b), directions=20, seed=5, level=2)
    assert got == pytest.approx(distance(a, b, drawn, 3), rel=1e-5)


def test_elsewhere_products_are_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(300, 12) * 30, torch.rand(300, 12) * 255
    here = sliced_wasserstein(a, b)
    monkeypatch.setattr(swd, "products", lambda device: torch.float64)
    assert sliced_wasserstein(a, b) == pytest.approx(here, rel=1e-5)
    assert (exactly.products("cpu"), exactly.products("cuda")) == (torch.float32, torch.float64)


def test_the_same_set_in_another_order_is_at_distance_zero() -> None:
    a = torch.randn(500, 147) * 40 + 100
    assert sliced_wasserstein(a, a.flip(0)) < 1e-6
    assert sliced_wasserstein(a, 3 * a + 5) < 1e-5  # each set is normalised by itself


def test_two_one_dimensional_distributions() -> None:
    """Uniform against a fair coin, both of mean 0 and variance 1: (1 + (s - 1)^2) / (2 s), s = sqrt(3)."""
    n = 20_000
    uniform = torch.linspace(-1, 1, n)[:, None]
    coin = torch.cat([torch.full((n // 2, 1), -4.0), torch.full((n // 2, 1), 9.0)])
    s = math.sqrt(3)
    got = sliced_wasserstein(uniform, coin, channels=1, directions=4)
    assert got == pytest.approx((1 + (s - 1) ** 2) / (2 * s), rel=1e-3)


def test_a_shift_of_all_descriptors() -> None:
    """Points u against points w, as far apart along a direction d as |(u - w) d|, whose mean is known on a sphere."""
    k = 16
    u = torch.tensor([1.0, -1.0] * (k // 2))
    w = torch.tensor([1.0] * (k // 2) + [-1.0] * (k // 2))
    mean = math.gamma(k / 2) / (math.sqrt(math.pi) * math.gamma((k + 1) / 2)) * float((u - w).norm())
    got = sliced_wasserstein(u.expand(4, k), w.expand(4, k), channels=1, directions=40_000)
    assert got == pytest.approx(mean, rel=0.01)


def test_a_channel_without_variation_counts_for_nothing() -> None:
    a = torch.randn(64, 3, 4)
    a[:, 1] = 7.0
    flat = torch.zeros(64, 12)
    assert math.isfinite(sliced_wasserstein(a.flatten(1), flat))
    assert sliced_wasserstein(flat, flat + 3.0) == 0.0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 MiB of projections, 4 MiB at a time."""
    a, b = torch.randn(20_000, 147), torch.randn(20_000, 147)
    cpu = torch.device("cpu")
    sliced_wasserstein(a[:1000], b[:1000])
    whole = timing.peak_bytes(lambda: sliced_wasserstein(a, b), cpu)
    monkeypatch.setattr(swd, "ROWS", 1000)
    monkeypatch.setattr(swd, "PROJECTIONS_BYTES", 4 << 20)
    parts = timing.peak_bytes(lambda: sliced_wasserstein(a, b), cpu)
    if parts is None or whole is None:
        pytest.skip("the system does not tell the peak of resident memory")
    assert whole > 70 << 20
    assert parts < 40 << 20


def test_bad_sets_are_refused() -> None:
    for a, b in (((4, 12), (5, 12)), ((4, 11), (4, 11)), ((0, 12), (0, 12))):
        with pytest.raises(ValueError, match="expected two sets"):
            sliced_wasserstein(torch.zeros(a), torch.zeros(b))
