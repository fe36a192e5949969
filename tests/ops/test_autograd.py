"""What a backward pass computes: under WGAN-GP no weight gradient that nobody wants, and None where eager has None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grid
import public_ops
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import pggan_fast
from pggan_fast import ops, reference
from pggan_fast.backends import recording
from pggan_fast.ops import _autograd

SLOPE = 0.2


class Critic:
    """fromRGB, a convolution and a downsampling one: the least discriminator that has every kind of layer."""

    def __init__(self, last: str = "down", channels: int = 8) -> None:
        shapes = [(channels, 3, 1, 1), (channels, channels, 3, 3), (channels, channels, 3, 3)]
        self.weights = [torch.randn(s, requires_grad=True) for s in shapes]
        self.biases = [torch.randn(channels, requires_grad=True) for _ in shapes]
        self.resample = ("none", "none", last)

    def __call__(self, x: Tensor, conv: Callable[..., Tensor] = ops.scaled_conv2d, **options: Any) -> Tensor:
        for w, b, how in zip(self.weights, self.biases, self.resample, strict=True):
            x = conv(x, w, b, weight_scale=0.2, resample=how, negative_slope=SLOPE, **options)
        return x.square().mean((1, 2, 3))

    def parameters(self) -> list[Tensor]:
        return self.weights + self.biases


@pytest.fixture
def calls() -> Iterator[Counter[str]]:
    """How often each internal op ran; `+bias` counts the epilogues' backward passes that were asked for db."""
    counter: Counter[str] = Counter()

    def count(op: str, backend: str | None, args: tuple[Any, ...]) -> None:
        counter[op] += 1
        if op == "bias_act_backward" and args[-1]:
            counter[op + "+bias"] += 1

    with recording.recorded(count):
        yield counter


