"""bias_act's Triton kernels against float64 formulas: options, dtypes, layouts, odd shapes."""

import itertools
import random

import grid
import pytest
import torch
import triton
import triton.language as tl
from bias_act_checks import bias_of, check_triton, factor_formula, forward_formula, sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import F64, FORMATS, HALVES, assert_close, bits_of, blocks, random_tensor, shared
from pggan_fast.kernels import bias_act as kernels
from pggan_fast.kernels.launch import INTERPRETED

from pggan_fast.backends.triton import epilogue

pytestmark = [
    pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("poison"),
]

DTYPES = (torch.float32, *HALVES)
CHANNELS = (1, 3, 5, 16, 24, 33, 64, 129, 512, 1030)
SIZES = (1, 2, 5, 9, 33)
SLOPES = (None, 0.2, 1.0, 0.0)
NORMS = ("none", "after_act", "before_act")
MODES = ("inside", "outside")
BIASES = (None, "same", "float32")
STRIDES = ("nchw", "channels_last", "sliced", "transposed")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("slope", SLOPES)
def test_every_option(dtype, memory_format, norm, slope):
    u = random_tensor(2, 24, 4, 6, dtype=dtype, memory_format=memory_format)
    only = norm == "none"  # then there is no eps, and pooling
    cases = itertools.product(BIASES, MODES[:1] if only else MODES, (False, True) if only else (False,), (False, True))
    for bias, mode, pool, extra in shared(dtype, cases, (memory_format, norm, slope)):
        check_triton(u, bias_of(bias, 24, dtype), slope, norm, mode, pool, with_dr=extra, need_bias=extra)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("c", CHANNELS)
def test_shapes(dtype, memory_format, c):
    rng = random.Random(c)
    for i, (size, norm) in enumerate(itertools.product(SIZES, NORMS)):
        if c * size * size > 1030 * 25 or (dtype in HALVES and i % 2 != HALVES.index(dtype)):
            continue
        pool = norm == "none" and rng.random() < 0.5
        h, w = (2 * size, 2 * size + 2) if pool else (size, size + 1)
        u = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format)
        bias = bias_of(rng.choice(BIASES), c, dtype)
        slope = rng.choice(SLOPES[:3])
        check_triton(u, bias, slope, norm, rng.choice(MODES), pool, with_dr=rng.random() < 0.5, need_bias=True)


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    memory=st.sampled_from(STRIDES),
    slope=st.sampled_from(SLOPES),
    norm=st.sampled_from(NORMS),
    mode=st.sampled_from(MODES),
    bias=st.sampled_from(BIASES),
    pool=st.booleans(),
    with_dr=st.booleans(),
)
def test_any_shape(shape, dtype, memory, slope, norm, mode, bias, pool, with_dr):
    n, c, h, w = shape
    pool = pool and norm == "none"
    u = grid.arrange(random_tensor(*((n, c, 2 * h, 2 * w) if pool else shape), dtype=dtype), memory)
    check_triton(u, bias_of(bias, c, dtype), slope, norm, mode, pool, with_dr, need_bias=bias is not None)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_backward_is_autograds(memory_format):
    """The closed form against automatic differentiation of the forward formula in float64."""
    for slope, norm, mode, pool in itertools.product((None, 0.2), NORMS, MODES, (False, True)):
        if pool and norm != "none":
            continue
        u = random_tensor(2, 24, 4, 6, memory_format=memory_format).to(F64).requires_grad_()
        bias = random_tensor(24, seed=1).to(F64).requires_grad_()
        config = (0.7, 1.3, slope, norm, 0.05, mode)
        expected = forward_formula(u, bias, *config, pool)
        g = random_tensor(*expected.shape, seed=2)
        total, gr = (expected * g).sum(), None
        if norm != "none":
            r = factor_formula(u, bias, *config, pool)
            gr = random_tensor(*r.shape, seed=3)
            total = total + (r * gr).sum()
        want = torch.autograd.grad(total, (u, bias))
        y, r, mask = epilogue.bias_act_forward(u.detach().float(), bias.detach().float(), *config, pool)
        got = epilogue.bias_act_backward(g, gr, y, r, mask, *config, pool, True)
        for ours, exact in zip(got, want, strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_mask_without_pool_and_masked_pool(dtype, memory_format):
    for c, (h, w) in itertools.product((1, 3, 17, 64, 129), ((2, 2), (6, 10), (2, 34))):
        g = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format)
        _, _, mask = epilogue.bias_act_forward(g, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
        dy = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format, seed=5)
        positive = bits_of(mask, c)
        du, db = epilogue.bias_act_backward(dy, None, g, None, mask, 1.5, 1.0, 0.2, "none", 0.0, "inside", False, True)
        assert_close(du, lambda dy, w=positive: 1.5 * torch.where(w, dy, dy * 0.2), dy)
        dv = torch.where(positive, dy.float(), dy.float() * 0.2)
        assert_close(db, lambda dv: dv.sum((0, 2, 3)), dv, magnitude=sizes(dv))
        for used in (mask, None):
            out = epilogue.masked_pool(dy, used, 1.5, 0.2 if used is not None else None)
            where = positive if used is not None else torch.ones_like(positive)
            assert_close(out, lambda dy, w=where: 1.5 * blocks(torch.where(w, dy, dy * 0.2)).mean((3, 5)), dy)


