"""The CPU kernels of the fades, the RGB layers and the minibatch stddev against float64 formulas."""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import (
    DTYPES,
    F64,
    FORMATS,
    affine,
    assert_close,
    bits_of,
    blocks,
    leaky,
    must_fail,
    random_tensor,
    up2,
)

from pggan_fast.backends import cpu

if (reason := cpu.why_missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

ISAS = cpu.describe()["isas"]

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fades(dtype, isa):
    cpu.set_isa(isa)
    for memory_format, (c, size) in itertools.product(FORMATS, ((3, 1), (17, 4), (1, 7), (3, 33))):
        low = random_tensor(2, c, size, size + 1, dtype=dtype, memory_format=memory_format)
        high = random_tensor(2, c, 2 * size, 2 * size + 2, dtype=dtype, memory_format=memory_format, seed=1)
        for value in (0.0, 0.3, 1.0, 1.7):
            alpha, a = torch.tensor(value), min(torch.tensor(value).item(), 1.0)
            out = cpu.ops.fade_in_forward(low, high, alpha)
            assert_close(out, lambda x, y, a=a: (1 - a) * up2(x) + a * y, low, high)
            assert_close(cpu.ops.fade_in_forward(up2(low), high, alpha), lambda o: o, out)
            assert value not in (0.0, 1.0) or torch.equal(out, high if value else up2(low))
            dlow, dhigh = cpu.ops.fade_in_backward(high, alpha, True)
            assert_close(dlow, lambda g, a=a: (1 - a) * blocks(g).sum((3, 5)), high)
            assert_close(dhigh, lambda g, a=a: a * g, high)
            assert_close(cpu.ops.fade_in_backward(high, alpha, False)[0], lambda g, a=a: (1 - a) * g, high)
            assert_close(
                cpu.ops.fade_reals(high, alpha), lambda x, a=a: (1 - a) * up2(blocks(x).mean((3, 5))) + a * x, high
            )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rgb(dtype, isa):
    cpu.set_isa(isa)
    alpha, a = torch.tensor(0.3), torch.tensor(0.3).item()
    for memory_format, rgb, c, size in itertools.product(FORMATS, (1, 3, 4), (1, 17, 64), (1, 5)):
        make = functools.partial(random_tensor, dtype=dtype, memory_format=memory_format)
        low, high = make(2, c + 3, size, size + 1), make(2, c, 2 * size, 2 * size + 2)
        weights = (random_tensor(rgb, c + 3, 1, 1), make(rgb, seed=1), make(rgb, c, 1, 1), None)
        image = cpu.ops.to_rgb_fade_in_forward(low, high, *weights, alpha, 0.5, 0.7, 1.0, 1.0)

        def to_rgb(x_low, x_high, w_low, b_low, w_high, _):
            low = F.conv2d(x_low, (w_low * 0.5).to(x_low.dtype), b_low)
            return (1 - a) * up2(low) + a * F.conv2d(x_high, (w_high * 0.7).to(x_high.dtype))

        assert_close(image, to_rgb, low, high, *weights)

        feature, weight, bias = make(2, c, size, size + 1), make(c, rgb, 1, 1), random_tensor(c, seed=1)
        y, mask = cpu.ops.from_rgb_fade_in_forward(image, feature, weight, bias, alpha, 0.5, 1.3, 0.2)

        def low_of(image, weight, bias):
            return affine(F.conv2d(blocks(image).mean((3, 5)), weight * 0.5), bias, 1.0, 1.3)

        assert_close(
            y, lambda i, f, w, b: (1 - a) * leaky(low_of(i, w, b), 0.2) + a * f, image, feature, weight, bias
        )  # fmt: skip
        v = low_of(image.to(F64), weight.to(F64), bias.to(F64))
        assert (v[bits_of(mask, c) != (v > 0)].abs() < 1e-5).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minibatch_stddev(dtype, isa):
    cpu.set_isa(isa)
    for memory_format, c, size, grouping, unbiased in itertools.product(
        FORMATS, (1, 17, 512), (1, 4, 5), ("strided", "adjacent"), (False, True)
    ):
        x = random_tensor(6, c, size, size, dtype=dtype, memory_format=memory_format)
        dy = random_tensor(6, c + 1, size, size, dtype=dtype, memory_format=memory_format, seed=1)

        def stddev(x, grouping=grouping, unbiased=unbiased):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            members = [list(range(m, 6, 2)) if grouping == "strided" else list(range(3 * m, 3 * m + 3)) for m in (0, 1)]
            one = torch.ones_like(wide[:, :1])
            for group in members:
                std = (wide[group].var(0, correction=int(unbiased)) + 1e-8).sqrt().mean()
                one = torch.where(torch.tensor([n in group for n in range(6)]).view(6, 1, 1, 1), std, one)
            return torch.cat([x, one.to(x.dtype)], 1)

        def gradient(dy, x):
            x = x.detach().requires_grad_()
            return torch.autograd.grad(stddev(x), x, dy)[0]

        assert_close(cpu.ops.minibatch_stddev_forward(x, 3, grouping, unbiased, 1e-8), stddev, x)
        assert_close(cpu.ops.minibatch_stddev_backward(dy, x, 3, grouping, unbiased, 1e-8), gradient, dy, x)


def test_faults_are_caught():
    low, high = random_tensor(2, 3, 4, 5), random_tensor(2, 3, 8, 10, seed=1)
    alpha, a = torch.tensor(0.3), torch.tensor(0.3).item()
    out = cpu.ops.fade_in_forward(low, high, alpha + 1e-3)
    must_fail(out, lambda x, y: (1 - a) * up2(x) + a * y, low, high)
    must_fail(cpu.ops.fade_reals(high, alpha), lambda x: (1 - a) * up2(x[:, :, ::2, ::2]) + a * x, high)
    must_fail(cpu.ops.fade_in_backward(high, alpha, True)[0], lambda g: (1 - a) * blocks(g).mean((3, 5)), high)
    x = random_tensor(4, 3, 4, 4)
    strided, adjacent = (
        cpu.ops.minibatch_stddev_forward(x, 2, grouping, False, 1e-8) for grouping in ("strided", "adjacent")
    )
    must_fail(strided, lambda _: adjacent.to(F64), x)