def counted(calls: Counter[str], f: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    calls.clear()
    result = f()
    return result, dict(calls)


class Seen(TorchDispatchMode):
    """The same count from outside, by a dispatch mode: calls then take the dispatcher's way."""

    def __init__(self) -> None:
        super().__init__()
        self.counter: Counter[str] = Counter()

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if f.namespace == "pggan_fast":
            self.counter[f._opname] += 1
        return f(*args, **(kwargs or {}))


def penalty(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (g.square().sum((1, 2, 3)).sqrt() - 1).square().mean()


@pytest.mark.parametrize(("last", "again"), [("down", "bias_act_backward"), ("pool", "masked_pool")])
def test_the_calls_of_a_gradient_penalty(calls: Counter[str], last: str, again: str) -> None:
    critic, x = Critic(last), torch.randn(2, 3, 8, 8, requires_grad=True)
    score, forward = counted(calls, lambda: critic(x).sum())
    assert forward == {"scaled_conv2d_forward": 3}
    (g,), inner = counted(calls, lambda: torch.autograd.grad(score, x, create_graph=True))
    assert inner == {"bias_act_backward": 3, "conv": 3}, "the inner gradient computes weight gradients"
    _, outer = counted(calls, lambda: g.square().sum().backward())
    # g is linear in each layer's mask and weight; dL/dg goes forward again, and the score's curvature back through it
    assert outer.get("conv_weight_grad", 0) == 3 + 3
    assert outer.get("bias_act_backward+bias", 0) == 3
    if again == "masked_pool":
        assert outer["masked_pool"] == 1


def test_the_dispatchers_way_prunes_too() -> None:
    critic, x = Critic(), torch.randn(2, 3, 8, 8, requires_grad=True)
    score = critic(x).sum()
    with Seen() as seen:
        dispatched = critic(x).sum()
        torch.autograd.grad(dispatched, x, create_graph=True)
    assert seen.counter["conv"] == 3
    assert seen.counter["conv_weight_grad"] == 0
    assert score.equal(dispatched)


def test_without_pruning_the_count_notices(calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(node: Any) -> bool:
        raise RuntimeError

    monkeypatch.setattr(_autograd, "_will_run", refuses)
    critic, x = Critic(), torch.randn(2, 3, 8, 8, requires_grad=True)
    score = critic(x).sum()
    _, inner = counted(calls, lambda: torch.autograd.grad(score, x, create_graph=True))
    assert inner["conv_weight_grad"] == 3
    assert inner["bias_act_backward+bias"] == 3


def test_no_weight_grads_prunes_where_the_engine_cannot_be_asked(
    calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_autograd, "_will_run", lambda node: True)
    critic, x = Critic(), torch.randn(2, 3, 8, 8, requires_grad=True)
    score = critic(x).sum()
    with pggan_fast.no_weight_grads():
        (g,), inner = counted(calls, lambda: torch.autograd.grad(score, x, create_graph=True))
    assert inner == {"bias_act_backward": 3, "conv": 3}
    g.square().sum().backward()
    assert all(p.grad is not None for p in critic.parameters())


def test_no_weight_grads_leaves_parameters_without_gradient_and_ends() -> None:
    critic, x = Critic(), torch.randn(2, 3, 8, 8, requires_grad=True)

    def interrupted() -> None:
        with pggan_fast.no_weight_grads():
            critic(x).sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert x.grad is not None
    assert all(p.grad is None for p in critic.parameters())
    critic(x).sum().backward()
    assert all(p.grad is not None for p in critic.parameters())


def layer_flops(x: Any, w: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    """Multiplications and additions of a convolution between x and the first output, resampling in phases."""
    y = out_shape[0] if isinstance(out_shape[0], (tuple, list, torch.Size)) else out_shape
    taps = 16 if x[2:] != y[2:] and w[2] == 3 else w[2] * w[3]
    return 2 * x[0] * w[0] * w[1] * taps * min(x[2] * x[3], y[2] * y[3])


def weight_flops(x: Any, dy: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return layer_flops(x, out_shape, out_shape=dy)


def test_the_inner_gradient_costs_the_flops_of_the_input_gradients() -> None:
    """By torch's own counter, told what our ops cost: the adjoint of each layer costs what the layer does."""
    family = torch.ops.pggan_fast
    formulas = {
        family.scaled_conv2d_forward: layer_flops,
        family.conv: layer_flops,
        family.conv_weight_grad: weight_flops,
    }
    critic, x = Critic(), torch.randn(2, 3, 8, 8, requires_grad=True)

    def flops(f: Callable[[], Any]) -> tuple[Any, int]:
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            result = f()
        return result, counter.get_total_flops()

    score, forward = flops(lambda: critic(x).sum())
    _, inner = flops(lambda: torch.autograd.grad(score, x, create_graph=True))
    _, everything = flops(lambda: torch.autograd.grad(critic(x).sum(), [x, *critic.parameters()]))
    assert forward == 2 * 2 * (8 * 3 * 64 + 8 * 8 * 9 * 64 + 8 * 8 * 16 * 16)
    assert inner == forward
    assert everything == 3 * forward


@pytest.mark.parametrize("last", ["down", "pool"])
@pytest.mark.parametrize("backend", grid.BACKENDS_UNDER_TEST)
def test_a_gradient_penalty_step_equals_eager(backend: str, last: str) -> None:
    critic, x = Critic(last), torch.randn(2, 3, 8, 8)

    def step(conv: Callable[..., Tensor], **options: Any) -> list[Tensor]:
        loss = critic(x, conv, **options).mean() + 10 * penalty(lambda t: critic(t, conv, **options), x)
        return list(torch.autograd.grad(loss, critic.parameters()))

    for got, want in zip(step(ops.scaled_conv2d, backend=backend), step(reference.scaled_conv2d), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


WHO = {"x": (2, 3, 4, 4), "weight": (5, 3, 3, 3), "bias": (5,)}


@pytest.mark.parametrize("asked", [("x",), ("weight",), ("bias",), ("x", "bias"), ("weight", "bias"), tuple(WHO)])
@pytest.mark.parametrize("resample", grid.RESAMPLE)
@pytest.mark.parametrize("norm", ["none", "after_act"])
def test_gradients_are_none_where_eager_has_none(resample: str, norm: str, asked: tuple[str, ...]) -> None:
    tensors = {k: torch.randn(s).requires_grad_(k in asked) for k, s in WHO.items()}
    y = ops.scaled_conv2d(**tensors, weight_scale=0.2, resample=resample, negative_slope=SLOPE, pixel_norm=norm)
    y.sum().backward()
    assert {k for k, t in tensors.items() if t.grad is not None} == set(asked)


@pytest.mark.parametrize("wanted", [("x",), ("weight",), ("bias",), ("weight", "bias")])
def test_only_what_is_asked_for_is_computed(calls: Counter[str], wanted: tuple[str, ...]) -> None:
    tensors = {k: torch.randn(s).requires_grad_() for k, s in WHO.items()}
    named = [tensors[k] for k in wanted]
    # The engine is asked about edges: as in a network, x comes from another node
    loss = ops.scaled_conv2d(
        tensors["x"] * 1, tensors["weight"] * 1, tensors["bias"] * 1, weight_scale=0.2, negative_slope=SLOPE
    ).sum()
    _, made = counted(calls, lambda: torch.autograd.grad(loss, named))
    assert ("conv_weight_grad" in made) == ("weight" in wanted)
    assert ("bias_act_backward+bias" in made) == ("bias" in wanted)


def test_backward_of_the_other_layers_prunes(calls: Counter[str]) -> None:
    image, high = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 5, 4, 4)
    w, b = torch.randn(5, 3, 1, 1, requires_grad=True), torch.randn(5, requires_grad=True)
    y = ops.from_rgb_fade_in(image, high, w, b, 0.25, weight_scale=0.5)
    _, made = counted(calls, lambda: torch.autograd.grad(y.sum(), image, create_graph=True))
    assert made == {"fade_in_backward": 1, "bias_act_backward": 1, "conv": 1}
    x = torch.randn(2, 5, 4, 4, requires_grad=True)
    y = ops.to_rgb_fade_in(
        torch.randn(2, 5, 2, 2), x, torch.randn(3, 5, 1, 1, requires_grad=True), None,
        torch.randn(3, 5, 1, 1, requires_grad=True), None, 0.25, weight_scale_low=0.5, weight_scale_high=0.5,
    )  # fmt: skip
    _, made = counted(calls, lambda: torch.autograd.grad(y.sum(), x, create_graph=True))
    assert made == {"fade_in_backward": 1, "conv": 1}


@pytest.mark.parametrize("resample", grid.RESAMPLE)
@pytest.mark.parametrize("norm", grid.NORMS)
def test_the_gradient_of_the_bias_alone_has_one(resample: str, norm: str) -> None:
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in WHO.values()]
    options: dict[str, Any] = {"weight_scale": 0.2, "bias_scale": 0.5, "resample": resample, "negative_slope": SLOPE}
    shape = reference.scaled_conv2d(*tensors, **options).shape
    dy = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found = []
    for conv in (ops.scaled_conv2d, reference.scaled_conv2d):
        y = conv(*tensors, pixel_norm=norm, eps=0.25, **options)
        (db,) = torch.autograd.grad(y, tensors[2], dy, create_graph=True)
        found.append(torch.autograd.grad(db.square().sum(), [dy, *tensors], allow_unused=True, materialize_grads=True))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


class Cut(torch.autograd.Function):
    """The identity, through which no gradient flows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> None:
        return None


@pytest.mark.parametrize("name", public_ops.OPS)
def test_where_nothing_flows_back_nothing_arrives(name: str) -> None:
    op = public_ops.OPS[name]
    leaves = public_ops.leaves_of(public_ops.draw(op))
    y = op.call(ops, **leaves)
    Cut.apply(y).sum().backward(retain_graph=True)
    first = torch.autograd.grad(y.sum(), list(leaves.values()), create_graph=True)
    for gradient in first:
        if gradient.requires_grad:
            Cut.apply(gradient).sum().backward(retain_graph=True)
    assert not any(t.grad is not None and t.grad.any() for t in leaves.values())


@pytest.mark.parametrize("name", public_ops.OPS)
def test_no_weight_grads_is_of_parameters_alone(name: str) -> None:
    op = public_ops.OPS[name]
    leaves = public_ops.leaves_of(public_ops.draw(op))
    with pggan_fast.no_weight_grads():
        op.call(ops, **leaves).sum().backward()
    assert {k for k, t in leaves.items() if t.grad is not None} == set(op.images)
