"""The oracle against itself: two ways to each number, and faults that its comparison has to catch."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import models, ops
from oracle.compare import assert_close, difference, draw

SIZES = [(1, 1), (1, 4), (3, 5), (4, 4), (7, 2)]


def conv2d_scalar(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """One number at a time, each index checked against the image's border instead of padding."""
    n, inp, height, width = x.shape
    out, _, k, _ = w.shape
    y = np.zeros((n, out, height, width))
    for s, o, i, j, c, a, b in itertools.product(*map(range, (n, out, height, width, inp, k, k))):
        row, column = i + a - k // 2, j + b - k // 2
        if 0 <= row < height and 0 <= column < width:
            y[s, o, i, j] += w[o, c, a, b] * x[s, c, row, column]
    return y


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_convolution_equals_scalar_loops(size: tuple[int, int], k: int) -> None:
    x, w = draw(2, 3, *size), draw(2, 3, k, k)
    assert_close(ops.conv2d(x, w), conv2d_scalar(x, w))


def test_box_sum_is_a_full_convolution_with_a_2x2_box() -> None:
    w = draw(2, 3, 3, 3)
    want = np.zeros((2, 3, 4, 4))
    for a, b, p, q in itertools.product(range(3), range(3), range(2), range(2)):
        want[:, :, a + p, b + q] += w[:, :, a, b]
    assert_close(ops.box_sum(w), want)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3),
    inp=st.integers(1, 5),
    out=st.integers(1, 5),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    resample=st.sampled_from(["up", "down"]),
    slope=st.sampled_from([None, 0.2]),
)
def test_direct_and_fused_forms_agree(
    n: int, inp: int, out: int, height: int, width: int, resample: str, slope: float | None
) -> None:
    factor = 2 if resample == "down" else 1
    x, w, b = draw(n, inp, factor * height, factor * width), draw(out, inp, 3, 3, seed=1), draw(out)
    ways = [
        ops.scaled_conv2d(x, w, b, weight_scale=0.3, resample=resample, negative_slope=slope, fused=fused)
        for fused in (False, True)
    ]
    assert_close(ways[1], ways[0])


def test_up_and_down_are_adjoint_up_to_a_factor_of_four() -> None:
    x, y, w = draw(2, 3, 3, 5), draw(2, 4, 6, 10), draw(4, 3, 3, 3)
    back = np.swapaxes(w, 0, 1)[:, :, ::-1, ::-1]
    assert_close(np.sum(ops.conv2d(ops.up2(x), w) * y), 4 * np.sum(x * ops.down2(ops.conv2d(y, back))))


