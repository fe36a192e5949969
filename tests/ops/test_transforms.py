"""What else people do: checkpointing, torch.func, autocast, meta tensors, writes in place, empty batches."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import grid
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pggan_fast import nn, ops, reference

OPTIONS: dict[str, Any] = {"weight_scale": 0.3, "negative_slope": 0.2, "pixel_norm": "after_act"}
backends = pytest.mark.parametrize("backend", [None, *grid.BACKENDS_UNDER_TEST])


def ours(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return ops.scaled_conv2d(x, w, b, **OPTIONS)


def plain(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return reference.scaled_conv2d(x, w, b, **OPTIONS)


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)


def network() -> torch.nn.Sequential:
    return torch.nn.Sequential(
        nn.ScaledConv2d(3, 4, resample="up", negative_slope=0.2, pixel_norm="after_act"),
        nn.ScaledConv2d(4, 4, negative_slope=0.2, resample="pool"),
        nn.MinibatchStdDev(2),
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model, x = network(), torch.randn(2, 3, 4, 4, requires_grad=True)
    results = []
    for run in (lambda x: checkpoint(model, x, use_reentrant=reentrant), model):
        model.zero_grad()
        run(x).square().sum().backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_checkpointing_under_a_gradient_penalty() -> None:
    model, x = network(), torch.randn(2, 3, 4, 4, requires_grad=True)
    results = []
    for run in (lambda x: checkpoint(model, x, use_reentrant=False), model):
        (g,) = torch.autograd.grad(run(x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), list(model.parameters())))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # name -> (op as called with a module, inputs): every public op through torch.func
    "scaled_conv2d": (lambda m, x, w: m.scaled_conv2d(x, w, **OPTIONS), ((2, 3, 4, 4), (4, 3, 3, 3))),
    "bias_act": (lambda m, x, b: m.bias_act(x, b, negative_slope=0.2), ((2, 3, 4, 4), (3,))),
    "scaled_linear": (lambda m, x, w: m.scaled_linear(x, w, weight_scale=0.3), ((2, 3), (4, 3))),
    "pixel_norm": (lambda m, x: m.pixel_norm(x), ((2, 3, 4, 4),)),
    "fade_in": (lambda m, x, y: m.fade_in(x, y, 0.25), ((2, 3, 2, 2), (2, 3, 4, 4))),
    "fade_reals": (lambda m, x: m.fade_reals(x, 0.25), ((2, 3, 4, 4),)),
    "to_rgb_fade_in": (
        lambda m, x, y, v, w: m.to_rgb_fade_in(
            x, y, v, None, w, None, 0.5, weight_scale_low=1.0, weight_scale_high=1.0
        ),
        ((2, 3, 2, 2), (2, 4, 4, 4), (3, 3, 1, 1), (3, 4, 1, 1)),
    ),
    "from_rgb_fade_in": (
        lambda m, x, y, w: m.from_rgb_fade_in(x, y, w, None, 0.5, weight_scale=1.0),
        ((2, 3, 4, 4), (2, 5, 2, 2), (5, 3, 1, 1)),
    ),
    "minibatch_stddev": (lambda m, x: m.minibatch_stddev(x, 2), ((4, 3, 2, 2),)),
    "generator_stage": (
        lambda m, x, u, v, w: m.generator_stage(x, ops.Scaled(u), ops.Scaled(v), ops.Scaled(w)),
        ((2, 3, 2, 2), (4, 3, 3, 3), (4, 4, 3, 3), (3, 4, 1, 1)),
    ),
    "discriminator_stem": (
        lambda m, x, v, w: m.discriminator_stem(x, ops.Scaled(v), ops.Scaled(w)),
        ((2, 3, 4, 4), (5, 3, 1, 1), (4, 5, 3, 3)),
    ),
}


def test_every_public_op_is_transformed() -> None:
    assert {*FUNCTIONS, "no_weight_grads", "Scaled"} == set(ops.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_func(name: str) -> None:
    """grad, grad of grad, vmap and jvp have no rules in our nodes: they take the reference and agree with it."""
    f, shapes = FUNCTIONS[name]
    inputs = [torch.randn(s) for s in shapes]
    many = [torch.stack([t, 2 * t]) for t in inputs]

    def results(m: Any) -> list[Tensor]:
        def scalar(*t: Tensor) -> Tensor:
            return f(m, *t).sin().sum()

        def slope(*t: Tensor) -> Tensor:
            return torch.func.grad(scalar)(*t).square().sum()

        g = functools.partial(f, m)
        jvp = torch.func.jvp(g, tuple(inputs), tuple(inputs))[1]
        return [torch.func.grad(scalar)(*inputs), torch.func.grad(slope)(*inputs), torch.func.vmap(g)(*many), jvp]

    for got, want in zip(results(ops), results(reference), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_is_not_lost(name: str) -> None:
    f, shapes = FUNCTIONS[name]
    inputs = [torch.randn(s) for s in shapes]
    tangents = []
    for m in (ops, reference):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(t, t.cos()) for t in inputs]
            tangents.append(forward_ad.unpack_dual(f(m, *duals)).tangent)
    assert tangents[0] is not None
    torch.testing.assert_close(*tangents)


@pytest.mark.parametrize("leaked", [0, 1, 2], ids=["x", "weight", "bias"])
def test_tensors_that_outlive_torch_func(leaked: int, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    """torch.func's wrappers are plain tensors to Python, have no memory, and say that they require gradients."""
    leaf, out = tensors[leaked].requires_grad_(), []

    def scalar(t: Tensor) -> Tensor:
        out.append(t)
        return t.sum()

    torch.func.grad(scalar)(leaf)
    inputs = [out[0] if i == leaked else t for i, t in enumerate(tensors)]
    results = [torch.autograd.grad(f(*inputs).sin().sum(), leaf)[0] for f in (ours, plain)]
    torch.testing.assert_close(*results)
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), ours(*tensors))
        torch.testing.assert_close(ops.bias_act(inputs[0]), tensors[0])


