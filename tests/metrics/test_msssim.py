"""MS-SSIM against the formula, place by place, and where its value is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pggan_fast.data import faces
from pggan_fast.metrics.msssim import ms_ssim, scales

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def direct(a: np.ndarray, b: np.ndarray) -> float:
    """Of two images [C, H, W]: Wang et al.'s formula with a window of two dimensions."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    factors = []
    while True:
        size = min(11, *a.shape[1:])
        sigma = 1.5 * size / 11
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        window = np.exp(-(x**2 + y**2) / (2 * sigma**2))
        window /= window.sum()
        ssim, cs = [], []
        for c in range(a.shape[0]):
            for i in range(a.shape[1] - size + 1):
                for j in range(a.shape[2] - size + 1):
                    p, q = (t[c, i : i + size, j : j + size] for t in (a, b))
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    cs.append((2 * cov + 58.5225) / (vp + vq + 58.5225))
                    ssim.append(cs[-1] * (2 * mp * mq + 6.5025) / (mp**2 + mq**2 + 6.5025))
        factors.append((max(0, np.mean(ssim)), max(0, np.mean(cs))))
        if len(factors) == 5 or min(a.shape[1:]) == 1:
            break
        a, b = ((t[:, ::2, ::2] + t[:, 1::2, ::2] + t[:, ::2, 1::2] + t[:, 1::2, 1::2]) / 4 for t in (a, b))
    used = np.array(WEIGHTS[: len(factors)])
    used *= sum(WEIGHTS) / used.sum()
    return float(np.prod([f[1] for f in factors[:-1]] ** used[:-1]) * factors[-1][0] ** used[-1])


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 5), (16, 48, 5), (8, 8, 4), (4, 4, 3), (176, 16, 5)])
def test_it_is_the_formula(height: int, width: int, count: int) -> None:
    assert scales(height, width) == count
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (2, 3, height, width)).astype(np.uint8)
    b = np.clip(a * 0.7 + rng.integers(0, 90, a.shape), 0, 255).astype(np.uint8)
    got = ms_ssim(torch.from_numpy(a), torch.from_numpy(b))
    assert got.tolist() == pytest.approx([direct(x, y) for x, y in zip(a, b, strict=True)], rel=1e-9)


def test_above_160_pixels_every_window_has_11() -> None:
    """A large image in patches: five scales of 176 are 176, 88, 44, 22 and 11 pixels."""
    a = torch.nn.functional.interpolate(faces()[:4].float(), size=176).to(torch.uint8)
    b = a.flip(0)
    from torch.nn.functional import avg_pool2d, conv2d

    taps = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / 4.5)
    taps2 = (taps[:, None] * taps / (taps.sum() ** 2)).expand(3, 1, 11, 11)
    x, y, score = a.double(), b.double(), torch.ones(4, dtype=torch.float64)
    for k, weight in enumerate(WEIGHTS):
        mx, my, xx, yy, xy = (conv2d(t, taps2, groups=3) for t in (x, y, x * x, y * y, x * y))
        cs = (2 * (xy - mx * my) + 58.5225) / (xx - mx**2 + yy - my**2 + 58.5225)
        factor = cs * (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025) if k == 4 else cs
        score *= factor.mean((1, 2, 3)).clamp(min=0) ** weight
        x, y = avg_pool2d(x, 2), avg_pool2d(y, 2)
    torch.testing.assert_close(ms_ssim(a, b), score, rtol=1e-9, atol=1e-12)


def test_the_same_image_twice_is_one_and_its_negative_is_zero() -> None:
    images = faces()[:6]
    torch.testing.assert_close(ms_ssim(images, images), torch.ones(6, dtype=torch.float64))
    assert ms_ssim(images, 255 - images).max() < 0.05


def test_two_flat_images_differ_in_luminance_alone() -> None:
    a, b = (torch.full((1, 3, 32, 32), value, dtype=torch.uint8) for value in (50, 200))
    c1 = (0.01 * 255) ** 2
    expected = ((2 * 50 * 200 + c1) / (50**2 + 200**2 + c1)) ** 0.1333
    assert ms_ssim(a, b).item() == pytest.approx(expected, rel=1e-6)


def test_bad_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two"):
        ms_ssim(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))
