"""The CUDA kernels of minibatch_stddev on the host emulator."""

from __future__ import annotations

import itertools

import emulate
import grid
import op_cases
import pytest
import torch
from kernel_checks import assert_close, must_fail
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import cuda

# More samples than stay in registers, groups of one, and several groups
GROUPS = ((4, 4), (8, 4), (3, 4), (6, 2), (10, 5), (9, 9))
CASES = op_cases.cover("minibatch_stddev", 8e4, channels=op_cases.CHANNELS, batch=GROUPS)
ALONE = ((1, 4), (5, 1))
CASES += op_cases.cover("minibatch_stddev", 8e4, channels=op_cases.CHANNELS, batch=ALONE, unbiased=(False,))
EPS = 0.01


@pytest.mark.parametrize("seed", grid.numbered(CASES))
def test_grid(seed: int) -> None:
    op_cases.run("minibatch_stddev", CASES[seed], seed, policy=seed % 3)


def test_equal_samples_have_no_deviation_and_finite_gradients() -> None:
    with emulate.emulated():
        grid.load("test_minibatch_stddev").test_equal_samples_have_no_deviation_and_finite_gradients("cuda")


def extended(x: Tensor, group: int, grouping: str = "strided", unbiased: bool = False) -> Tensor:
    return reference.minibatch_stddev(x, group, grouping=grouping, unbiased=unbiased, eps=EPS)


def gradient(dy: Tensor, x: Tensor, group: int, grouping: str = "strided", unbiased: bool = False) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(extended(x, group, grouping, unbiased), x, dy)[0]


def check(x: Tensor, dy: Tensor, group: int, grouping: str = "strided", unbiased: bool = False) -> None:
    options = group, grouping, unbiased
    assert_close(cuda.ops.minibatch_stddev_forward(x, *options, EPS), extended, x, *options)
    assert_close(cuda.ops.minibatch_stddev_backward(dy, x, *options, EPS), gradient, dy, x, *options)


def draw(
    n: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float16, channels_last: bool = True
) -> tuple[Tensor, Tensor]:
    """x and dy."""
    layout = {"dtype": dtype, "channels_last": channels_last}
    return op_cases.random(n, c, h, w, **layout), op_cases.random(n, c + 1, h, w, seed=1, **layout)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_many_pieces_and_blocks(dtype: torch.dtype, channels_last: bool) -> None:
    """Sums of several blocks, cut ones, and a map that several blocks write."""
    with emulate.emulated():
        for c, h, w in ((512, 4, 4), (3, 16, 20), (37, 5, 7)):
            x, dy = draw(6, c, h, w, dtype, channels_last)
            for grouping, unbiased in itertools.product(("strided", "adjacent"), (False, True)):
                check(x, dy, 3, grouping, unbiased)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", op_cases.DTYPES, ids=str)
def test_no_order_of_threads_matters(dtype: torch.dtype, channels_last: bool) -> None:
    x, dy = draw(8, 130, 4, 4, dtype, channels_last)
    results = []
    for policy in op_cases.POLICIES:
        with emulate.emulated(policy):
            forward = cuda.ops.minibatch_stddev_forward(x, 4, "strided", False, EPS)
            results.append((forward, cuda.ops.minibatch_stddev_backward(dy, x, 4, "strided", False, EPS)))
    for out, dx in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(dx, results[0][1])


def test_tensors_off_16_bytes() -> None:
    x, dy = draw(4, 16, 4, 4, channels_last=False)
    with emulate.emulated():
        check(op_cases.off_16_bytes(x, False), dy, 2)
        check(x, op_cases.off_16_bytes(dy, False), 2)


@pytest.mark.parametrize("channels_last", [True, False])
def test_x_is_read_once(channels_last: bool) -> None:
    x, _ = draw(8, 64, 4, 4, channels_last=channels_last)
    with emulate.emulated(stats=True) as emulator:
        out = cuda.ops.minibatch_stddev_forward(x, 4, "strided", False, EPS)
        places = [p for p in emulator.traffic() if p["space"] == "global" and p["kind"] == "read"]
        moved = emulator.counts()
    of_x = [p for p in places if p["bytes"] == (2 if channels_last else 16) * 32 * p["requests"]]
    assert sum(p["sectors"] for p in of_x) * 32 == x.nbytes
    sums = moved["read"] - x.nbytes
    assert moved["written"] == out.nbytes + sums


def test_faults_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = draw(6, 16, 4, 4, torch.float32)
    with emulate.emulated():
        out = cuda.ops.minibatch_stddev_forward(x, 3, "strided", False, EPS)
        dx = cuda.ops.minibatch_stddev_backward(dy, x, 3, "strided", False, EPS)
    must_fail(out, lambda x: extended(x, 3, "adjacent"), x)
    must_fail(out, lambda x: extended(x, 3, unbiased=True), x)
    must_fail(dx, lambda dy, x: gradient(dy, x, 3, "adjacent"), dy, x)
    must_fail(dx, lambda dy, x: gradient(dy * 1.5, x, 3) - 0.5 * dy[:, :-1], dy, x)
    op_cases.changed(monkeypatch, "minibatch_stddev_forward", lambda args: args.__setitem__(4, 18))  # channels
    with emulate.emulated(), pytest.raises(emulate.Fault, match="OUT-OF-BOUNDS"):
        cuda.ops.minibatch_stddev_forward(x, 3, "strided", False, EPS)