def run_forward(u, bias, y, r, norm, slope=0.2):
    kernels.bias_act_forward(
        u, bias, y, r, None, channels_last=y.is_contiguous(memory_format=torch.channels_last), pool=False, scale=0.7,
        bias_scale=1.3, slope=slope, norm=norm, eps=0.05, eps_inside=True,
    )  # fmt: skip
    return y


def sum_in_order(parts):
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total.permute(0, 3, 1, 2)  # [S, N, H, W, C] -> [N, C, H, W], channels_last


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_split_sums(dtype, norm):
    """Partial sums give, bit by bit, what their float32 sum in order does, and only with all of them."""
    for splits, c, (h, w) in itertools.product((1, 2, 5), (1, 16, 33, 129), ((1, 1), (3, 5))):
        parts = random_tensor(splits, 2, h, w, c) * 8.0 ** torch.arange(splits).view(-1, 1, 1, 1, 1)
        summed, bias = sum_in_order(parts), bias_of("float32", c, dtype)
        y, want = (torch.full_like(summed, float("nan"), dtype=dtype) for _ in range(2))
        r, want_r = (None if norm == "none" else torch.full((2, 1, h, w), float("nan")) for _ in range(2))
        run_forward(parts, bias, y, r, norm)
        run_forward(summed, bias, want, want_r, norm)
        assert torch.equal(y, want)
        assert r is None or torch.equal(r, want_r)
        args = (0.7, 1.3, 0.2, norm, 0.05, "inside", False)
        assert_close(
            y, lambda u, b, a=args, t=dtype: forward_formula(u, b, *a).to(t if u.dtype != F64 else F64), summed, bias
        )
        if splits > 1:
            assert not torch.equal(run_forward(parts[:-1].contiguous(), bias, y, r, norm), want)


def test_split_sums_are_channels_last():
    with pytest.raises(ValueError, match="y: expected channels_last, as the partial sums"):
        run_forward(torch.ones(2, 1, 4, 4, 3), None, torch.ones(1, 3, 4, 4), None, "none")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_in_place(norm, memory_format):
    for dtype, c in itertools.product(DTYPES, (3, 16, 129)):
        u = random_tensor(2, c, 5, 7, dtype=dtype, memory_format=memory_format)
        bias = bias_of("float32", c, dtype)
        y, r, over_r = (torch.full_like(t, float("nan")) for t in (u, u[:, :1].float(), u[:, :1].float()))
        run_forward(u, bias, y, None if norm == "none" else r, norm)
        over = u.clone(memory_format=torch.preserve_format)
        run_forward(over, bias, over, None if norm == "none" else over_r, norm)
        assert torch.equal(over, y)
        assert norm == "none" or torch.equal(r, over_r)
        parts = random_tensor(3, 2, 5, 7, c)
        first = parts.clone()
        into = first[0].permute(0, 3, 1, 2)
        want = run_forward(parts, bias, torch.empty_like(into), r if norm != "none" else None, norm)
        run_forward(first, bias, into, r if norm != "none" else None, norm)
        assert torch.equal(into, want)
        assert torch.equal(first[1:], parts[1:])


def test_half_precision_rounds_once():
    """1 + 2^-11 is halfway between two float16; the bias decides, though it is lost when the product is rounded."""
    u = torch.full((1, 8, 2, 2), 1.0, dtype=torch.float16)
    bias = torch.full((8,), 2.0**-20)
    y = epilogue.bias_act_forward(u, bias, 1.0 + 2.0**-11, 1.0, None, "none", 0.0, "inside", False)[0]
    assert (y == 1.0 + 2.0**-10).all()
    assert (((u.float() * (1.0 + 2.0**-11)).half().float() + 2.0**-20).half() == 1.0).all()  # rounded twice


@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4), (0, 1, 1, 1), (0, 16, 2, 2)])
@pytest.mark.parametrize("norm", NORMS)
def test_nothing_to_do(shape, norm):
    for pool in {False, norm == "none" and shape[2] != 1}:
        x, c = torch.empty(shape), shape[1]
        y, r, mask = epilogue.bias_act_forward(x, torch.ones(c), 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool)
        du, db = epilogue.bias_act_backward(y, None, y, r, mask, 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool, True)
        assert du.shape == x.shape
        assert torch.equal(db, torch.zeros(c))
        if pool:
            assert epilogue.masked_pool(x, mask, 1.0, 0.2).shape == y.shape


