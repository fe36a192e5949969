"""The counts behind the roofline: products that the forms really make, and the bytes of the kernels' tensors."""

from __future__ import annotations

import pytest
import torch
from pggan_fast.benchmarks import roofline
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")


def image(channels: int, size: int) -> Tensor:
    return torch.randn(2, channels, size, size).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("resample", "out", "products"), [("none", 32, 4), ("up", 64, 9), ("down", 16, 9 / 4)])
def test_a_layer(resample: str, out: int, products: float) -> None:
    layer, x = nn.ScaledConv2d(16, 24, resample=resample, negative_slope=0.2), image(16, 32)
    with torch.no_grad():
        layer(x)  # with the self-check
        with roofline.watched() as counted:
            layer(x)
    assert counted.flops == 2 * products * x.numel() * 24
    assert counted.bytes == 4 * (x.numel() + 2 * 24 * out * out + 9 * 16 * 24 + 24)


def test_a_stage() -> None:
    """Two convolutions in one kernel, whose image alone is written."""
    up, conv, rgb = nn.ScaledConv2d(16, 8, resample="up"), nn.ScaledConv2d(8, 8), nn.ToRGB(8)
    x = image(16, 16)
    with torch.no_grad():
        ops.generator_stage(x, up.scaled, conv.scaled, rgb.scaled)  # with the self-check
        with roofline.watched() as counted:
            ops.generator_stage(x, up.scaled, conv.scaled, rgb.scaled)
    stage = 9 * x.numel() * 8 + 4 * (2 * 8 * 32 * 32) * 8
    assert counted.flops == 2 * stage
    read = x.numel() + sum(p.numel() for layer in (up, conv, rgb) for p in layer.parameters())
    assert counted.bytes == 4 * (read + 2 * 3 * 32 * 32)


def test_torchs_own_products_without_ours() -> None:
    layer, x = nn.ScaledConv2d(16, 24), image(16, 32)
    with torch.no_grad():
        assert roofline.torchs_flops(lambda: (layer(x), torch.mm(torch.ones(3, 5), torch.ones(5, 7)))) == 2 * 3 * 5 * 7


def test_kernels_are_restored() -> None:
    before = [module.launch for module in (roofline.cpu, roofline.cpu_stage, roofline.tiled)]
    with pytest.raises(ZeroDivisionError), roofline.watched():
        raise ZeroDivisionError
    assert before == [module.launch for module in (roofline.cpu, roofline.cpu_stage, roofline.tiled)]
