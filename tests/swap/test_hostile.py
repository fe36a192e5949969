"""fuse(): what changes behind its back, what random inputs do not show, and what must not be left in a model."""

from __future__ import annotations

import pickle
import random
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from foreign_layers import Hooked, OnWeight, Pair
from pggan_fast.benchmarks.peers import akanimax, wsconv
from torch import Tensor, nn

from pggan_fast import fuse, swap, unfuse
from pggan_fast.swap.fused import Forward, installed

pytestmark = pytest.mark.early


class Free(nn.Module):
    """A convolution and a leaky ReLU, or whatever else is asked for, with any attributes."""

    slope = 0.2

    def __init__(self, body: Callable[[Any, Tensor], Tensor], **attributes: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.body = body
        vars(self).update(attributes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def usual(m: Any, x: Tensor) -> Tensor:
    return F.leaky_relu(m.conv(x), 0.2)


def fused_at_all(m: nn.Module) -> bool:
    return any(installed(child) is not None for child in m.modules())


def as_the_original(m: nn.Module, x: Tensor) -> bool:
    """Whether the module and its own code give the same; undoes fuse()."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was changed
        got = m(x)
    want = unfuse(m)(x)
    return got.shape == want.shape and torch.allclose(
        got, want, rtol=1e-4, atol=1e-4 * float(want.detach().abs().max())
    )


def image(n: int = 2, side: int = 8) -> Tensor:
    return torch.randn(n, 3, side, side)


def exchange_hook(m: Any) -> None:
    m.conv._forward_pre_hooks.clear()
    m.conv.register_forward_pre_hook(lambda conv, args: setattr(conv, "weight", conv.weight_orig * 9.0))


CHANGES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "padding": (lambda: Free(usual), lambda m: setattr(m.conv, "padding", (0, 0))),
    "stride": (lambda: Free(usual), lambda m: setattr(m.conv, "stride", (2, 2))),
    "kernel": (lambda: Free(usual), lambda m: setattr(m.conv, "weight", nn.Parameter(torch.randn(4, 3, 1, 1)))),
    "function": (
        lambda: Free(lambda m, x: m.act(m.conv(x)), act=F.leaky_relu),
        lambda m: setattr(m, "act", torch.tanh),
    ),
    "dictionary": (
        lambda: Free(lambda m, x: F.leaky_relu(m.conv(x), m.to["slope"]), to={"slope": 0.2}),
        lambda m: m.to.update(slope=0.9),
    ),
    "namespace": (
        lambda: Free(lambda m, x: F.leaky_relu(m.conv(x), m.to.slope), to=types.SimpleNamespace(slope=0.2)),
        lambda m: setattr(m.to, "slope", 0.9),
    ),
    "numpy number": (
        lambda: Free(lambda m, x: F.leaky_relu(m.conv(x) * float(m.c), 0.2), c=np.float32(0.5)),
        lambda m: setattr(m, "c", np.float32(2.0)),
    ),
    "over the class": (
        lambda: Free(lambda m, x: F.leaky_relu(m.conv(x), m.slope)),
        lambda m: setattr(m, "slope", 0.9),
    ),
    "pruned": (lambda: OnWeight(3, 4), lambda m: nn.utils.prune.l1_unstructured(m, "weight", 0.5)),
    "normed": (lambda: nn.Sequential(OnWeight(3, 4), nn.LeakyReLU()), lambda m: nn.utils.weight_norm(m[0])),
    "another hook": (lambda: nn.Sequential(Hooked(3, 4), nn.LeakyReLU()), lambda m: exchange_hook(m[0])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_counts(change: str) -> None:
    make, apply = CHANGES[change]
    m = make()
    fuse(m)
    assert fused_at_all(m)
    apply(m)
    assert as_the_original(m, image())


def test_a_bias_that_comes_later_is_added() -> None:
    m = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.LeakyReLU(0.2))
    fuse(m)
    m[0].bias = nn.Parameter(torch.ones(4))
    assert as_the_original(m, image())


@pytest.mark.parametrize("what", ["forward", "setting"])
def test_changes_of_the_class_count(what: str) -> None:
    class Other(Free):
        def forward(self, x: Tensor) -> Tensor:
            return F.leaky_relu(self.conv(x), self.slope)

    m = Other(usual)
    fuse(m)
    assert fused_at_all(m)
    if what == "forward":
        Other.forward = lambda self, x: torch.tanh(self.conv(x))  # type: ignore[method-assign]
    else:
        Other.slope = 0.9
    assert as_the_original(m, image())


def test_a_number_written_through_data_counts() -> None:
    m: Any = Free(lambda m, x: F.leaky_relu(m.conv(x) * m.c, 0.2))
    m.register_buffer("c", torch.tensor(0.5))
    fuse(m)
    m(image())
    m.c.data.fill_(3.0)
    assert as_the_original(m, image())


def clamped_deviation(x: Tensor) -> Tensor:
    deviation = (x - x.mean(0)).square().mean(0).clamp(min=1e-3).sqrt().mean()
    return torch.cat([x, deviation.expand(x.shape[0], 1, *x.shape[2:])], 1)


HIDDEN: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "clamp": (lambda x: F.avg_pool2d(x.clamp(-256, 256), 2), 1e4),
    "floor": (clamped_deviation, 1e-3),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_small_numbers_do_not_reach_stays(what: str) -> None:
    function, size = HIDDEN[what]
    m = Free(lambda m, x: function(F.leaky_relu(m.conv(x), 0.2)))
    fuse(m)
    assert as_the_original(m, image(4) * size)


@pytest.mark.parametrize(("n", "side"), [(1, 8), (2, 16), (2, 128)])
def test_sizes_that_are_something_else(n: int, side: int) -> None:
    m = Free(lambda m, x: usual(m, x) * (3.0 if x.shape[0] == 1 or x.shape[2] == 16 or x.size(3) >= 128 else 1.0))
    fuse(m)
    assert fused_at_all(m)
    assert as_the_original(m, image(n, side))


@pytest.mark.parametrize("draw", [random.random, np.random.random_sample], ids=["random", "numpy"])
def test_random_numbers_of_others(draw: Callable[[], float]) -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    want = draw()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    m = Free(lambda m, x: usual(m, x) * (3.0 if draw() < 1e-6 else 1.0))
    report = fuse(m)
    assert not fused_at_all(m)
    assert "random numbers" in report.rows[0].reason
    assert draw() == want


def appends(m: Any, x: Tensor) -> Tensor:
    m.log.append(1)
    return usual(m, x)


def counts_inside(m: Any, x: Tensor) -> Tensor:
    m.log.n += 1
    return usual(m, x)


def counts_in_a_tensor(m: Any, x: Tensor) -> Tensor:
    m.log += 1
    return usual(m, x)


@pytest.mark.parametrize(
    ("body", "log", "read"),
    [
        (appends, list, len),
        (counts_inside, lambda: types.SimpleNamespace(n=0), lambda log: log.n),
        (counts_in_a_tensor, lambda: torch.zeros(()), float),
    ],
)
def test_what_forward_notes_is_noted(body: Any, log: Callable[[], Any], read: Callable[[Any], float]) -> None:
    m: Any = Free(body, log=log())
    fuse(m)
    assert read(m.log) == 0
    m(image())
    assert read(m.log) == 1


def test_counters_of_the_class() -> None:
    class Counting(Free):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.calls += 1
            return usual(self, x)

    m = Counting(usual)
    fuse(m)
    assert Counting.calls == 0
    m(image())
    assert Counting.calls == 1


def test_gradients_that_one_mode_alone_has() -> None:
    m = Free(lambda m, x: usual(m, x if m.training else x.detach()))
    fuse(m)
    x = image().requires_grad_()
    assert torch.autograd.grad(m(x).sum(), x)[0].any()
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(m.eval()(x).sum(), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_than_the_parameters_is_an_error_as_before(dtype: torch.dtype) -> None:
    m = Free(usual)
    fuse(m)
    with pytest.raises(RuntimeError, match="type"):
        m(image().to(dtype))


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_what_stops_fuse_leaves_nothing(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    compare, calls = swap.compare, []

    def stopping(forward: Any) -> float:
        calls.append(forward)
        if len(calls) == 2:
            raise error
        return compare(forward)

    monkeypatch.setattr(swap, "compare", stopping)
    m = Pair()
    with pytest.raises(error):
        fuse(m)
    assert len(calls) == 2
    assert not fused_at_all(m)


def undecorated(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def inner(self: Any, x: Tensor) -> Tensor:
        return forward(self, x)

    return inner


class Decorated(nn.Module):
    """Its forward has no name that pickle finds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    @undecorated
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x), 0.2)


