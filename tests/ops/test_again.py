"""Calls like an earlier one go straight to what ran it: with its bits, and no other call does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from choices import forget_choices
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from pggan_fast import ops, use_backend
from pggan_fast.backends import recording, registry
from pggan_fast.ops import _again, _checks

pytestmark = pytest.mark.usefixtures("fresh_choices")


def leaves(*shapes: tuple[int, ...], rows: bool = False, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=generator).to(dtype) for s in shapes]
    if rows:
        drawn[0] = drawn[0].contiguous(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in drawn]


def conv(**options: Any) -> Callable[..., Tensor]:
    return lambda x, w, b: ops.scaled_conv2d(x, w, b, weight_scale=0.3, bias_scale=0.7, **options)


def scaled(*parameters: Tensor) -> list[ops.Scaled]:
    return [ops.Scaled(w, b, 0.3, 0.7) for w, b in zip(parameters[::2], parameters[1::2], strict=True)]


ALPHA = torch.tensor(0.25)
CALLS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    f"{resample} {norm} {k}": (
        conv(resample=resample, negative_slope=0.2, pixel_norm=norm),
        [(2, 9, 6, 4), (17, 9, k, k), (17,)],
    )
    for resample in ("none", "up", "down", "pool")
    for norm in ("none", "after_act", "before_act")
    for k in (1, 3)
    if resample != "pool" or norm == "none"
}
CALLS["linear"] = (
    lambda x, w, b: ops.scaled_linear(x, w, b, weight_scale=0.3, negative_slope=0.2),
    [(3, 5), (4, 5), (4,)],
)
CALLS["wide linear"] = CALLS["linear"][0], [(64, 96), (80, 96), (80,)]
CALLS["scores"] = CALLS["linear"][0], [(64, 512), (1, 512), (1,)]
CALLS["one channel"] = conv(negative_slope=0.2), [(4, 16, 4, 4), (1, 16, 1, 1), (1,)]
CALLS["bias_act"] = lambda x, b: ops.bias_act(x, b, negative_slope=0.2, pixel_norm="after_act"), [(2, 5, 3, 4), (5,)]
CALLS["pixel_norm"] = ops.pixel_norm, [(2, 5, 3, 4)]
CALLS["stage"] = (
    lambda x, *parameters: ops.generator_stage(x, *scaled(*parameters), alpha=ALPHA),
    [(2, 9, 4, 6), (8, 9, 3, 3), (8,), (8, 8, 3, 3), (8,), (3, 8, 1, 1), (3,), (3, 9, 1, 1), (3,)],
)
CALLS["stem"] = (
    lambda x, *parameters: ops.discriminator_stem(x, *scaled(*parameters)),
    [(2, 3, 4, 6), (8, 3, 1, 1), (8,), (9, 8, 3, 3), (9,)],
)


def results(f: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Outputs without and with a graph, gradients, and those of a gradient's size."""
    with torch.no_grad():
        plain = f(*tensors)
    y = f(*tensors)
    dy = torch.linspace(-1.0, 1.0, y.numel(), dtype=torch.float32).view(y.shape).to(y.dtype)
    first = torch.autograd.grad(y, tensors, dy)
    graph = torch.autograd.grad(f(*tensors), tensors[0], dy, create_graph=True)
    second = torch.autograd.grad(graph[0].float().square().sum(), tensors, allow_unused=True)
    return [plain, y.detach(), *first, *(g for g in second if g is not None)]


