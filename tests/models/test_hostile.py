"""Ways in which callers have broken the networks and the training step."""

from __future__ import annotations

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


def test_a_penalty_refuses_shapes_that_would_broadcast() -> None:
    D, reals = Discriminator(8, **WIDTH), torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"u: expected shape \(2, 1, 1, 1\)"):
        gradient_penalty(D, reals, reals, u=torch.rand(8))
    with pytest.raises(ValueError, match="fakes: expected the reals' shape"):
        gradient_penalty(D, reals, reals[:1])
    with pytest.raises(ValueError, match="target: expected a number > 0"):
        wgan_gp_d_loss(D, reals, reals, target=0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fmap_max": 0}, "fmap_max 0: expected at least 1 feature map at resolution 8, got 0"),
        ({"fmap_base": 4, "fmap_decay": 3.0}, "fmap_base 4, .* at resolution 8, got 0"),
        ({"channels": 0}, "channels: expected an integer >= 1, got 0"),
        ({"label_dim": -1}, "label_dim: expected an integer >= 0, got -1"),
    ],
)
def test_impossible_sizes_are_named(options: dict[str, int], said: str) -> None:
    for network in (Generator, Discriminator):
        with pytest.raises(ValueError, match=said):
            network(8, **options)  # type: ignore[arg-type]


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="z: expected a tensor, got ndarray"):
        Generator(4, latent_dim=8, **WIDTH)(torch.randn(2, 8).numpy())
    with pytest.raises(TypeError, match="image: expected a tensor, got ndarray"):
        Discriminator(4, **WIDTH)(torch.randn(2, 3, 4, 4).numpy())