def test_per_sample_gradients(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w, b = tensors
    per_sample = [
        torch.func.vmap(torch.func.grad(lambda w, x, f=f: f(x[None], w, b).sin().sum()), (None, 0))(w, x)
        for f in (ours, plain)
    ]
    torch.testing.assert_close(*per_sample)


def test_batched_gradients(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    """is_grads_batched vmaps a backward that is already built: the reference can, our nodes name what is missing."""
    x, w, b = tensors

    def batched(f: Callable[..., Tensor], **extra: Any) -> Tensor:
        weight = w.clone().requires_grad_()
        y = f(x, weight, b, **OPTIONS, **extra).sum((0, 2, 3))
        return torch.autograd.grad(y, weight, torch.eye(4), is_grads_batched=True)[0]

    with pytest.raises(RuntimeError, match="Batching rule not implemented for pggan_fast::bias_act_backward"):
        batched(ops.scaled_conv2d)
    torch.testing.assert_close(batched(ops.scaled_conv2d, backend="reference"), batched(reference.scaled_conv2d))


@backends
def test_inference_mode(backend: str | None, tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    with torch.inference_mode():
        y = ops.scaled_conv2d(*tensors, **OPTIONS, backend=backend)
    assert y.is_inference()
    torch.testing.assert_close(y.clone(), plain(*tensors))


@pytest.mark.parametrize("backend", [None, "reference", *grid.BACKENDS_UNDER_TEST])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(backend: str | None, dtype: torch.dtype) -> None:
    """Results in autocast's dtype; gradients in the parameters'."""
    x, w, b = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    m = torch.randn(5, 4, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = ops.scaled_conv2d(x, w, b, **OPTIONS, backend=backend)
        z = ops.scaled_linear(y.mean((2, 3)), m, weight_scale=0.5, backend=backend)
    assert y.dtype == z.dtype == dtype
    z.float().square().sum().backward()
    assert w.grad.dtype == b.grad.dtype == m.grad.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), plain(x, w, b), rtol=8 * eps, atol=8 * eps)


@backends
def test_meta_tensors_have_the_shape_and_the_strides(backend: str | None) -> None:
    for layout in grid.LAYOUTS:
        x = grid.arrange(torch.randn(2, 3, 4, 6), layout)
        real = ops.scaled_conv2d(x, torch.randn(5, 3, 3, 3), weight_scale=0.3, resample="up", backend=backend)
        w = torch.randn(5, 3, 3, 3, device="meta")
        on_meta = grid.arrange(torch.empty(2, 3, 4, 6, device="meta"), layout)
        fake = ops.scaled_conv2d(on_meta, w, weight_scale=0.3, resample="up", backend=backend)
        assert fake.device.type == "meta"
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@backends
@pytest.mark.parametrize("name", FUNCTIONS)
def test_empty_batches(name: str, backend: str | None) -> None:
    f, shapes = FUNCTIONS[name]
    count = 1 if len(shapes) == 1 else 2 if name in ("fade_in", "to_rgb_fade_in", "from_rgb_fade_in") else 1
    inputs = [torch.randn((0, *s[1:]) if i < count else s, requires_grad=True) for i, s in enumerate(shapes)]

    class WithBackend:
        def __getattr__(self, op: str) -> Callable[..., Tensor]:
            return functools.partial(getattr(ops, op), backend=backend)

    y = f(WithBackend(), *inputs)
    want = f(reference, *inputs)
    assert y.shape == want.shape
    grads = torch.autograd.grad(y.sum(), inputs, create_graph=True)
    for g, t in zip(grads, inputs, strict=True):
        assert g.shape == t.shape
        assert not g.any()
    total = sum(g.square().sum() for g in grads)
    assert isinstance(total, Tensor)
    if total.requires_grad:
        torch.autograd.grad(total, inputs, allow_unused=True)


@pytest.mark.parametrize("through", [lambda y: y, lambda y: y.view(-1)], ids=["itself", "a view"])
def test_writing_into_the_output_before_backward_is_an_error(through: Any, tensors: tuple[Tensor, ...]) -> None:
    x, w, b = tensors
    y = ours(x, w.requires_grad_(), b)
    through(y).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_writing_into_a_weight_before_backward_is_an_error(tensors: tuple[Tensor, ...]) -> None:
    x, w, b = tensors
    y = ours(x.requires_grad_(), w.requires_grad_(), b)
    with torch.no_grad():
        w.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def garbage_of_a_step(f: Any, shapes: Any) -> int:
    """How many objects a forward and backward leave to the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        inputs = [torch.randn(s, requires_grad=True) for s in shapes]
        alive = [weakref.ref(t) for t in inputs]
        y = f(ops, *inputs)
        alive.append(weakref.ref(y))
        y.sin().sum().backward()
        del y, inputs
        assert [r() for r in alive] == [None] * len(alive)
        return gc.collect()
    finally:
        gc.enable()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_reference_cycle_keeps_memory(name: str) -> None:
    """Output and graph go when the last name goes, without the garbage collector.

    Of three tries: a cycle of the op's own is there each time, one of a first import or of another thread is not.
    """
    assert 0 in (garbage_of_a_step(*FUNCTIONS[name]) for _ in range(3))


def test_a_reference_cycle_is_seen() -> None:
    def leaks(_: Any, x: Tensor) -> Tensor:
        cycle: list[Any] = []
        cycle.append(cycle)
        return x.sin()

    assert 0 not in [garbage_of_a_step(leaks, ((2, 3),)) for _ in range(3)]


def test_saved_tensors_can_live_elsewhere(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w, b = tensors
    grads = []
    for f in (ours, plain):
        weight = w.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            y = f(x, weight, b)
        grads.append(torch.autograd.grad(y.sin().sum(), weight)[0])
    torch.testing.assert_close(*grads)


def test_a_subclass_of_tensor_is_kept(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    class Named(Tensor):
        pass

    x, w, b = tensors
    y = ours(x.as_subclass(Named), w, b)
    torch.testing.assert_close(y.as_subclass(Tensor), ours(x, w, b))


def test_deepcopy_of_a_graph_is_refused_as_usual(tensors: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w, b = tensors
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(ours(x, w.requires_grad_(), b))
