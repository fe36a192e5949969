"""Ways in which callers have broken the networks and the training step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from pggan_fast import nn
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


def test_d_step_finds_the_level_of_a_wrapped_network() -> None:
    """As DistributedDataParallel wraps it; the width of 8x16 names another level."""
    G = Generator(16, latent_dim=8, base_shape=(4, 8), **WIDTH)
    D = torch.nn.DataParallel(Discriminator(16, base_shape=(4, 8), **WIDTH))
    optimizer = torch.optim.Adam(D.parameters(), betas=(0.0, 0.99))
    assert d_step(G, D, optimizer, torch.randn(2, 3, 8, 16), torch.randn(2, 8)).applied


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


def networks() -> tuple[Generator, Discriminator]:
    """Of a named backend: without gradients one op stands for several layers."""
    named = {"backend": "aten", **WIDTH}
    return Generator(8, latent_dim=8, **named), Discriminator(8, **named)  # type: ignore[arg-type]


def another_slope(G: Generator, D: Discriminator) -> None:
    G.get_submodule("blocks.8x8.conv_up").negative_slope = 0.9  # type: ignore[assignment]
    D.get_submodule("from_rgb.8x8").negative_slope = 0.9  # type: ignore[assignment]


def no_linear_image(G: Generator, D: Discriminator) -> None:
    G.get_submodule("to_rgb.8x8").negative_slope = 0.5  # type: ignore[assignment]
    D.get_submodule("blocks.8x8.conv").pixel_norm = "after_act"  # type: ignore[assignment]


def another_layer(G: Generator, D: Discriminator) -> None:
    c = G.levels.channels(8)
    G.get_submodule("blocks.8x8").add_module("more", nn.ScaledConv2d(c, c, backend="aten"))


@pytest.mark.parametrize("change", [another_slope, no_linear_image, another_layer])
def test_changed_layers_are_not_passed_over(change: Callable[[Generator, Discriminator], None]) -> None:
    G, D = networks()
    change(G, D)
    z, image = torch.randn(2, 8), torch.randn(2, 3, 8, 8)
    want = G(z), D(image)[0]
    with torch.no_grad():
        torch.testing.assert_close((G(z), D(image)[0]), want)


def test_hooks_of_all_modules_and_other_forward_methods_are_called() -> None:
    G, D = networks()
    called: list[object] = []
    for layer in (G.get_submodule("blocks.8x8.conv"), D.get_submodule("from_rgb.8x8")):
        forward = layer.forward
        layer.forward = lambda x, forward=forward, layer=layer: called.append(layer) or forward(x)  # type: ignore
    with torch.no_grad():
        G(torch.randn(2, 8))
        D(torch.randn(2, 3, 8, 8))
        assert len(called) == 2
        G, D = networks()
        hook = register_module_forward_hook(lambda layer, *args: called.append(layer))
        try:
            G(torch.randn(2, 8))
            D(torch.randn(2, 3, 8, 8))
        finally:
            hook.remove()
    assert {G.get_submodule("blocks.8x8.conv_up"), D.get_submodule("from_rgb.8x8")} <= set(called)
