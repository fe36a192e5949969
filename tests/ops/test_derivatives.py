"""gradcheck and gradgradcheck in float64: numerical derivatives, which share nothing with the reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import grid
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from pggan_fast import ops

backends = pytest.mark.parametrize("backend", grid.DOUBLE_BACKENDS)


def draw(*shape: int, channels_last: bool = False) -> Tensor:
    x = torch.randn(shape, dtype=torch.float64)
    return (x.contiguous(memory_format=torch.channels_last) if channels_last else x).requires_grad_()


def check(f: Callable[..., Tensor], *inputs: Tensor) -> None:
    assert gradcheck(f, inputs, fast_mode=True)
    assert gradgradcheck(f, inputs, fast_mode=True)


LAYERS = [
    case
    for case in itertools.product(
        (1, 3), grid.RESAMPLE, grid.NORMS, grid.SLOPES, (False, True), (False, True), grid.EPS_MODES
    )
    if not (case[0] == 1 and case[6] == "outside")
    and not (case[2] == "none" and case[6] == "outside")
    and not (case[5] and not case[4])
]


@backends
@pytest.mark.parametrize("resample", grid.RESAMPLE)
@pytest.mark.parametrize("norm", grid.NORMS)
def test_scaled_conv2d(backend: str, norm: str, resample: str) -> None:
    for k, how, which, slope, biased, channels_last, mode in LAYERS:
        if (how, which) != (resample, norm):
            continue
        inputs = [draw(2, 3, 4, 2, channels_last=channels_last), draw(4, 3, k, k)] + [draw(4)] * biased
        options: dict[str, Any] = {
            "weight_scale": 0.7,
            "bias_scale": 0.3,
            "resample": resample,
            "negative_slope": slope,
            "pixel_norm": norm,
            "eps": 0.01,
            "eps_mode": mode,
            "backend": backend,
        }
        check(lambda *t, options=options: ops.scaled_conv2d(*t, **options), *inputs)


@backends
@pytest.mark.parametrize("mode", grid.EPS_MODES)
@pytest.mark.parametrize("norm", grid.NORMS)
@pytest.mark.parametrize("slope", grid.SLOPES)
def test_bias_act(backend: str, slope: float | None, norm: str, mode: str) -> None:
    for shape in ((2, 4, 3, 2), (3, 4)):
        check(
            lambda x, b: ops.bias_act(
                x, b, scale=0.6, bias_scale=0.3, negative_slope=slope, pixel_norm=norm, eps=0.01, eps_mode=mode,
                backend=backend,
            ),
            draw(*shape),
            draw(4),
        )  # fmt: skip


@backends
@pytest.mark.parametrize("norm", grid.NORMS)
def test_scaled_linear(backend: str, norm: str) -> None:
    check(
        lambda x, w, b: ops.scaled_linear(
            x, w, b, weight_scale=0.3, negative_slope=0.2, pixel_norm=norm, eps=0.01, backend=backend
        ),
        draw(3, 5),
        draw(4, 5),
        draw(4),
    )


@backends
def test_pixel_norm(backend: str) -> None:
    check(lambda x: ops.pixel_norm(x, 0.01, backend=backend), draw(2, 5, 2, 3))
    check(lambda x: ops.pixel_norm(x, 0.01, backend=backend), draw(3, 5))


@backends
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_fades(backend: str, alpha: float) -> None:
    check(lambda a, b: ops.fade_in(a, b, alpha, backend=backend), draw(2, 3, 2, 3), draw(2, 3, 4, 6))
    check(lambda a, b: ops.fade_in(a, b, alpha, backend=backend), draw(2, 3, 3, 3), draw(2, 3, 3, 3))
    check(lambda a: ops.fade_reals(a, alpha, backend=backend), draw(2, 3, 4, 6))


@backends
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("biased", [False, True])
def test_rgb_fades(backend: str, biased: bool, alpha: float) -> None:
    def to_rgb(xl: Tensor, xh: Tensor, wl: Tensor, wh: Tensor, bl: Any = None, bh: Any = None) -> Tensor:
        return ops.to_rgb_fade_in(
            xl, xh, wl, bl, wh, bh, alpha, weight_scale_low=0.3, weight_scale_high=0.4, bias_scale_low=0.5,
            bias_scale_high=0.6, backend=backend,
        )  # fmt: skip

    def from_rgb(image: Tensor, high: Tensor, w: Tensor, b: Any = None) -> Tensor:
        return ops.from_rgb_fade_in(image, high, w, b, alpha, weight_scale=0.3, bias_scale=0.5, backend=backend)

    check(to_rgb, draw(2, 5, 2, 2), draw(2, 4, 4, 4), draw(3, 5, 1, 1), draw(3, 4, 1, 1), *[draw(3), draw(3)] * biased)
    check(from_rgb, draw(2, 3, 4, 4), draw(2, 5, 2, 2), draw(5, 3, 1, 1), *[draw(5)] * biased)


@backends
@pytest.mark.parametrize(("n", "group"), [(4, 4), (4, 2), (3, 1), (2, 4)])
@pytest.mark.parametrize("grouping", ["strided", "adjacent"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_minibatch_stddev(backend: str, n: int, group: int, grouping: str, unbiased: bool) -> None:
    def f(x: Tensor) -> Tensor:
        return ops.minibatch_stddev(
            x, group, grouping=grouping, unbiased=unbiased and group > 1, eps=0.01, backend=backend
        )

    check(f, draw(n, 3, 2, 2))


@backends
def test_third_order(backend: str) -> None:
    """The gradient of a penalty's gradient: each backward is made of differentiable ops."""

    def penalty_grad(x: Tensor, w: Tensor) -> Tensor:
        y = ops.scaled_conv2d(x, w, weight_scale=0.5, negative_slope=0.2, pixel_norm="after_act", backend=backend)
        return torch.autograd.grad(y.sin().sum(), x, create_graph=True)[0]

    assert gradgradcheck(penalty_grad, (draw(1, 2, 2, 2), draw(3, 2, 3, 3)), fast_mode=True)