@pytest.mark.parametrize("rows", [False, True], ids=["planes", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_has_the_bits_of_the_first(name: str, dtype: torch.dtype, rows: bool) -> None:
    f, shapes = CALLS[name]
    tensors = leaves(*shapes, rows=rows and len(shapes[0]) == 4, dtype=dtype)
    first = results(f, tensors)
    assert registry.again
    for _ in range(2):
        again = results(f, tensors)
        assert len(first) == len(again)
        for a, b in zip(first, again, strict=True):
            assert torch.equal(a, b)
            assert (a.stride(), a.dtype) == (b.stride(), b.dtype)


@torch.no_grad()
@pytest.mark.parametrize("name", ["stage", "stem"])
def test_an_op_of_several_layers_is_remembered_as_a_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its checks and the choice, but not with what they refuse."""
    f, shapes = CALLS[name]
    tensors = leaves(*shapes)
    right = f(*tensors)
    monkeypatch.setattr(_checks, "pixels", lambda *args: pytest.fail("the long way"))
    assert torch.equal(f(*tensors), right)
    assert OF_SEVERAL[name] in {key[0] for key in registry.again}
    with pytest.raises(pytest.fail.Exception, match="the long way"):
        f(tensors[0][:1], *tensors[1:])
    with pytest.raises(pytest.fail.Exception, match="the long way"):
        f(tensors[0], tensors[1].double(), *tensors[2:])


@torch.no_grad()
def test_what_is_no_layer_is_no_missing_layer() -> None:
    x, w = torch.randn(2, 8, 4, 4), torch.randn(8, 8, 3, 3)
    layer, nothing = ops.Scaled(w), ops.Scaled(None)  # type: ignore[arg-type]
    ops.generator_stage(x, layer, layer)
    with pytest.raises(TypeError, match=r"to_rgb.weight: expected a tensor, got NoneType"):
        ops.generator_stage(x, layer, layer, nothing)


@pytest.mark.parametrize("x", [None, 3.0, "a", [1.0]])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: ops.scaled_conv2d(x, w, weight_scale=0.3),
        lambda x, w: ops.generator_stage(x, ops.Scaled(w), ops.Scaled(w)),
        lambda x, w: ops.discriminator_stem(x, ops.Scaled(w), ops.Scaled(w)),
    ],
    ids=["scaled_conv2d", "generator_stage", "discriminator_stem"],
)
def test_what_is_no_tensor_is_named(call: Callable[[Any, Tensor], Tensor], x: Any) -> None:
    with pytest.raises(TypeError, match=f"(x|image): expected a tensor, got {type(x).__name__}"):
        call(x, torch.randn(8, 8, 3, 3))


OF_SEVERAL = {"stage": "generator_stage", "stem": "discriminator_stem"}


@torch.no_grad()
def test_alphas_of_a_stage() -> None:
    """Each by its value; one that is refused is refused also after one that was taken."""
    tensors = leaves(*CALLS["stage"][1])

    def stage(alpha: float | Tensor) -> Tensor:
        return ops.generator_stage(tensors[0], *scaled(*tensors[1:]), alpha=alpha)

    for alpha in (0.0, 0.25, 1.0):
        want = stage(alpha)
        for dtype in (torch.float32, torch.float64):
            for _ in range(2):
                torch.testing.assert_close(stage(torch.tensor(alpha, dtype=dtype)), want)
    with pytest.raises(ValueError, match="alpha: expected a tensor without requires_grad"):
        stage(torch.tensor(0.5, requires_grad=True))


@torch.no_grad()
def test_what_was_learned_is_what_runs() -> None:
    """A fault put there shows, in the output and in the gradients: the tests above are about it."""
    f, shapes = CALLS["none after_act 3"]
    tensors = leaves(*shapes)

    def outputs() -> list[Tensor]:
        with torch.enable_grad():
            y = f(*tensors)
            return [f(*tensors).detach(), *torch.autograd.grad(y, tensors, torch.ones_like(y))]

    right = outputs()

    def doubled(run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: tuple(t if t is None else t * 2 for t in run(*args))

    names = set()
    for key, run in list(registry.again.items()):
        registry.again[key] = doubled(run)
        names.add(key[0])
    assert names == {"scaled_conv2d", "scaled_conv2d_backward"}
    y, *gradients = outputs()
    assert torch.equal(y, right[0] * 2)
    assert not any(map(torch.equal, gradients, right[1:]))


OTHERS: dict[str, Callable[[list[Tensor]], list[Tensor]]] = {
    "shape": lambda t: [t[0][:, :, :4].contiguous(), *t[1:]],
    "strides": lambda t: [t[0].contiguous(memory_format=torch.channels_last), *t[1:]],
    "dtype": lambda t: [q.double() for q in t],
    "a missing bias": lambda t: [*t[:2], None],  # type: ignore[list-item]
    "float32 parameters beside half images": lambda t: [t[0].half(), *t[1:]],
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_call_is_another_signature(other: str) -> None:
    f, shapes = CALLS["none after_act 3"]
    tensors = leaves(*shapes)
    f(*tensors)
    before = len(registry.again)
    f(*OTHERS[other](tensors))
    assert len(registry.again) == before + 1


def test_a_context_the_environment_and_the_threads_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    f, shapes = CALLS["none after_act 3"]
    tensors = leaves(*shapes)
    seen: list[str | None] = []
    f(*tensors)
    with use_backend("aten"), recording.recorded(lambda op, backend, args: seen.append(backend)):
        f(*tensors)
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "aten")
    f(*tensors)
    names = {key[1] for key in registry.again}
    assert (seen, names) == (["aten"], {"", "aten"})
    threads, before = torch.get_num_threads(), len(registry.again)
    torch.set_num_threads(threads + 1)
    f(*tensors)
    torch.set_num_threads(threads)
    assert len(registry.again) == before + 1


@pytest.mark.parametrize("where", ["autocast", "vmap", "a dispatch mode", "a recorder", "jvp", "a dual level"])
def test_calls_in_between_others_take_the_long_way(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, shapes = CALLS["none after_act 3"]
    tensors = [t.detach() for t in leaves(*shapes)]
    want = f(*tensors)

    def never(*args: Any) -> None:
        raise AssertionError("straight to what runs")

    monkeypatch.setattr(registry, "again", dict.fromkeys(registry.again, never))
    with pytest.raises(AssertionError, match="straight"):
        f(*tensors)
    if where == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert f(*tensors).dtype == torch.bfloat16
    elif where == "vmap":
        got = torch.func.vmap(lambda x: f(x, *tensors[1:]))(tensors[0][None])[0]
        torch.testing.assert_close(got, want)
    elif where == "a dispatch mode":
        with FlopCounterMode(display=False):
            torch.testing.assert_close(f(*tensors), want)
    elif where == "a recorder":
        ran: list[str] = []
        with recording.recorded(lambda op, backend, args: ran.append(op)):
            f(*tensors)
        assert ran
    elif where == "a dual level":
        with forward_ad.dual_level():
            torch.testing.assert_close(f(*tensors), want)
    else:
        x, tangent = tensors[0], torch.ones_like(tensors[0])
        got, dot = torch.func.jvp(lambda x: f(x, *tensors[1:]), (x,), (tangent,))
        torch.testing.assert_close(got, want)
        assert dot.any()


def test_calls_in_between_others_teach_nothing() -> None:
    f, shapes = CALLS["none after_act 3"]
    tensors = leaves(*shapes)
    with torch.autocast("cpu", torch.bfloat16):
        f(*tensors)
    with recording.recorded(lambda *call: None):
        f(*tensors)
    assert not registry.again
    f(*tensors)
    assert registry.again


class Kind(Tensor):
    """A tensor whose class may answer for its operations."""


@torch.no_grad()
def test_a_tensor_of_another_class_takes_the_long_way() -> None:
    f, shapes = CALLS["none after_act 3"]
    x, w, b = leaves(*shapes)
    want = f(x.as_subclass(Kind), w, b)
    assert not registry.again
    assert torch.equal(want, f(x, w, b))
    assert registry.again


def test_which_argument_is_missing_counts() -> None:
    learner, t = _again.Again("of three", tensors=3), torch.ones(3)
    learner.learn((t, None, t), "", lambda *args: None)
    assert learner.find((t, None, t), "") is not None
    assert learner.find((t, t, None), "") is None


def test_it_is_forgotten_with_the_choices_and_takes_a_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    f, shapes = CALLS["bias_act"]
    tensors = leaves(*shapes)
    f(*tensors)
    assert registry.again
    forget_choices()
    assert not registry.again
    monkeypatch.setattr(_again, "_MOST", 3)
    for n in range(1, 9):
        f(torch.randn(n, 5, 3, 4), tensors[1])
        assert len(registry.again) <= 3


def test_nothing_is_kept_alive() -> None:
    import gc
    import weakref

    f, shapes = CALLS["none after_act 3"]
    tensors = leaves(*shapes)
    results(f, tensors)
    alive = [weakref.ref(t) for t in tensors]
    del tensors
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3
