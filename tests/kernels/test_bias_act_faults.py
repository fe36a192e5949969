"""Seeded faults in bias_act's Triton kernels and their arguments, which the checks of test_bias_act.py catch."""

import pytest
import torch
import triton
import triton.language as tl
from bias_act_checks import backward_formula, bias_of, check_triton, forward_formula
from kernel_checks import FORMATS, assert_close, bits_of, blocks, must_fail, random_tensor, up2
from pggan_fast.kernels import bias_act as kernels
from pggan_fast.kernels.launch import INTERPRETED

from pggan_fast.backends.triton import epilogue

pytestmark = [
    pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1"),
    pytest.mark.usefixtures("poison"),
]


@triton.jit
def swapped_source(q, tap: tl.constexpr, W, TAPS: tl.constexpr):
    return q if TAPS == 1 else q + (q // (2 * W) + 1 - tap) * (2 * W) + tap


@triton.jit
def positive_for_all(v, positive, SLOPE: tl.constexpr):
    return v


@triton.jit
def pairs_added_once(v, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    return tl.sum(tl.reshape(v, (2, BP, BC)), axis=0) if TAPS == 2 else v


@triton.jit
def pairs_repeated_apart(v, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    return tl.reshape(tl.broadcast_to(v[None, :, :], (2, BP, BC)), (2 * BP, BC)) if TAPS == 2 else v


@triton.jit
def without_projection(
    g, y, positive, r, dr, p, valid, eps, C: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
):  # fmt: skip
    return kernels.masked(tl.load(r + p, mask=valid, other=0.0)[:, None] * g, positive, SLOPE)


@triton.jit
def without_mean(v, C: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr, eps, EPS_INSIDE: tl.constexpr):
    return kernels.masked(v, v > 0, SLOPE), tl.sum(v * v, axis=1)


@triton.jit
def bits_reversed(
    mask, positive, q, p, valid, first, HW, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, TAPS: tl.constexpr,
    BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    bits = tl.reshape(positive.to(tl.int32), (BS, BC // 8, 8)) << (7 - tl.arange(0, 8))[None, None, :]
    byte = first // 8 + tl.arange(0, BC // 8)
    inside = valid[:, None] & (byte < (C + 7) // 8)[None, :]
    offsets = kernels.source_offsets(q, p, byte, HW, (C + 7) // 8, CHANNELS_LAST, TAPS)
    tl.store(mask + offsets, tl.sum(bits, axis=2).to(tl.uint8), mask=inside)


@triton.jit
def first_pixels_only(v, BP: tl.constexpr, BC: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, BP) < BP // 2)[:, None], v, 0.0), axis=0)


FAULTS = [
    ("store_bits", bits_reversed, "none", True),
    ("sum_pixels", first_pixels_only, "none", True),
    ("source", swapped_source, "none", True),
    ("add_pairs", pairs_added_once, "none", True),
    ("repeat_pairs", pairs_repeated_apart, "none", True),
    ("masked", positive_for_all, "none", False),
    ("norm_backward", without_projection, "after_act", False),
    ("norm_backward", without_projection, "before_act", False),
    ("activate", without_mean, "after_act", False),
]


@pytest.mark.parametrize(("name", "fault", "norm", "pool"), FAULTS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_faults_in_kernels_are_caught(monkeypatch, small_tiles, name, fault, norm, pool):
    u = random_tensor(2, 16, 4, 6)
    case = (u, bias_of("same", 16, u.dtype), 0.2, norm, "inside", pool, True, True)
    check_triton(*case)
    monkeypatch.setattr(kernels, name, fault)
    with pytest.raises(AssertionError):
        check_triton(*case)


def test_faulty_arguments_are_caught():
    """One wrong argument at a time: the comparisons above fail."""
    u = random_tensor(2, 16, 5, 5, memory_format=torch.channels_last)
    right = (u, random_tensor(16, seed=1), 0.7, 1.3, 0.2, "after_act", 0.05, "inside", False)
    y, r, _ = epilogue.bias_act_forward(*right)
    assert_close(y, forward_formula, *right)
    for index, wrong in ((1, None), (2, 0.71), (3, 1.31), (4, 0.21), (5, "before_act"), (6, 0.06), (7, "outside")):
        must_fail(epilogue.bias_act_forward(*right[:index], wrong, *right[index + 1 :])[0], forward_formula, *right)
    backward = (random_tensor(2, 16, 5, 5, seed=2), r, y, r, y > 0, 0.2, "after_act", 0.05, "inside", False)
    for dr, slope, scale in ((None, 0.2, 1.0), (r, 0.21, 1.0), (r, 0.2, 1.01)):
        du, _ = epilogue.bias_act_backward(
            backward[0], dr, y, r, None, scale, 1.0, slope, "after_act", 0.05, "inside", False, False
        )  # fmt: skip
        must_fail(du, backward_formula, *backward)
    unwritten = y.clone()
    unwritten[1, 15, 4, 4] = float("nan")
    must_fail(unwritten, forward_formula, *right)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_a_flipped_bit_is_caught(memory_format):
    even = random_tensor(1, 16, 4, 4, memory_format=memory_format)
    _, _, mask = epilogue.bias_act_forward(even, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
    positive, dy = bits_of(mask, 16), random_tensor(1, 16, 2, 2, seed=4)
    mask[0, 1, 2, 3] ^= 4
    out = epilogue.masked_pool(even, mask, 1.0, 0.2)
    must_fail(out, lambda g: blocks(torch.where(positive, g, g * 0.2)).mean((3, 5)), even)
    du, _ = epilogue.bias_act_backward(dy, None, dy, None, mask, 1.0, 1.0, 0.2, "none", 0.0, "inside", True, False)
    must_fail(du, lambda dy: torch.where(positive, up2(dy) / 4, up2(dy) / 20), dy)


def test_a_lost_row_of_sums_is_caught(monkeypatch, small_tiles):
    monkeypatch.setattr(kernels, "MAX_ROWS", 3)
    y = random_tensor(2, 33, 6, 10)
    real = torch.Tensor.sum

    def without_the_last_row(t, dim=None, **options):
        return real(t[:-1] if len(t) == 3 and dim == 0 else t, dim=dim, **options)

    monkeypatch.setattr(torch.Tensor, "sum", without_the_last_row)
    with pytest.raises(AssertionError):
        check_triton(y, bias_of("same", 33, y.dtype), 0.2, "none", "inside", False, with_dr=False, need_bias=True)
