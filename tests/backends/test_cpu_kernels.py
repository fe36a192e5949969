"""bias_act's native CPU kernels against float64 formulas written down here: every dtype, layout and instruction set."""

import itertools
import random

import pytest
import torch
from bias_act_checks import backward_formula, check_backward, check_forward, factor_formula, forward_formula
from kernel_checks import (
    DTYPES,
    F64,
    FORMATS,
    accumulator,
    assert_close,
    bits_of,
    blocks,
    must_fail,
    norms,
    random_tensor,
)

from pggan_fast.backends import cpu
from pggan_fast.backends.native import unsupported_backward, unsupported_from_rgb

if (reason := cpu.why_missing()) is not None:
    pytest.skip(reason, allow_module_level=True)

CHANNELS = (1, 3, 16, 17, 24, 64, 512)
SIZES = (1, 4, 5, 7, 33)
ISAS = cpu.describe()["isas"]

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


def grid():
    """Every dtype with every layout, channel count and size; the other axes change from case to case."""
    rng = random.Random(0)
    rest = list(
        itertools.product((None, 0.2, 1.0), ("none", "after_act", "before_act"), (True, False), ("inside", "outside"))
    )
    for dtype, memory_format, c, size in itertools.product(DTYPES, FORMATS, CHANNELS, SIZES):
        if c * size * size > 512 * 49:
            continue
        yield dtype, memory_format, c, size, *rng.choice(rest), rng.choice(ISAS), rng.random() < 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_act_and_its_backward(dtype):
    for case in (c for c in grid() if c[0] == dtype):
        _, memory_format, c, size, slope, norm, with_bias, eps_mode, isa, pool = case
        pool = pool and norm == "none"
        cpu.set_isa(isa)
        h, w = (2 * size, 2 * size + 2) if pool else (size, size + 1)
        u = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format)
        bias = random_tensor(c, dtype=torch.float32 if size % 2 else dtype, seed=1) if with_bias else None
        args = (u, bias, 0.7, 1.3, slope, norm, 0.05, eps_mode, pool)
        saved = check_forward(cpu.ops, args)
        check_backward(cpu.ops, *saved, args, with_dr=size % 2 == 0, need_bias=with_bias)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_backward_is_autograds(isa, memory_format):
    """The closed form, in float64, against automatic differentiation of the forward formula."""
    cpu.set_isa(isa)
    for slope, norm, mode, pool in itertools.product(
        (None, 0.2), ("none", "after_act", "before_act"), ("inside", "outside"), (False, True)
    ):
        if pool and norm != "none":
            continue
        u = random_tensor(2, 24, 4, 6, dtype=F64, memory_format=memory_format).requires_grad_()
        bias = random_tensor(24, dtype=F64, seed=1).requires_grad_()
        config = (0.7, 1.3, slope, norm, 0.05, mode)
        expected = forward_formula(u, bias, *config, pool)
        g = random_tensor(*expected.shape, dtype=F64, seed=2)
        total, gr = (expected * g).sum(), None
        if norm != "none":
            r = factor_formula(u, bias, *config, pool)
            gr = random_tensor(*r.shape, dtype=F64, seed=3)
            total = total + (r * gr).sum()
        du, db = torch.autograd.grad(total, (u, bias))
        y, r, mask = cpu.ops.bias_act_forward(u.detach(), bias.detach(), *config, pool)
        got = cpu.ops.bias_act_backward(g, gr, y, r, mask, *config, pool, True)
        torch.testing.assert_close(got, (du, db), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_mask_without_pool_and_masked_pool(dtype, memory_format):
    for c, isa in itertools.product((1, 3, 17, 64), ISAS):
        cpu.set_isa(isa)
        g = random_tensor(2, c, 6, 10, dtype=dtype, memory_format=memory_format)
        _, _, mask = cpu.ops.bias_act_forward(g, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
        dy = random_tensor(2, c, 6, 10, dtype=dtype, memory_format=memory_format, seed=5)
        positive = bits_of(mask, c)
        du, db = cpu.ops.bias_act_backward(
            dy, None, g, None, mask, 1.5, 1.0, 0.2, "none", 0.0, "inside", False, True
        )  # fmt: skip
        assert_close(du, lambda dy, w=positive: 1.5 * torch.where(w, dy, dy * 0.2), dy)
        wide = dy.to(accumulator(dtype))
        dv = torch.where(positive, wide, wide * 0.2)
        assert_close(db, lambda dv: dv.sum((0, 2, 3)), dv, magnitude=norms(dv))
        for used in (mask, None):
            out = cpu.ops.masked_pool(dy, used, 1.5, 0.2 if used is not None else None)
            where = positive if used is not None else torch.ones_like(positive)
            assert_close(out, lambda dy, w=where: 1.5 * blocks(torch.where(w, dy, dy * 0.2)).mean((3, 5)), dy)


def test_in_place():
    for dtype, norm, c in itertools.product(DTYPES, ("none", "after_act"), (3, 16)):
        config = (0.7, 1.0, 0.2, norm, 1e-8, "inside", False)
        u = random_tensor(2, c, 3, 5, dtype=dtype, memory_format=torch.channels_last)
        bias = random_tensor(c, seed=1)
        y, r, _ = cpu.ops.bias_act_forward(u, bias, *config)
        mine = u.clone(memory_format=torch.preserve_format)
        over, over_r, _ = cpu.ops.bias_act_forward_plan(mine, bias, *config, inplace=True)(mine, bias, *config)
        assert over.data_ptr() == mine.data_ptr()
        assert torch.equal(over, y)
        assert r is None or torch.equal(over_r, r)


def test_special_values_survive_half_precision():
    """Rounding to nearest even, subnormals, infinity and NaN, exactly as torch converts them, in rows of any length."""
    special = [0.0, -0.0, 1.0, 65504.0, 65520.0, -70000.0, 6e-8, 2.9e-8, 3.1e-8, 1e-5, 1.0009766, 1e-40, 3e38]
    x = torch.tensor([*special, float("inf"), float("-inf"), float("nan")] * 3)
    for isa, dtype, length in itertools.product(ISAS, (torch.float16, torch.bfloat16), (16, 17, 47)):
        cpu.set_isa(isa)
        u = x[:length].to(dtype).view(1, -1, 1, 1)
        y = cpu.ops.bias_act_forward(u, None, 1.0, 1.0, None, "none", 0.0, "inside", False)[0]
        assert torch.equal(y.nan_to_num(nan=7.0), u.nan_to_num(nan=7.0))
        wide = random_tensor(1, length, 1, 1, dtype=dtype) * 100
        shifted = cpu.ops.bias_act_forward(wide, x[:length], 1.0, 1.0, None, "none", 0.0, "inside", False)[0]
        expected = (wide.float() + x[:length].view(1, -1, 1, 1)).to(dtype)
        assert torch.equal(shifted.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_bias_gradient_does_not_depend_on_threads(memory_format):
    y = random_tensor(4, 24, 64, 66, memory_format=memory_format)

    def run():
        return cpu.ops.bias_act_backward(
            y, None, y, y[:, :1].contiguous(), None, 1.0, 1.0, 0.2, "after_act", 1e-8, "inside", False, True
        )

    threads, results = torch.get_num_threads(), []
    try:
        for count in (2, 1):
            torch.set_num_threads(count)
            results += [run(), run()]
        cpu.native.set_parallel_for(0)
        results.append(run())
    finally:
        torch.set_num_threads(threads)
        assert cpu.use_torch_threads() is None
    for du, db in results[1:]:
        assert torch.equal(du, results[0][0])
        assert torch.equal(db, results[0][1])


@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4), (0, 16, 2, 2)])
@pytest.mark.parametrize("norm", ["none", "after_act"])
def test_nothing_to_do(shape, norm):
    x = torch.empty(shape)
    for pool in {False, norm == "none"}:
        y, r, mask = cpu.ops.bias_act_forward(x, torch.ones(16), 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool)
        du, db = cpu.ops.bias_act_backward(y, None, y, r, mask, 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool, True)
        assert du.shape == x.shape
        assert torch.equal(db, torch.zeros(16))
    alpha, weight = torch.tensor(0.5), torch.ones(3, 16, 1, 1)
    assert cpu.ops.fade_in_forward(x, x, alpha).shape == shape
    assert cpu.ops.fade_reals(x, alpha).shape == shape
    assert (
        cpu.ops.to_rgb_fade_in_forward(x[..., ::2, ::2], x, weight, None, weight, None, alpha, 1, 1, 1, 1).numel() == 0
    )
    if shape[0] == 0:
        assert cpu.ops.minibatch_stddev_forward(x, 1, "strided", False, 0.0).shape == (0, 17, *shape[2:])


