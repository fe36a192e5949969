"""Generator and Discriminator against the numpy oracle: names, sizes, images, scores, growing, gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import models as oracle
from oracle import ops
from oracle.compare import assert_close, draw

from pggan_fast.models import Discriminator, Generator

FMAP = {"fmap_base": 64, "fmap_max": 12}  # 12, 12, 8 feature maps at 4, 8, 16: widths both equal and falling
LATENT = 10
ALPHAS = [0.0, float(np.float32(0.3)), 1.0]  # 0.3 as a float32 tensor holds it
BASE_SHAPES = [(4, 4), (3, 5)]

Network = Generator | Discriminator


def one_hot(n: int, label_dim: int) -> np.ndarray | None:
    return np.eye(label_dim)[np.arange(n) % label_dim] if label_dim else None


def tensor(a: np.ndarray | None) -> torch.Tensor | None:
    return None if a is None else torch.from_numpy(a)


def randomise(network: Network) -> dict[str, np.ndarray]:
    """Fill a network, biases included, with known values and return them in float64."""
    state = {key: draw(*p.shape, seed=i) for i, (key, p) in enumerate(network.state_dict().items())}
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return state


@functools.cache
def generator(label_dim: int, base_shape: tuple[int, int], **extra: Any) -> tuple[Generator, dict[str, np.ndarray]]:
    network = Generator(16, latent_dim=LATENT, label_dim=label_dim, base_shape=base_shape, **FMAP, **extra).double()
    return network, randomise(network)


@functools.cache
def discriminator(
    label_dim: int, base_shape: tuple[int, int], **extra: Any
) -> tuple[Discriminator, dict[str, np.ndarray]]:
    network = Discriminator(16, label_dim=label_dim, base_shape=base_shape, **FMAP, **extra).double()
    return network, randomise(network)


def check_generator(
    label_dim: int, base_shape: tuple[int, int], resolution: int, alpha: float, n: int = 3, **extra: Any
) -> None:
    network, state = generator(label_dim, base_shape, **extra)
    z, labels = draw(n, LATENT), one_hot(n, label_dim)
    with torch.no_grad():
        image = network(tensor(z), tensor(labels), resolution=resolution, alpha=alpha)
    assert image.dtype == torch.float64
    want = oracle.generator(state, z, labels, resolution=resolution, alpha=alpha, base_shape=base_shape)
    assert_close(image.numpy(), want)


def image_of(n: int, resolution: int, base_shape: tuple[int, int], channels: int = 3) -> np.ndarray:
    return draw(n, channels, base_shape[0] * resolution // 4, base_shape[1] * resolution // 4)


def check_discriminator(
    label_dim: int,
    base_shape: tuple[int, int],
    resolution: int,
    alpha: float,
    n: int = 4,
    channels: int = 3,
    **extra: Any,
) -> None:
    options = {key: extra[key] for key in ("downsample", "stddev_group") if key in extra}
    if channels != 3:
        extra["channels"] = channels
    network, state = discriminator(label_dim, base_shape, **extra)
    image = image_of(n, resolution, base_shape, channels)
    with torch.no_grad():
        score, logits = network(tensor(image), alpha=alpha)
    want_score, want_logits = oracle.discriminator(state, image, alpha=alpha, base_shape=base_shape, **options)
    assert_close(score.numpy(), want_score)
    assert (logits is None) == (want_logits is None) == (label_dim == 0)
    if want_logits is not None:
        assert_close(logits.numpy(), want_logits)


# Images and scores.


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("resolution", [4, 8, 16])
@pytest.mark.parametrize("base_shape", BASE_SHAPES)
@pytest.mark.parametrize("label_dim", [0, 3])
def test_generator(label_dim: int, base_shape: tuple[int, int], resolution: int, alpha: float) -> None:
    check_generator(label_dim, base_shape, resolution, alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("resolution", [4, 8, 16])
@pytest.mark.parametrize("base_shape", BASE_SHAPES)
@pytest.mark.parametrize("downsample", ["down", "pool"])
@pytest.mark.parametrize("label_dim", [0, 3])
def test_discriminator(
    label_dim: int, downsample: str, base_shape: tuple[int, int], resolution: int, alpha: float
) -> None:
    check_discriminator(label_dim, base_shape, resolution, alpha, downsample=downsample)


@pytest.mark.parametrize(("n", "group"), [(0, 4), (1, 4), (3, 4), (8, 4), (6, 2), (5, 1)])
def test_batches_and_stddev_groups(n: int, group: int) -> None:
    check_generator(0, (4, 4), 8, ALPHAS[1], n=n)
    check_discriminator(0, (4, 4), 8, ALPHAS[1], n=n, stddev_group=group)


def test_one_image_channel() -> None:
    check_generator(0, (4, 4), 16, ALPHAS[1], channels=1)
    check_discriminator(0, (4, 4), 16, ALPHAS[1], channels=1)


@pytest.mark.parametrize("backend", ["reference", "aten"])
@pytest.mark.parametrize("base_shape", BASE_SHAPES)
def test_named_backends(base_shape: tuple[int, int], backend: str) -> None:
    check_generator(3, base_shape, 16, ALPHAS[1], backend=backend)
    check_discriminator(3, base_shape, 16, ALPHAS[1], backend=backend)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("downsample", ["down", "pool"])
@pytest.mark.parametrize("base_shape", BASE_SHAPES)
def test_float32(base_shape: tuple[int, int], downsample: str, channels_last: bool) -> None:
    """The automatic choice of kernels in the dtype that they are made for."""
    alpha, options = ALPHAS[1], {"base_shape": base_shape, "channels_last": channels_last, **FMAP}
    g, d = Generator(16, latent_dim=LATENT, **options), Discriminator(16, downsample=downsample, **options)
    g_state, d_state = randomise(g), randomise(d)
    z = draw(4, LATENT)
    want = oracle.generator(g_state, z, resolution=16, alpha=alpha, base_shape=base_shape)
    want_score, _ = oracle.discriminator(d_state, want, alpha=alpha, base_shape=base_shape, downsample=downsample)
    with torch.no_grad():
        image = g(torch.from_numpy(z).float(), alpha=alpha)
        score, _ = d(torch.from_numpy(want).float(), alpha=alpha)
    assert image.dtype == score.dtype == torch.float32
    assert_close(image.numpy(), want, 1e-5)
    assert_close(score.numpy(), want_score, 1e-5)


def test_alpha_as_a_tensor_and_defaults() -> None:
    g, _ = generator(0, (4, 4))
    d, _ = discriminator(0, (4, 4))
    z = torch.from_numpy(draw(4, LATENT))
    with torch.no_grad():
        image, half = g(z), g(z, resolution=8, alpha=0.5)
        assert_close(g(z, resolution=16, alpha=torch.tensor(1.0)).numpy(), image.numpy())
        assert_close(d(image, alpha=torch.tensor(1.0))[0].numpy(), d(image)[0].numpy())
        assert_close(g(z, resolution=8, alpha=torch.tensor(0.5)).numpy(), half.numpy())
        assert_close(d(half, alpha=torch.tensor(0.5))[0].numpy(), d(half, alpha=0.5)[0].numpy())


@pytest.mark.parametrize("downsample", ["down", "pool"])
def test_image_gradient_of_the_score_against_central_differences(downsample: str) -> None:
    network, state = discriminator(0, (4, 4), downsample=downsample)
    alpha = ALPHAS[1]
    image = image_of(2, 8, (4, 4))
    leaf = torch.from_numpy(image).requires_grad_()
    network(leaf, alpha=alpha)[0].sum().backward()
    assert leaf.grad is not None

    def score(x: np.ndarray) -> float:
        return float(oracle.discriminator(state, x, alpha=alpha, downsample=downsample)[0].sum())

    assert_close(leaf.grad.numpy(), ops.numeric_gradient(score, image), 1e-7)


# Names, shapes, counts, initial values.


@pytest.mark.parametrize("resolution", [4, 8, 64])
@pytest.mark.parametrize("base_shape", BASE_SHAPES)
@pytest.mark.parametrize("label_dim", [0, 3])
def test_keys_and_shapes(label_dim: int, base_shape: tuple[int, int], resolution: int) -> None:
    options: dict[str, Any] = {"label_dim": label_dim, "base_shape": base_shape, "channels": 2, **FMAP}
    g = Generator(resolution, latent_dim=LATENT, **options)
    d = Discriminator(resolution, **options)
    assert shapes_of(g) == oracle.generator_shapes(resolution, latent_dim=LATENT, **options)
    assert shapes_of(d) == oracle.discriminator_shapes(resolution, **options)


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_full_size_networks_have_the_published_counts_and_widths() -> None:
    with torch.device("meta"):
        g, d = Generator(), Discriminator()
    assert sum(p.numel() for p in g.parameters()) == 23_079_115
    assert sum(p.numel() for p in d.parameters()) == 23_087_249
    assert shapes_of(g) == oracle.generator_shapes()
    assert shapes_of(d) == oracle.discriminator_shapes()
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    for r, width in widths.items():
        assert shapes_of(g)[f"to_rgb.{r}x{r}.weight"] == (3, width, 1, 1)
        assert shapes_of(d)[f"from_rgb.{r}x{r}.weight"] == (width, 3, 1, 1)
        assert oracle.feature_maps(int(math.log2(r)) - 1) == width


def test_growing_renames_nothing() -> None:
    small, large = ({*Generator(r, **FMAP).state_dict()} for r in (16, 32))
    assert small < large
    small, large = ({*Discriminator(r, **FMAP).state_dict()} for r in (16, 32))
    assert small < large


def test_weights_start_as_standard_normal_and_biases_as_zero() -> None:
    torch.manual_seed(0)
    for network in (Generator(8, fmap_max=64), Discriminator(8, fmap_max=64)):
        for key, value in network.state_dict().items():
            if key.endswith("bias"):
                assert not value.any(), key
            elif value.numel() > 10_000:
                assert abs(float(value.std()) - 1.0) < 0.03, key
                assert abs(float(value.mean())) < 0.05, key


# Seeded faults: an oracle with one thing wrong has to disagree with the networks.


def z_normalised_alone(latent: np.ndarray) -> np.ndarray:
    return np.concatenate([ops.pixel_norm(latent[:, :LATENT]), latent[:, LATENT:]], axis=1)


def adjacent_groups(x: np.ndarray, group: int) -> np.ndarray:
    return ops.minibatch_stddev(x, group, grouping="adjacent")


def pool_for_down(*args: Any, resample: str = "none", **options: Any) -> np.ndarray:
    return ops.scaled_conv2d(*args, resample="pool" if resample == "down" else resample, **options)


def norm_before_activation(*args: Any, pixel_norm: str = "none", **options: Any) -> np.ndarray:
    norm = "before_act" if pixel_norm == "after_act" else pixel_norm
    return ops.scaled_conv2d(*args, pixel_norm=norm, **options)


def alpha_turned_round(low: np.ndarray, high: np.ndarray, alpha: float) -> np.ndarray:
    return ops.fade_in(low, high, 1.0 - alpha)


FAULTS: dict[str, tuple[str, Any, Callable[..., None]]] = {
    "z normalised before the labels join": ("pixel_norm", z_normalised_alone, check_generator),
    "norm before the activation": ("scaled_conv2d", norm_before_activation, check_generator),
    "first dense layer with the usual gain": ("FIRST_DENSE_GAIN", math.sqrt(2), check_generator),
    "gain of toRGB": ("LINEAR_GAIN", math.sqrt(2), check_generator),
    "alpha turned round in G": ("fade_in", alpha_turned_round, check_generator),
    "alpha turned round in D": ("fade_in", alpha_turned_round, check_discriminator),
    "pool for down": ("scaled_conv2d", pool_for_down, check_discriminator),
    "adjacent groups": ("minibatch_stddev", adjacent_groups, check_discriminator),
    "gain of D's head": ("LINEAR_GAIN", math.sqrt(2), check_discriminator),
    "slope": ("LRELU_SLOPE", 0.21, check_discriminator),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_comparison_catches(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, mutant, check = FAULTS[fault]
    case = {"label_dim": 3, "base_shape": (3, 5), "resolution": 16, "alpha": ALPHAS[1], "n": 8}
    check(**case)
    monkeypatch.setattr(oracle, name, mutant)
    with pytest.raises(AssertionError, match="relative difference"):
        check(**case)
