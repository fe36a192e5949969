"""Ways in which callers have broken the networks and the training step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pggan_fast.models import Discriminator, Generator
from pggan_fast.training.losses import gradient_penalty, wgan_gp_d_loss
from pggan_fast.training.step import d_step

WIDTH = {"fmap_base": 64, "fmap_max": 8}


@pytest.mark.parametrize("base_shape", [(4, 8), (3, 5), (2, 2), (4, 4)])
def test_d_step_at_every_level_of_every_base_shape(base_shape: tuple[int, int]) -> None:
    G = Generator(16, latent_dim=8, base_shape=base_shape, **WIDTH)
    D = Discriminator(16, base_shape=base_shape, **WIDTH)
    optimizer = torch.optim.Adam(D.parameters(), betas=(0.0, 0.99))
    for k in range(3):
        reals = torch.randn(2, 3, base_shape[0] << k, base_shape[1] << k)
        assert d_step(G, D, optimizer, reals, torch.randn(2, 8)).applied


@pytest.mark.parametrize(("reals", "latents"), [(4, 1), (1, 4), (0, 0)])
def test_d_step_refuses_batches_that_differ_or_are_empty(reals: int, latents: int) -> None:
    G, D = Generator(4, latent_dim=8, **WIDTH), Discriminator(4, **WIDTH)
    optimizer = torch.optim.Adam(D.parameters(), betas=(0.0, 0.99))
    with pytest.raises(ValueError, match="z: expected one latent per real image"):
        d_step(G, D, optimizer, torch.randn(reals, 3, 4, 4), torch.randn(latents, 8))


@pytest.mark.parametrize("alpha", [float("nan"), "0.5", None])
def test_a_bad_alpha_is_named(alpha: object) -> None:
    with pytest.raises(ValueError, match="alpha: expected"):
        Discriminator(8, **WIDTH)(torch.randn(1, 3, 8, 8), alpha=alpha)
    with pytest.raises(ValueError, match="alpha: expected"):
        Generator(8, latent_dim=8, **WIDTH)(torch.randn(1, 8), alpha=alpha)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"fmap_max": 0}, "fmap_max: expected a feature map or more at every level, got 0 at 4x4"),
        ({"fmap_base": 7}, "fmap_base.* got 0 at 16x16"),
        ({"fmap_decay": float("nan")}, "fmap_decay: expected a finite number"),
        ({"channels": 0}, "channels: expected an integer >= 1, got 0"),
        ({"label_dim": -1}, "label_dim: expected an integer >= 0, got -1"),
    ],
)
@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_a_network_without_maps_is_refused(network: type, option: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        network(16, **{**WIDTH, **option})


@pytest.mark.parametrize("eight", [8.0, np.int64(8), torch.tensor(8)])
def test_any_number_names_a_level(eight: object) -> None:
    assert Generator(16, latent_dim=8, **WIDTH)(torch.randn(1, 8), resolution=eight).shape == (1, 3, 8, 8)


def test_what_is_no_tensor_is_named() -> None:
    G, labelled = Generator(4, latent_dim=8, **WIDTH), Generator(4, latent_dim=8, label_dim=2, **WIDTH)
    with pytest.raises(TypeError, match="z: expected a tensor, got list"):
        G([0.0] * 8)
    with pytest.raises(TypeError, match=r"z: expected float32, .* got int64"):
        G(torch.ones(1, 8, dtype=torch.int64))
    with pytest.raises(TypeError, match="labels: expected a tensor, got list"):
        labelled(torch.randn(1, 8), [1.0, 0.0])
    with pytest.raises(TypeError, match=r"image: expected float32, .* got uint8"):
        Discriminator(4, **WIDTH)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


def test_a_penalty_refuses_shapes_that_would_broadcast() -> None:
    D, reals = Discriminator(8, **WIDTH), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"u: expected shape \(2, 1, 1, 1\)"):
        gradient_penalty(D, reals, reals, u=torch.rand(8))
    with pytest.raises(ValueError, match="fakes: expected the reals' shape"):
        gradient_penalty(D, reals, reals[:1])
    with pytest.raises(ValueError, match="target: expected a number > 0"):
        wgan_gp_d_loss(D, reals, reals, target=0.0)