def test_any_strides_are_accepted():
    """Sliced, expanded and mixed-format arguments give the results of dense ones, channels_last as promised."""
    u = random_tensor(2, 16, 8, 12)[:, :, ::2, ::3]
    y, r, _ = cpu.ops.bias_act_forward(u, None, 1.0, 1.0, 0.2, "after_act", 1e-8, "inside", False)
    assert y.is_contiguous(memory_format=torch.channels_last)
    dy = torch.ones(1).expand(y.shape)
    got = cpu.ops.bias_act_backward(dy, None, y, r, None, 1.0, 1.0, 0.2, "after_act", 1e-8, "inside", False, True)
    plain = cpu.ops.bias_act_backward(
        dy.contiguous(), None, y.contiguous(), r, None, 1.0, 1.0, 0.2, "after_act", 1e-8, "inside", False, True
    )
    torch.testing.assert_close(got, plain)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    assert plain[0].is_contiguous()


def test_faults_are_caught():
    """One wrong argument at a time: the comparisons above fail."""
    u = random_tensor(2, 16, 5, 5, memory_format=torch.channels_last)
    right = (u, random_tensor(16, seed=1), 0.7, 1.3, 0.2, "after_act", 0.05, "inside", False)
    y, r, _ = cpu.ops.bias_act_forward(*right)
    assert_close(y, forward_formula, *right)
    for index, wrong in ((1, None), (2, 0.71), (3, 1.31), (4, 0.21), (5, "before_act"), (6, 0.06), (7, "outside")):
        must_fail(cpu.ops.bias_act_forward(*right[:index], wrong, *right[index + 1 :])[0], forward_formula, *right)
    backward = (random_tensor(2, 16, 5, 5, seed=2), r, y, r, y > 0, 0.2, "after_act", 0.05, "inside", False)
    for dr, slope, scale in ((None, 0.2, 1.0), (r, 0.21, 1.0), (r, 0.2, 1.01)):
        du, _ = cpu.ops.bias_act_backward(
            backward[0], dr, y, r, None, scale, 1.0, slope, "after_act", 0.05, "inside", False, False
        )  # fmt: skip
        must_fail(du, backward_formula, *backward)
    even = random_tensor(1, 16, 4, 4)
    _, _, mask = cpu.ops.bias_act_forward(even, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
    positive = bits_of(mask, 16)
    mask[0, 1, 2, 3] ^= 4
    must_fail(
        cpu.ops.masked_pool(even, mask, 1.0, 0.2),
        lambda g: blocks(torch.where(positive, g, g * 0.2)).mean((3, 5)),
        even,
    )
    unwritten = y.clone()
    unwritten[1, 15, 4, 4] = float("nan")
    must_fail(unwritten, forward_formula, *right)


def test_reasons_and_errors():
    x = torch.ones(1, 8, 2, 2)
    assert cpu.unsupported(x) is None
    assert "int32" in cpu.unsupported(x.int())
    assert "meta" in cpu.unsupported(x.to("meta"))
    assert "5" in unsupported_from_rgb(torch.ones(1, 5, 2, 2))
    assert "slope" in unsupported_backward(x, None, x, None, None, 1.0, 1.0, 0.0, "before_act")
    with pytest.raises(ValueError, match="known: baseline"):
        cpu.set_isa("mmx")
    with pytest.raises(ValueError, match="dtype"):
        cpu.native.fade_reals(0, x.data_ptr(), 0, 9, 1, 1, 2, 2, False)