def test_a_forward_without_a_name_can_be_pickled() -> None:
    m = Decorated()
    fuse(m)
    twin = pickle.loads(pickle.dumps(m))
    assert fused_at_all(twin)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin(image())


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 8), nn.LeakyReLU(0.2)), image()),  # to 1x1: channels_last as it is
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2)), torch.randn(2, 3)),
        (lambda: Free(usual), image().to(memory_format=torch.channels_last)),
    ],
)
def test_results_may_be_overwritten(make: Callable[[], nn.Module], x: Tensor) -> None:
    m = make()
    fuse(m)
    assert fused_at_all(m)
    parameters = list(m.parameters())
    got = torch.autograd.grad(m(x).add_(1.0).square().sum(), parameters)
    want = torch.autograd.grad(unfuse(m)(x).add_(1.0).square().sum(), parameters)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled_first", [True, False])
def test_changes_before_and_after_compilation_count(compiled_first: bool) -> None:
    m: Any = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2))
    fuse(m)
    assert fused_at_all(m)
    x = image()
    compiled = torch.compile(m, backend="eager")
    if compiled_first:
        compiled(x)
    m[1].negative_slope = 0.9
    got = compiled(x)
    torch.testing.assert_close(got, unfuse(m)(x))


@pytest.mark.parametrize("family", [akanimax, wsconv], ids=["akanimax", "wsconv"])
def test_scores_may_be_overwritten(family: Any) -> None:
    critic = family.networks(1, (6, 4), 5)[1]
    fuse(critic)
    assert installed(critic) is not None
    x, parameters = torch.randn(4, 3, 8, 8), list(critic.parameters())
    got = torch.autograd.grad(family.score(critic, x, 1, 0.5).mul_(-2.0).sum(), parameters, allow_unused=True)
    unfuse(critic)
    want = torch.autograd.grad(family.score(critic, x, 1, 0.5).mul_(-2.0).sum(), parameters, allow_unused=True)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_the_mark_of_a_constant_is_torchs() -> None:
    def marked() -> None: ...

    torch.compiler.assume_constant_result(marked)
    assert vars(marked) == vars(Forward._stale_now)


@pytest.mark.parametrize("condition", [lambda a, s: s == 3, lambda a, s: a == 0.0, lambda a, s: a == 1.0])
def test_a_copy_that_differs_at_one_level_or_end_of_the_fade_is_undone(condition: Any) -> None:
    class Changed(wsconv.Generator):
        def forward(self, x: Tensor, alpha: float, steps: int) -> Tensor:
            y = super().forward(x, alpha, steps)
            return y * 1.1 if condition(alpha, steps) else y

    G = Changed(8, 8, widths=[8, 8, 8, 8, 8])
    assert fuse(G).rows[0].reason.startswith("undone")