@pytest.mark.parametrize("memory", STRIDES)
def test_any_strides_are_accepted(memory):
    """Strange strides of every argument give the results of dense ones, in the format that is promised."""
    options = (0.2, "after_act", 0.05, "inside", False)
    u = grid.arrange(random_tensor(2, 16, 5, 6), memory)
    y, r, _ = epilogue.bias_act_forward(u, torch.ones(32)[::2], 1.0, 1.0, *options)
    assert y.is_contiguous() if memory == "nchw" else y.is_contiguous(memory_format=torch.channels_last)
    dy, dr = torch.ones(1).expand(y.shape), torch.ones(1).expand(r.shape)
    strange = [grid.arrange(t, "sliced") for t in (y, r)]
    got = epilogue.bias_act_backward(dy, dr, *strange, None, 1.0, 1.0, *options, True)
    want = epilogue.bias_act_backward(dy.contiguous(), dr.contiguous(), y, r, None, 1.0, 1.0, *options, True)
    torch.testing.assert_close(got, want)
    assert got[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("norm", ["none", "after_act"])
@pytest.mark.parametrize("rows", [1, 3])
def test_several_blocks_per_row_of_sums(monkeypatch, small_tiles, memory_format, norm, rows):
    monkeypatch.setattr(kernels, "MAX_ROWS", rows)
    for c, pool in itertools.product((3, 33), {False, norm == "none"}):
        u = random_tensor(2, c, 6, 10, memory_format=memory_format)
        check_triton(u, bias_of("same", c, u.dtype), 0.2, norm, "inside", pool, with_dr=False, need_bias=True)


def test_the_number_of_rows_is_bounded():
    seen = set()
    for (n, c, size), norm, channels_last in itertools.product(
        ((1, 1, 1), (64, 16, 1024), (1, 512, 4), (4, 16384, 8)), NORMS, (False, True)
    ):
        large = torch.empty(n, c, size, size, device="meta")
        seen.add(kernels.bias_act_rows(large, channels_last, norm, False))
    assert max(seen) == kernels.MAX_ROWS == 1024
    assert min(seen) == 1


@triton.jit
def offsets_probe(out, first, HW, W, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, TAPS: tl.constexpr):
    """out [4, 8, 4]: where each step finds 8 pixels from `first` on and 4 channels from C - 4 on."""
    q = tl.load(first) + tl.arange(0, 8)
    c = C - 4 + tl.arange(0, 4)
    at = tl.arange(0, 8)[:, None] * 4 + tl.arange(0, 4)[None, :]
    for tap in tl.static_range(TAPS):
        p = kernels.source(q, tap, W, TAPS)
        tl.store(out + tap * 32 + at, kernels.source_offsets(q, p, c, HW, C, CHANNELS_LAST, TAPS))


def exact_offsets(first, h, w, c, channels_last, taps):
    """The same in Python's integers; h and w are of the small image."""
    rows = []
    for tap, q in itertools.product(range(taps), range(first, first + 8)):
        pixel, side = divmod(q, 2) if taps == 2 else (q, tap % 2)
        n, y, x = pixel // (h * w), pixel // w % h, pixel % w
        y, x = (y, x) if taps == 1 else (2 * y + (tap if taps == 2 else tap // 2), 2 * x + side)
        wide, high = (w, h) if taps == 1 else (2 * w, 2 * h)
        for k in range(c - 4, c):
            place = ((n * high + y) * wide + x) * c + k if channels_last else ((n * c + k) * high + y) * wide + x
            rows.append(place)
    return torch.tensor(rows).view(taps, 8, 4)


@pytest.mark.parametrize(("channels_last", "taps"), [(True, 1), (False, 1), (True, 4), (False, 2)])
def test_addresses_past_2_to_the_31(channels_last, taps):
    for first in (0, 2**31 - 5, 5 * 2**31):
        out = torch.zeros(taps, 8, 4, dtype=torch.int64)
        hw = 6 * 1000 * (4 if taps > 1 else 1)
        offsets_probe[(1,)](out, torch.tensor(first), hw, 1000, C=16384, CHANNELS_LAST=channels_last, TAPS=taps)
        assert torch.equal(out, exact_offsets(first, 6, 1000, 16384, channels_last, taps))
        assert not torch.equal(out, exact_offsets(first + 1, 6, 1000, 16384, channels_last, taps))


def test_reasons():
    forward = (None, 1.0, 1.0, 0.2)
    x = torch.ones(1, 8, 2, 2)
    assert epilogue._unsupported_forward(x, *forward, "none", 0.0, "inside", True) is None
    assert "2x2 mean" in epilogue._unsupported_forward(x, *forward, "after_act", 0.0, "inside", True)
    assert "float64" in epilogue._unsupported_forward(x.double(), *forward, "none", 0.0, "inside", False)
    wide = torch.empty(0, 16385, 1, 1)
    assert "16384" in epilogue._unsupported_forward(wide, *forward, "none", 0.0, "inside", False)
    assert "16384" in epilogue._unsupported_pool(wide, None, 1.0, None)
    saved = (x, None, x, None, None, 1.0, 1.0)
    assert "slope" in epilogue._unsupported_backward(*saved, 0.0, "before_act", 0.0, "inside", False, False)
    assert epilogue._unsupported_backward(*saved, 0.0, "after_act", 0.0, "inside", False, False) is None


def test_the_most_channels():
    u = random_tensor(1, 16384, 1, 2, memory_format=torch.channels_last)
    for norm in NORMS:
        check_triton(u, None, 0.2, norm, "inside", False, with_dr=True, need_bias=True)