@pytest.mark.parametrize(("n", "group"), [(1, 4), (3, 4), (4, 4), (8, 4), (6, 2), (5, 1)])
def test_minibatch_stddev_equals_the_reshaped_formula(n: int, group: int) -> None:
    x = draw(n, 3, 2, 5)
    g = min(group, n)
    y = x.reshape(g, n // g, 3, 2, 5)
    v = np.sqrt(y.var(axis=0) + 1e-8).mean(axis=(1, 2, 3))  # [M]
    want = np.concatenate([x, np.broadcast_to(np.tile(v, g)[:, None, None, None], (n, 1, 2, 5))], axis=1)
    assert_close(ops.minibatch_stddev(x, group), want)


def test_minibatch_stddev_of_an_empty_and_of_an_uneven_batch() -> None:
    assert ops.minibatch_stddev(draw(0, 3, 2, 2)).shape == (0, 4, 2, 2)
    with pytest.raises(ValueError, match="multiple"):
        ops.minibatch_stddev(draw(6, 3, 2, 2), 4)


def test_pixel_norm_gives_unit_mean_square_and_survives_zero() -> None:
    x = draw(2, 5, 3, 1)
    assert_close(np.mean(ops.pixel_norm(x) ** 2, axis=1), np.ones((2, 3, 1)), 1e-6)
    assert_close(ops.pixel_norm(np.zeros((1, 2, 1, 1))), np.zeros((1, 2, 1, 1)))


def test_numeric_gradient_of_a_known_function() -> None:
    x = draw(2, 3)
    assert_close(ops.numeric_gradient(lambda v: float(np.sum(v**3)), x), 3 * x**2, 1e-9)


# Whole networks.

SMALL = {"fmap_base": 64, "fmap_max": 8}


def state_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {key: draw(*shape, seed=i) for i, (key, shape) in enumerate(shapes.items())}


def test_published_parameter_counts() -> None:
    assert sum(map(math.prod, models.generator_shapes().values())) == 23_079_115
    assert sum(map(math.prod, models.discriminator_shapes().values())) == 23_087_249


def test_networks_agree_through_the_fused_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    g = state_of(models.generator_shapes(16, latent_dim=6, **SMALL))
    d = state_of(models.discriminator_shapes(16, label_dim=2, **SMALL))
    z = draw(4, 6)
    image = models.generator(g, z, resolution=16, alpha=0.3)
    score, logits = models.discriminator(d, image, alpha=0.3)
    monkeypatch.setattr(models, "scaled_conv2d", functools.partial(ops.scaled_conv2d, fused=True))
    assert_close(models.generator(g, z, resolution=16, alpha=0.3), image)
    fused_score, fused_logits = models.discriminator(d, image, alpha=0.3)
    assert_close(fused_score, score)
    assert logits is not None
    assert_close(fused_logits, logits)


def test_alpha_zero_is_the_network_before_it_grew() -> None:
    base_shape = (3, 5)
    g = state_of(models.generator_shapes(8, latent_dim=6, base_shape=base_shape, **SMALL))
    d = state_of(models.discriminator_shapes(8, base_shape=base_shape, **SMALL))
    z = draw(2, 6)
    small = models.generator(g, z, resolution=4, base_shape=base_shape)
    image = models.generator(g, z, resolution=8, alpha=0.0, base_shape=base_shape)
    assert image.shape == (2, 3, 6, 10)
    assert_close(image, ops.up2(small))
    old, _ = models.discriminator(d, small, base_shape=base_shape)
    grown, _ = models.discriminator(d, image, alpha=0.0, base_shape=base_shape)
    assert_close(grown, old)


# Seeded faults: (what is wrong, the wrong result, the right result).

X, W, B = draw(4, 3, 4, 6), draw(5, 3, 3, 3), draw(5)
LRELU = {"weight_scale": 0.3, "negative_slope": 0.2}


def conv(**options: object) -> np.ndarray:
    return ops.scaled_conv2d(X, W, B, **{**LRELU, **options})


def wrong_axis_norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=2, keepdims=True) + 1e-8)


FAULTS = {
    "transposed form without the flip": (
        lambda: ops.conv_transpose_stride2(X, ops.box_sum(W)),
        lambda: ops.conv2d(ops.up2(X), W),
    ),
    "down form without the quarter": (lambda: ops.conv_stride2(X, ops.box_sum(W)), lambda: ops.down2(ops.conv2d(X, W))),
    "pool instead of down": (lambda: conv(resample="pool"), lambda: conv(resample="down")),
    "norm before instead of after the activation": (
        lambda: conv(pixel_norm="before_act"),
        lambda: conv(pixel_norm="after_act"),
    ),
    "bias scaled like the weight": (lambda: conv(bias_scale=0.3), conv),
    "square root of two as output gain": (lambda: math.sqrt(2) * conv(), conv),
    "adjacent groups": (lambda: ops.minibatch_stddev(X, 2, grouping="adjacent"), lambda: ops.minibatch_stddev(X, 2)),
    "unbiased variance": (lambda: ops.minibatch_stddev(X, unbiased=True), lambda: ops.minibatch_stddev(X)),
    "mean over the height": (lambda: wrong_axis_norm(X), lambda: ops.pixel_norm(X)),
    "sum instead of mean": (lambda: ops.pixel_norm(X) / math.sqrt(3), lambda: ops.pixel_norm(X)),
    "no eps": (lambda: ops.pixel_norm(1e-4 * X, 0.0), lambda: ops.pixel_norm(1e-4 * X)),
    "eps outside of the root": (
        lambda: ops.pixel_norm(1e-4 * X, eps_mode="outside"),
        lambda: ops.pixel_norm(1e-4 * X),
    ),
    "alpha turned round": (lambda: ops.fade_reals(X, 0.7), lambda: ops.fade_reals(X, 0.3)),
    "alpha not clamped": (lambda: -0.5 * ops.up2(ops.down2(X)) + 1.5 * X, lambda: ops.fade_reals(X, 1.5)),
    "NaN where a number belongs": (lambda: np.where(X > 1, np.nan, X), lambda: X),
    "lost dimension": (lambda: X[:, :1], lambda: X),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_comparison_catches(fault: str) -> None:
    wrong, right = FAULTS[fault]
    assert difference(right(), right()) == 0.0
    with pytest.raises(AssertionError, match="relative difference"):
        assert_close(wrong(), right())
