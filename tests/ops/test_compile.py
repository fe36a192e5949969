"""torch.compile and torch.export: same numbers as eager, in as few graphs as promised."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import compiling
import grid
import pytest
import torch
from compiling import ALPHAS, TRACING, compiled
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from pggan_fast import nn, ops


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    with compiling.fresh():
        yield


def leaf(*shape: int, channels_last: bool = False) -> Tensor:
    return grid.arrange(torch.randn(shape), "channels_last" if channels_last else "nchw").requires_grad_()


def agree(f: Callable[..., Tensor], *inputs: Tensor, **options: Any) -> None:
    """Compiled and eager: output, its strides, and all gradients."""
    runs = []
    for run in (compiled(f, **options), f):
        y = run(*inputs)
        runs.append((y, torch.autograd.grad(y.square().sum(), inputs)))
    (y, grads), (want, want_grads) = runs
    torch.testing.assert_close(y, want)
    assert y.stride() == want.stride()
    torch.testing.assert_close(grads, want_grads, rtol=1e-4, atol=1e-5)


LAYERS = [
    ("none", None, "after_act"),
    ("up", 0.2, "after_act"),
    ("down", 0.2, "none"),
    ("pool", 0.2, "none"),
    ("pool", 0.2, "before_act"),
    ("none", 0.0, "before_act"),
]


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("resample", "slope", "norm"), LAYERS)
def test_scaled_conv2d(backend: str, resample: str, slope: float | None, norm: str, channels_last: bool) -> None:
    def f(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        options: Any = {"resample": resample, "negative_slope": slope, "pixel_norm": norm, "backend": backend}
        return ops.scaled_conv2d(x * 1.5, w, b, weight_scale=0.3, **options) + 1

    agree(f, leaf(2, 4, 4, 6, channels_last=channels_last), leaf(5, 4, 3, 3), leaf(5))


@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_the_other_ops_in_one_graph(backend: str) -> None:
    def f(image: Tensor, x: Tensor, w: Tensor, b: Tensor, v: Tensor, m: Tensor) -> Tensor:
        x = ops.pixel_norm(ops.bias_act(x, b, negative_slope=0.2, backend=backend), backend=backend)
        x = ops.from_rgb_fade_in(
            ops.fade_reals(image, 0.5, backend=backend), x, w, b, 0.5, weight_scale=0.4, backend=backend
        )
        x = ops.minibatch_stddev(x, 2, backend=backend)[:, :5]
        rgb = ops.to_rgb_fade_in(
            x[:, :, ::2, ::2], x, v, None, v, None, 0.25, weight_scale_low=1.0, weight_scale_high=1.0, backend=backend
        )
        y = ops.fade_in(rgb, torch.tanh(rgb), 0.5, backend=backend)
        return ops.scaled_linear(y.flatten(1), m, weight_scale=0.2, backend=backend)

    agree(f, leaf(4, 3, 8, 8), leaf(4, 5, 4, 4), leaf(5, 3, 1, 1), leaf(5), leaf(3, 5, 1, 1), leaf(2, 48))


@pytest.mark.slow
def test_inductor() -> None:
    def f(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.scaled_conv2d(x.cos(), w, b, weight_scale=0.3, negative_slope=0.2, pixel_norm="after_act").sin()

    agree(f, leaf(2, 4, 4, 4), leaf(5, 4, 3, 3), leaf(5), backend="inductor")


def test_sizes_that_change_make_two_graphs() -> None:
    w = leaf(5, 4, 3, 3)
    counter = CompileCounterWithBackend("aot_eager")

    def f(x: Tensor) -> Tensor:
        return ops.scaled_conv2d(x, w, weight_scale=0.3, resample="down", negative_slope=0.2)

    run = compiled(f, backend=counter)
    for n, size in ((2, 8), (3, 12), (5, 6), (7, 10)):
        x = torch.randn(n, 4, size, size + 2)
        torch.testing.assert_close(run(x), f(x))
    assert counter.frame_count <= 2


def fades(a: Any) -> list[Tensor]:
    """Every op that takes alpha."""
    image, x, w = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2), torch.ones(5, 3, 1, 1)
    v, scales = torch.ones(3, 5, 1, 1), {"weight_scale_low": 0.5, "weight_scale_high": 0.25}
    return [
        ops.fade_in(image[:, :, ::2, ::2] * 2, image, a),
        ops.fade_reals(image.cumsum(3), a),
        ops.from_rgb_fade_in(image, x, w, None, a, weight_scale=0.5),
        ops.to_rgb_fade_in(x[:, :, ::2, ::2], x, v, None, v, None, a, **scales),
    ]


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_alpha_changes_without_new_graphs(kind: Callable[[float], Any]) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    run = compiled(fades, backend=counter)
    for alpha in ALPHAS:
        torch.testing.assert_close(run(kind(alpha)), fades(alpha))
    assert counter.frame_count <= 2


def test_a_float_that_is_compiled_in_is_counted() -> None:
    """The fault that the count has to catch: torch.full takes its value as a constant."""
    counter = CompileCounterWithBackend("aot_eager")
    run = compiled(lambda a: torch.full((), a) * 2, backend=counter)
    for alpha in ALPHAS[:5]:
        run(alpha)
    assert counter.frame_count > 2


class Critic(torch.nn.Module):
    def __init__(self, last: str) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            nn.FromRGB(3, 6),
            nn.ScaledConv2d(6, 6, negative_slope=0.2),
            nn.ScaledConv2d(6, 6, negative_slope=0.2, resample=last),
            nn.MinibatchStdDev(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).square().mean((1, 2, 3))


def penalty(critic: Critic, x: Tensor) -> Tensor:
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (g.square().sum((1, 2, 3)).sqrt() - 1).square().mean()


@pytest.mark.skipif(not TRACING, reason=compiling.WHY_NOT_TRACING)
@pytest.mark.parametrize("last", ["down", "pool"])
def test_a_gradient_penalty_inside_a_compiled_loss(last: str) -> None:
    critic, x = Critic(last), leaf(4, 3, 8, 8)
    results = []
    for run in (compiled(lambda x: penalty(critic, x)), lambda x: penalty(critic, x)):
        loss = run(x)
        results.append([loss, *torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)])
    for got, want in zip(*results, strict=True):
        assert (got is None) == (want is None) or not (got if want is None else want).any()
        if got is not None and want is not None:
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_autocast_in_a_compiled_graph() -> None:
    w = leaf(5, 4, 3, 3)

    def f(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ops.scaled_conv2d(x, w, weight_scale=0.3)

    x = torch.randn(2, 4, 4, 4)
    y = compiled(f)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, f(x))


@pytest.mark.parametrize("dynamic", [False, True])
def test_export_saves_and_loads(dynamic: bool) -> None:
    model = torch.nn.Sequential(
        nn.ScaledConv2d(3, 4, resample="up", negative_slope=0.2, pixel_norm="after_act"),
        nn.ScaledConv2d(4, 3, resample="pool", negative_slope=0.2),
    ).eval()
    sizes = ({0: torch.export.Dim("n", min=2), 2: torch.export.Dim("h", min=2)},) if dynamic else None
    x = torch.randn(2, 3, 4, 4)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=sizes), buffer)
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    x = torch.randn(5, 3, 6, 4) if dynamic else x
    torch.testing.assert_close(again(x), model(x))
