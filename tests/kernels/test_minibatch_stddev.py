"""The Triton kernels of minibatch_stddev against the float64 formula and its gradient."""

from __future__ import annotations

import grid
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_checks import DTYPES, assert_close, must_fail, random_tensor
from pggan_fast.kernels import minibatch_stddev as kernels

from pggan_fast.backends.aten import blend as aten
from pggan_fast.backends.triton import stddev

HALF_AND_SINGLE = DTYPES[:3]
SHAPES = ((1, 1, 1), (17, 4, 5), (512, 4, 4), (3, 30, 31), (700, 1, 1), (1, 9, 40))
GROUPS = ((4, 4), (6, 3), (5, 1), (10, 5), (16, 16), (40, 20))  # samples, members of a group

pytestmark = pytest.mark.usefixtures("poison")


def members(n, group, grouping):
    """The samples of each group."""
    count = n // group
    if grouping == "strided":
        return [list(range(m, n, count)) for m in range(count)]
    return [list(range(m * group, (m + 1) * group)) for m in range(count)]


def formula(group, grouping, unbiased, eps=1e-8):
    def run(x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        one = torch.ones_like(wide[:, :1])
        for samples in members(len(x), group, grouping):
            part = wide[samples]
            squares = (part - part.mean(0)).square().sum(0) / (group - unbiased)
            here = torch.tensor([n in samples for n in range(len(x))]).view(-1, 1, 1, 1)
            one = torch.where(here, (squares + eps).sqrt().mean(), one)
        return torch.cat([x, one.to(x.dtype)], 1)

    return run


def gradient(*config):
    def run(dy, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(formula(*config)(x), x, dy)[0]

    return run


def inputs(n, c, h, w, dtype=torch.float32, layout="nchw"):
    """(x, dy)"""
    x, dy = random_tensor(n, c, h, w, dtype=dtype), random_tensor(n, c + 1, h, w, dtype=dtype, seed=1)
    return grid.arrange(x, layout), grid.arrange(dy, layout)


def check(x, dy, group, grouping, unbiased):
    config = group, grouping, unbiased
    y = stddev.minibatch_stddev_forward(x, *config, 1e-8)
    assert_close(y, formula(*config), x)
    assert torch.equal(y[:, :-1], x)
    assert y.stride() == grid.expected_strides(y.shape, x)
    dx = stddev.minibatch_stddev_backward(dy, x, *config, 1e-8)
    assert_close(dx, gradient(*config), dy, x)
    assert dx.stride() == grid.expected_strides(dx.shape, dy)


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formula(shape, layout, dtype):
    for i, (n, group) in enumerate(GROUPS[:4]):
        x, dy = inputs(n, *shape, dtype, layout)
        check(x, dy, group, ("strided", "adjacent")[i % 2], group > 1 and i % 4 > 1)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("grouping", ["strided", "adjacent"])
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_groups(group, grouping, unbiased):
    for layout in grid.LAYOUTS:
        x, dy = inputs(group[0], 5, 3, 4, layout=layout)
        check(x, dy, group[1], grouping, unbiased and group[1] > 1)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(0, 3), group=st.integers(2, 20), c=st.integers(1, 40), h=st.integers(1, 9), w=st.integers(1, 9),
    grouping=st.sampled_from(("strided", "adjacent")), unbiased=st.booleans(), dtype=st.sampled_from(HALF_AND_SINGLE),
    layouts=st.tuples(st.sampled_from(grid.LAYOUTS), st.sampled_from(grid.LAYOUTS)),
)  # fmt: skip
def test_any_shape_and_layout(count, group, c, h, w, grouping, unbiased, dtype, layouts):
    x, dy = inputs(count * group, c, h, w, dtype)
    if count:
        check(grid.arrange(x, layouts[0]), grid.arrange(dy, layouts[1]), group, grouping, unbiased)
    else:
        assert stddev.minibatch_stddev_forward(x, group, grouping, unbiased, 1e-8).shape == (0, c + 1, h, w)
        assert stddev.minibatch_stddev_backward(dy, x, group, grouping, unbiased, 1e-8).shape == x.shape


def test_a_large_mean():
    """Squares of x would lose the deviation, differences do not. The gradient does lose digits, as every backend's."""
    x = inputs(4, 5, 8, 8)[0] + 1000.0
    assert_close(stddev.minibatch_stddev_forward(x, 2, "strided", False, 1e-8), formula(2, "strided", False), x)


def test_more_sums_than_are_added_at_a_time(monkeypatch):
    x, dy = inputs(4, 17, 8, 9)
    monkeypatch.setattr(kernels, "_piece", lambda elements, group: 32)
    monkeypatch.setattr(kernels, "MAP_BLOCK", 4)
    assert kernels.pieces_of(17 * 8 * 9, 2) > 4
    check(x, dy, 2, "strided", False)


def test_results_repeat_bit_by_bit():
    x, dy = inputs(8, 16, 9, 9, layout="channels_last")
    for f, args in ((stddev.minibatch_stddev_forward, (x,)), (stddev.minibatch_stddev_backward, (dy, x))):
        assert torch.equal(f(*args, 4, "strided", False, 1e-8), f(*args, 4, "strided", False, 1e-8))


def test_what_is_not_a_number_stays_in_its_group():
    x, dy = inputs(4, 3, 2, 2)
    x[1, 1, 0, 0] = float("nan")
    for f, args in (("minibatch_stddev_forward", (x,)), ("minibatch_stddev_backward", (dy, x))):
        got, want = (getattr(m, f)(*args, 2, "strided", False, 1e-8) for m in (stddev, aten))
        torch.testing.assert_close(got, want, equal_nan=True)


@triton.jit
def next_member(group, member, GROUPS, GROUP, STRIDED):
    """Adjacent groups for strided ones."""
    return group.to(tl.int64) * GROUP + member


@triton.jit
def first_pixel(sample, i, elements, plane, C, CHANNELS_LAST):
    return sample * (elements + plane) + elements + i * 0


def test_faults_are_caught(monkeypatch):
    x, dy = inputs(4, 3, 4, 4)
    config = 2, "strided", False
    must_fail(stddev.minibatch_stddev_forward(x, *config, 1e-3), formula(*config), x)
    must_fail(stddev.minibatch_stddev_backward(dy, x, 2, "strided", True, 1e-8), gradient(*config), dy, x)
    few = {"pieces_of": lambda elements, group: 1, "_piece": lambda elements, group: 16}  # of 48 elements
    for faults in ({"sample_of": next_member}, {"extra_map": first_pixel}, few):
        with monkeypatch.context() as patch:
            for name, fault in faults.items():
                patch.setattr(kernels, name, fault)
            must_fail(stddev.minibatch_stddev_forward(x, *config, 1e-8), formula(*config), x)
            must_fail(stddev.minibatch_stddev_backward(dy, x, *config, 1e-8), gradient(*config), dy, x)
