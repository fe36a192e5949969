"""Layers over the ops: parameters, scales, state, copies."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pggan_fast import nn, reference

LAYERS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "ScaledConv2d": (
        lambda: nn.ScaledConv2d(3, 4, resample="up", negative_slope=0.2, pixel_norm="after_act"),
        (2, 3, 4, 4),
    ),
    "ScaledConv2d without bias": (lambda: nn.ScaledConv2d(3, 4, 1, bias=False), (2, 3, 4, 4)),
    "ScaledLinear": (lambda: nn.ScaledLinear(3, 5, negative_slope=0.2), (2, 3)),
    "LatentToMap": (lambda: nn.LatentToMap(6, 4), (2, 6)),
    "PixelNorm": (nn.PixelNorm, (2, 3, 4, 4)),
    "MinibatchStdDev": (lambda: nn.MinibatchStdDev(2), (4, 3, 2, 2)),
    "ToRGB": (lambda: nn.ToRGB(4), (2, 4, 4, 4)),
    "FromRGB": (lambda: nn.FromRGB(3, 4), (2, 3, 4, 4)),
}
layers = pytest.mark.parametrize("name", LAYERS)


def make(name: str) -> tuple[torch.nn.Module, Tensor]:
    module, shape = LAYERS[name]
    layer = module()
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer, torch.randn(shape)


def test_parameters_are_raw_normal_numbers_scaled_in_forward() -> None:
    layer = nn.ScaledConv2d(64, 64)
    assert abs(layer.weight.std().item() - 1.0) < 0.02
    assert not layer.bias.any()
    assert layer.weight_scale == math.sqrt(2.0) / math.sqrt(64 * 9)
    assert nn.ScaledLinear(64, 8).weight_scale == math.sqrt(2.0 / 64)
    assert nn.ToRGB(16).weight_scale == 1.0 / math.sqrt(16)
    assert nn.LatentToMap(64, 4).weight_scale == math.sqrt(2.0) / 4.0 / math.sqrt(64)


def test_layers_equal_the_reference() -> None:
    x = torch.randn(2, 3, 4, 4)
    conv = nn.ScaledConv2d(
        3, 5, resample="down", negative_slope=0.2, pixel_norm="before_act", eps=0.1, eps_mode="outside"
    )
    options = {"resample": "down", "negative_slope": 0.2, "pixel_norm": "before_act", "eps": 0.1, "eps_mode": "outside"}
    scale = math.sqrt(2.0 / 27)
    want = reference.scaled_conv2d(x, conv.weight, conv.bias, weight_scale=scale, **options)
    torch.testing.assert_close(conv(x), want)

    fade = nn.FadeIn()
    torch.testing.assert_close(fade(x[:, :, ::2, ::2], x, 0.25), reference.fade_in(x[:, :, ::2, ::2], x, 0.25))
    torch.testing.assert_close(nn.PixelNorm()(x), reference.pixel_norm(x))
    torch.testing.assert_close(nn.MinibatchStdDev(2)(x), reference.minibatch_stddev(x, 2))


@pytest.mark.parametrize("channels_last", [False, True])
def test_latent_to_map_has_a_bias_per_channel(channels_last: bool) -> None:
    layer = nn.LatentToMap(6, 5, (4, 3), channels_last=channels_last)
    torch.nn.init.normal_(layer.bias)
    z = torch.randn(2, 6)
    u = (z @ (layer.weight * layer.weight_scale).t()).view(2, 5, 4, 3)
    want = reference.bias_act(u, layer.bias, negative_slope=0.2, pixel_norm="after_act")
    y = layer(z)
    torch.testing.assert_close(y, want)
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_rgb_layers_fade(alpha: float) -> None:
    low, high = nn.ToRGB(6), nn.ToRGB(4)
    x_low, x = torch.randn(2, 6, 2, 2), torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(high.fade_in(x, low, x_low, alpha), reference.fade_in(low(x_low), high(x), alpha))
    old = nn.FromRGB(3, 4)
    image, features = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    want = reference.fade_in(old(reference.down2(image)), features, alpha)
    torch.testing.assert_close(old.fade_in(image, features, alpha), want)


@layers
def test_copies_and_pickles_compute_the_same(name: str) -> None:
    layer, x = make(name)
    want = layer(x)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x), want, rtol=0, atol=0)
        assert all(a is not b for a, b in zip(again.parameters(), layer.parameters(), strict=True))


@layers
def test_state_survives_a_file(name: str) -> None:
    layer, x = make(name)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    again, _ = make(name)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(again(x), layer(x), rtol=0, atol=0)
    assert set(layer.state_dict()) <= {"weight", "bias"}


@layers
def test_training_reaches_every_parameter(name: str) -> None:
    layer, x = make(name)
    layer(x.requires_grad_()).square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@layers
def test_parameters_can_be_swapped_in(name: str) -> None:
    layer, x = make(name)
    parameters = {k: v.detach() * 0.5 for k, v in layer.named_parameters()}
    got = torch.func.functional_call(layer, parameters, (x,))
    other = copy.deepcopy(layer)
    other.load_state_dict(parameters)
    torch.testing.assert_close(got, other(x))


def test_layers_print_what_they_are() -> None:
    said = {
        nn.ScaledConv2d(3, 4, resample="up", negative_slope=0.2, pixel_norm="after_act"): "ScaledConv2d((4, 3, 3, 3), "
        "weight_scale=0.2722, bias=True, resample='up', negative_slope=0.2, pixel_norm='after_act')",
        nn.ScaledLinear(4, 2, bias=False): "ScaledLinear((2, 4), weight_scale=0.7071, bias=False, negative_slope=None, "
        "pixel_norm='none')",
        nn.LatentToMap(4, 2): "LatentToMap((32, 4), weight_scale=0.1768, bias=True, shape=(2, 4, 4), "
        "negative_slope=0.2, pixel_norm='after_act', channels_last=True)",
        nn.PixelNorm(backend="aten"): "PixelNorm(eps=1e-08, backend='aten')",
        nn.FadeIn(): "FadeIn()",
        nn.MinibatchStdDev(): "MinibatchStdDev(group_size=4, grouping='strided', unbiased=False, eps=1e-08)",
    }
    assert {layer: repr(layer) for layer in said} == said


def test_the_backend_of_a_layer_reaches_the_op() -> None:
    x = torch.randn(2, 3, 4, 4)
    for layer in (nn.ScaledConv2d(3, 4), nn.PixelNorm(), nn.MinibatchStdDev()):
        layer.backend = "cudnn"
        with pytest.raises(ValueError, match=r"backend: .*cudnn"):
            layer(x)


@pytest.mark.parametrize(
    ("make_layer", "said"),
    [
        (lambda: nn.ScaledConv2d(0, 4), "in_channels: expected an integer >= 1, got 0"),
        (lambda: nn.ScaledConv2d(4, 4, 5), "kernel_size: expected 1 or 3, got 5"),
        (lambda: nn.ScaledConv2d(4, 4, resample="half"), "resample: expected one of .* got 'half'"),
        (lambda: nn.ScaledConv2d(4, 4, negative_slope=2.0), "negative_slope: expected"),
        (lambda: nn.ScaledConv2d(4, 4, gain=math.nan), "gain: expected a finite number, got nan"),
        (lambda: nn.ScaledLinear(4, 4.0), r"out_features: expected an integer >= 1, got 4\.0"),
        (lambda: nn.ScaledLinear(4, 4, pixel_norm="after"), "pixel_norm: expected one of"),
        (lambda: nn.LatentToMap(4, 4, (4,)), r"shape: expected height and width >= 1, got \(4,\)"),
    ],
)
def test_a_layer_refuses_bad_arguments_when_it_is_made(make_layer: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_layer()
