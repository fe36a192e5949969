"""The networks' options that ports need: each computes what its words say, on every backend of this machine alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pggan_fast import reference
from pggan_fast.models import Discriminator, Generator

SIZES = {"fmap_base": 64, "fmap_max": 8}
G_OPTIONS = [
    {"latent_norm": "z"},
    {"latent_norm": "both"},
    {"latent_norm": "none"},
    {"negative_slope": 0.0},
    {"negative_slope": 0.1},
    {"pixel_norm": "none"},
    {"pixel_norm": "before_act"},
    {"first_norm": False},
    {"unit_bias": True},
    {"tanh_from": 4},
    {"tanh_from": 8},
    {"fmaps": (5, 8, 7, 6)},
]
D_OPTIONS = [
    {"negative_slope": 0.1},
    {"widen_first": True, "fmaps": (5, 8, 7, 6)},
    {"downsample": "pool"},
    {"stddev_group": 0},
    {"stddev_group": 2, "stddev_grouping": "adjacent", "stddev_unbiased": True},
    {"stddev_group": 1 << 30, "stddev_eps": 0.0},
    {"fade_from": 16},
]


def network(cls, resolution=16, dtype=torch.float64, **options):
    torch.manual_seed(3)
    sizes = {} if "fmaps" in options else SIZES
    sizes = {**sizes, "latent_dim": 6} if cls is Generator else sizes
    net = cls(resolution, label_dim=2, **sizes, **options).to(dtype)
    for p in net.parameters():
        p.data.normal_()
    return net


def close(ours, theirs):
    """float32: of the largest number, as sums of numbers of both signs lose what their terms have."""
    room = 1e-12 if ours.dtype == torch.float64 else 2e-5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=room * float(theirs.detach().abs().max()))


def g_by_hand(net, z, labels, resolution, alpha, *, latent_norm="joined", negative_slope=0.2, pixel_norm="after_act",
              first_norm=True, unit_bias=False, tanh_from=None, fmaps=None):  # fmt: skip
    """The generator once more, in plain words."""

    def norm(x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    def finish(x, pixel_norm=pixel_norm):
        x = norm(x) if pixel_norm == "before_act" else x
        x = F.leaky_relu(x, negative_slope)
        return norm(x) if pixel_norm == "after_act" else x

    def conv(layer, x):
        return F.conv2d(x, layer.weight * layer.weight_scale, layer.bias, padding=layer.weight.shape[2] // 2)

    x = norm(z) if latent_norm in ("z", "both") else z
    x = torch.cat([x, labels], 1)
    x = norm(x) if latent_norm in ("joined", "both") else x
    dense = net.blocks["4x4"]["dense"]
    x = F.linear(x, dense.weight * dense.weight_scale, dense.bias if unit_bias else None).view(len(x), -1, 4, 4)
    x = x if unit_bias else x + dense.bias.view(1, -1, 1, 1)
    x = finish(x, pixel_norm if first_norm else "none")
    x = finish(conv(net.blocks["4x4"]["conv"], x))
    image = conv(net.to_rgb["4x4"], x)
    r = 4
    while r < resolution:
        r *= 2
        old = conv(net.to_rgb[f"{r // 2}x{r // 2}"], x)
        x = finish(conv(net.blocks[f"{r}x{r}"]["conv_up"], reference.up2(x)))
        x = finish(conv(net.blocks[f"{r}x{r}"]["conv"], x))
        image = conv(net.to_rgb[f"{r}x{r}"], x)
        if r == resolution and alpha < 1:
            image = (1 - alpha) * reference.up2(old) + alpha * image
    return image if tanh_from is None or resolution < tanh_from else image.tanh()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("backend", [None, "aten", "reference"])
@pytest.mark.parametrize("options", G_OPTIONS, ids=str)
def test_g(options, backend, grad, dtype):
    net = network(Generator, dtype=dtype, backend=backend, **options)
    z, labels = torch.randn(3, 6, dtype=dtype), torch.eye(2, dtype=dtype)[[0, 1, 1]]
    usual = {key: value for key, value in network(Generator).arguments.items() if key in options}
    with torch.set_grad_enabled(grad):
        for resolution in (4, 8, 16):
            for alpha in (1.0, 0.25):
                ours = net(z, labels, resolution=resolution, alpha=alpha)
                theirs = g_by_hand(net, z, labels, resolution, alpha, **options)
                close(ours, theirs)
    if "fmaps" not in options:  # another function than without the option, else nothing was tested
        other = g_by_hand(net, z, labels, 16, 0.25, **{**usual, "unit_bias": options.get("unit_bias", False)})
        assert "unit_bias" in options or not torch.allclose(ours, other)


def d_by_hand(net, image, alpha, *, negative_slope=0.2, downsample="down", stddev_group=4, stddev_grouping="strided",
              stddev_unbiased=False, stddev_eps=1e-8, fade_from=8, **sizes):  # fmt: skip
    def layer(module, x, after=lambda x: x):
        pad = module.weight.shape[-1] // 2
        y = after(F.conv2d(x, module.weight * module.weight_scale, padding=pad)) + module.bias.view(1, -1, 1, 1)
        return F.leaky_relu(y, negative_slope)

    r = top = image.shape[2]
    x = layer(net.from_rgb[f"{r}x{r}"], image)
    while r > 4:
        block = net.blocks[f"{r}x{r}"]
        x = layer(block["conv"], x)
        x = layer(block["conv_down"], x, reference.down2) if downsample == "down" else (
            reference.down2(layer(block["conv_down"], x)))  # fmt: skip
        r //= 2
        if 2 * r == top and top >= fade_from:
            x = (1 - alpha) * layer(net.from_rgb[f"{r}x{r}"], reference.down2(image)) + alpha * x
    if stddev_group:
        x = reference.minibatch_stddev(
            x, stddev_group, grouping=stddev_grouping, unbiased=stddev_unbiased, eps=stddev_eps
        )
    block = net.blocks["4x4"]
    x = layer(block["conv"], x).flatten(1)
    x = F.leaky_relu(
        F.linear(x, block["dense"].weight * block["dense"].weight_scale, block["dense"].bias), negative_slope
    )
    return F.linear(x, block["head"].weight * block["head"].weight_scale, block["head"].bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("backend", [None, "aten", "reference"])
@pytest.mark.parametrize("options", D_OPTIONS, ids=str)
def test_d(options, backend, grad, dtype):
    net = network(Discriminator, dtype=dtype, backend=backend, **options)
    with torch.set_grad_enabled(grad):
        for size in (4, 8, 16):
            image = torch.randn(4, 3, size, size, dtype=dtype)
            for alpha in (1.0, 0.25):
                score, logits = net(image, alpha=alpha)
                ours = torch.cat([score[:, None], logits], 1)
                close(ours, d_by_hand(net, image, alpha, **options))
    if "fade_from" in options:
        image = torch.randn(4, 3, 8, 8, dtype=dtype)
        assert torch.equal(net(image, alpha=0.25)[0], net(image, alpha=1.0)[0])


@pytest.mark.parametrize("options", G_OPTIONS, ids=str)
def test_arguments_build_g_again(options):
    net = network(Generator, **options)
    again = Generator(**net.arguments)
    assert again.arguments == net.arguments
    assert {k: t.shape for k, t in again.state_dict().items()} == {k: t.shape for k, t in net.state_dict().items()}
    for key, value in options.items():
        assert net.arguments[key] == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("options", D_OPTIONS, ids=str)
def test_arguments_build_d_again(options):
    net = network(Discriminator, **options)
    again = Discriminator(**net.arguments)
    assert again.arguments == net.arguments
    assert {k: t.shape for k, t in again.state_dict().items()} == {k: t.shape for k, t in net.state_dict().items()}


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (Generator, {"latent_norm": "w"}, "latent_norm: expected one of 'joined', 'z', 'both', 'none', got 'w'"),
        (Generator, {"tanh_from": 6}, "tanh_from: expected None or one of"),
        (Generator, {"negative_slope": 2.0}, "negative_slope: expected a number in"),
        (Generator, {"pixel_norm": "x"}, "pixel_norm: expected one of"),
        (Generator, {"fmaps": (4, 8)}, "fmaps: expected 4 numbers, D's dense units and then one for each level, got 2"),
        (Discriminator, {"stddev_group": -1}, "stddev_group: expected an integer >= 0, got -1"),
        (Discriminator, {"stddev_grouping": "x"}, "stddev_grouping: expected one of"),
        (Discriminator, {"fade_from": 0.5}, "fade_from: expected an integer >= 0, got 0.5"),
    ],
)
def test_what_an_option_cannot_be(cls, options, said):
    with pytest.raises(ValueError, match=said):
        cls(16, **options)
