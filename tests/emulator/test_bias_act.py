"""bias_act's CUDA kernels on the host: float64 formulas, every form of memory, three schedules, seeded faults."""

from __future__ import annotations

import itertools
import random
from typing import Any

import emulate
import grid
import pytest
import torch
from bias_act_checks import backward_formula, bias_of, check_backward, check_forward, forward_formula
from kernel_checks import FORMATS, assert_close, bits_of, blocks, must_fail, norms, random_tensor, up2
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.backends import cuda, native
from pggan_fast.ops.bias_act import bias_act_forward

pytestmark = pytest.mark.usefixtures("poison")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CHANNELS = (1, 3, 5, 16, 17, 24, 64, 100, 129, 512, 1032)
SIZES = ((1, 1), (1, 2), (2, 1), (5, 4), (9, 7))
SLOPES = (None, 0.2, 1.0, 0.0)
NORMS = ("none", "after_act", "before_act")
MODES = ("inside", "outside")
BIASES = (None, "same", "float32")
POLICIES = (emulate.FIFO, emulate.LIFO, emulate.RANDOM)


def check(
    u: Tensor, bias: Tensor | None, slope: float | None, norm: str, mode: str, pool: bool, with_dr: bool = True,
    need_bias: bool = True,
) -> None:  # fmt: skip
    """Forward and, where it is supported, backward pass."""
    if slope == 0.0 and norm == "after_act":
        mode = "inside"  # relu makes pixels of zeros, where the formulas with eps outside the root are 0 * inf
    eps = 16.0 if u.shape[1] == 1 else 0.05  # with one channel dy - y * mean(dy * y) cancels to eps / (v^2 + eps) of dy
    args = (u, bias, 0.7, 1.3, slope, norm, eps, mode, pool)
    saved = check_forward(cuda.ops, args)
    if norm != "before_act" or slope != 0.0:
        check_backward(cuda.ops, *saved, args, with_dr, need_bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_every_option(dtype: torch.dtype, memory_format: torch.memory_format, norm: str) -> None:
    u = random_tensor(2, 24, 4, 6, dtype=dtype, memory_format=memory_format)
    options = itertools.product(SLOPES, BIASES, MODES, {False, norm == "none"}, (False, True))
    with emulate.emulated():
        for slope, bias, mode, pool, extra in options:
            check(u, bias_of(bias, 24, dtype), slope, norm, mode, pool, with_dr=extra, need_bias=extra)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory", grid.LAYOUTS)
@pytest.mark.parametrize("c", CHANNELS)
def test_shapes(dtype: torch.dtype, memory: str, c: int) -> None:
    rng = random.Random(f"{dtype} {memory} {c}")
    for (h, w), norm in itertools.product(SIZES, NORMS):
        if c * h * w > 6000:
            continue
        pool = norm == "none" and rng.random() < 0.5
        size = (2 * h, 2 * w) if pool else (h, w)
        u = grid.arrange(random_tensor(rng.choice((1, 3)), c, *size, dtype=dtype), memory)
        bias = bias_of(rng.choice(BIASES), c, dtype)
        with emulate.emulated(policy=rng.choice(POLICIES), seed=c):
            check(u, bias, rng.choice(SLOPES[:3]), norm, rng.choice(MODES), pool, with_dr=rng.random() < 0.5)


# Enough pixels for blocks to go on with stride: a tensor of C channels in rows is taken 256 / lanes pixels at a time,
# by up to 48 blocks on the emulator's device.
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("c", "h", "w", "dtype"),
    [
        (3, 90, 74, torch.float16),
        (16, 70, 98, torch.float16),
        (64, 32, 34, torch.bfloat16),
        (64, 25, 33, torch.float32),
    ],
)
def test_many_pixels(policy: int, c: int, h: int, w: int, dtype: torch.dtype) -> None:
    for (memory, norm), pool in itertools.product(
        (("channels_last", "none"), ("channels_last", "after_act"), ("nchw", "none"), ("nchw", "before_act")),
        (False, True),
    ):
        if pool and (norm != "none" or h % 2 or w % 2):
            continue
        u = grid.arrange(random_tensor(2, c, h, w, dtype=dtype), memory)
        with emulate.emulated(policy=policy, seed=7):
            check(u, bias_of("same", c, dtype), 0.2, norm, "inside", pool)


@pytest.mark.parametrize("c", [33, 520, 1032])
def test_long_rows(c: int) -> None:
    """More channels than threads hold: a warp per pixel, several pixels each."""
    for dtype, norm in itertools.product((torch.float32, torch.float16), NORMS[1:]):
        u = random_tensor(1, c, 7, 9, dtype=dtype, memory_format=torch.channels_last)
        with emulate.emulated(policy=emulate.RANDOM):
            check(u, bias_of("float32", c, dtype), 0.2, norm, "outside", False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_mask_without_pool_and_masked_pool(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    for c, (h, w) in itertools.product((1, 3, 16, 17, 64, 129), ((2, 2), (6, 10))):
        g = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format)
        dy = random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format, seed=5)
        with emulate.emulated(policy=c % 3):
            _, _, mask = cuda.ops.bias_act_forward(g, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
            assert mask is not None
            positive = bits_of(mask, c)
            du, db = cuda.ops.bias_act_backward(
                dy, None, g, None, mask, 1.5, 1.0, 0.2, "none", 0.0, "inside", False, True
            )  # fmt: skip
            means = [cuda.ops.masked_pool(dy, used, 1.5, 0.2) for used in (mask, None)]
        assert_close(du, lambda dy, w=positive: 1.5 * torch.where(w, dy, dy * 0.2), dy)
        dv = torch.where(positive, dy.float(), dy.float() * 0.2)
        assert_close(db, lambda dv: dv.sum((0, 2, 3)), dv, magnitude=norms(dv))
        for out, where in zip(means, (positive, torch.ones_like(positive)), strict=True):
            assert_close(out, lambda dy, w=where: 1.5 * blocks(torch.where(w, dy, dy * 0.2)).mean((3, 5)), dy)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_pool_by_the_signs_of_a_small_image(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """Without a mask: the activation came after the mean, and a pixel of y decides for the four that it was made of."""
    for c, (h, w), slope in itertools.product((1, 3, 16, 17, 64, 129), ((1, 1), (3, 5)), (0.2, 0.0, None)):
        y, dy = (random_tensor(2, c, h, w, dtype=dtype, memory_format=memory_format, seed=s) for s in (4, 5))
        with emulate.emulated(policy=c % 3):
            du, db = cuda.ops.bias_act_backward(
                dy, None, y, None, None, 1.5, 0.5, slope, "none", 0.0, "inside", True, True
            )  # fmt: skip
        factor = 1.0 if slope is None else slope
        assert_close(du, lambda dy, p=y > 0, f=factor: up2(1.5 / 4 * torch.where(p, dy, dy * f)), dy)
        dv = torch.where(y > 0, dy.float(), dy.float() * factor)
        assert_close(db, lambda dv: 0.5 * dv.sum((0, 2, 3)), dv, magnitude=norms(dv))
        if slope == 0.2 and c >= 16:
            must_fail(du, lambda dy: up2(1.5 / 4 * dy), dy)


@pytest.mark.parametrize("norm", NORMS)
def test_a_plan_serves_tensors_that_lie_elsewhere(norm: str) -> None:
    """Unaligned tensors are taken an element at a time, by more threads, whose sums want more room."""
    for c, pool in itertools.product((16, 64), {False, norm == "none"}):
        y = random_tensor(3, c, 10, 10, memory_format=torch.channels_last, seed=1)
        args = (None, y, torch.rand(3, 1, 10, 10) if norm != "none" else None, None, 1.0, 1.0, 0.2, norm, 1e-8)
        elsewhere = torch.empty(y.numel() + 1)[1:].view(3, 10, 10, c).permute(0, 3, 1, 2).copy_(y)
        with emulate.emulated():
            run = cuda.ops.bias_act_backward_plan(y, *args, "inside", pool, True)
            (du, db), (there, there_db) = run(y, *args), run(elsewhere, *args)
        torch.testing.assert_close(du, there)
        torch.testing.assert_close(db, there_db)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_in_place(norm: str, memory_format: torch.memory_format) -> None:
    """y over u, and du over dy, give what they give apart."""
    for dtype, c in itertools.product(DTYPES, (3, 16, 33, 520)):
        u = random_tensor(2, c, 3, 5, dtype=dtype, memory_format=memory_format)
        bias = bias_of("float32", c, dtype)
        with emulate.emulated(policy=emulate.RANDOM, seed=c):
            config = (0.7, 1.3, 0.2, norm, 0.05, "inside", False)
            y, r, _ = cuda.ops.bias_act_forward(u, bias, *config)
            mine = u.clone(memory_format=torch.preserve_format)
            over, over_r, _ = cuda.ops.bias_act_forward_plan(mine, bias, *config, inplace=True)(mine, bias, *config)
            backward = (None, r, None, *native_backward(u.shape, dtype, memory_format, norm))
            apart, over_dy = torch.full_like(y, float("nan")), u.clone(memory_format=torch.preserve_format)
            cuda.ops._call_summing("bias_act_backward", u, u, None, y, r, None, apart, None, *backward[3:])
            cuda.ops._call_summing("bias_act_backward", u, over_dy, None, y, r, None, over_dy, None, *backward[3:])
        assert torch.equal(over, y)
        assert r is None or torch.equal(over_r, r)
        assert torch.equal(over_dy, apart)


def native_backward(shape: Any, dtype: torch.dtype, memory_format: torch.memory_format, norm: str) -> tuple[Any, ...]:
    """The sizes and scalars of the native function."""
    last = memory_format == torch.channels_last
    return native.DTYPES[dtype], *shape, last, False, 0.7, 1.3, 0.2, native.NORMS[norm], 0.05, True


@pytest.mark.parametrize("norm", NORMS)
def test_addresses_off_16_bytes(norm: str) -> None:
    """Dense tensors that begin in the middle of 16 bytes: element by element."""
    for dtype, pool in itertools.product(DTYPES, {False, norm == "none"}):
        rows = random_tensor(2 * 4 * 6 * 16 + 1, dtype=dtype)[1:].view(2, 4, 6, 16)
        u = rows.permute(0, 3, 1, 2)
        assert u.is_contiguous(memory_format=torch.channels_last)
        with emulate.emulated():
            check(u, bias_of("same", 16, dtype), 0.2, norm, "inside", pool)
            for kind in (torch.float32, dtype):
                bias = random_tensor(17, dtype=kind)[1:]
                check(u.clone(memory_format=torch.channels_last), bias, 0.2, norm, "inside", pool)


@pytest.mark.parametrize("shape", [(0, 16, 4, 4), (2, 16, 0, 4), (0, 1, 1, 1), (0, 16, 2, 2)])
@pytest.mark.parametrize("norm", NORMS)
def test_nothing_to_do(shape: tuple[int, ...], norm: str) -> None:
    x, c = torch.empty(shape), shape[1]
    with emulate.emulated():
        for pool in {False, norm == "none" and shape[2] != 1}:
            y, r, mask = cuda.ops.bias_act_forward(x, torch.ones(c), 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool)
            du, db = cuda.ops.bias_act_backward(y, None, y, r, mask, 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool, True)
            assert du.shape == x.shape
            assert torch.equal(db, torch.zeros(c))
            if pool:
                assert cuda.ops.masked_pool(x, mask, 1.0, 0.2).shape == y.shape


def test_half_precision_rounds_once() -> None:
    """1 + 2^-11 is halfway between two float16; the bias decides, though it is lost when the product is rounded."""
    u = torch.full((1, 8, 2, 2), 1.0, dtype=torch.float16)
    bias = torch.full((8,), 2.0**-20)
    with emulate.emulated():
        y = cuda.ops.bias_act_forward(u, bias, 1.0 + 2.0**-11, 1.0, None, "none", 0.0, "inside", False)[0]
    assert (y == 1.0 + 2.0**-10).all()


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("norm", NORMS[:2])
def test_the_bias_gradient_does_not_depend_on_the_schedule(memory_format: torch.memory_format, norm: str) -> None:
    y = random_tensor(2, 16, 33, 40, dtype=torch.float16, memory_format=memory_format)
    r = None if norm == "none" else torch.ones(2, 1, 33, 40)
    found = []
    for policy in POLICIES:
        with emulate.emulated(policy=policy):
            found.append(
                cuda.ops.bias_act_backward(y, None, y, r, None, 1.0, 1.0, 0.2, norm, 1e-8, "inside", False, True)[1]
            )
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


SECOND_ORDER = [
    (dtype, memory, norm, slope, mode)
    for (dtype, memory), (norm, slope, mode) in itertools.product(
        ((torch.float32, "channels_last"), (torch.float16, "sliced"), (torch.bfloat16, "nchw")),
        (("none", 0.2, "inside"), ("after_act", 0.2, "inside"), ("before_act", 0.2, "outside"),
         ("after_act", None, "inside")),
    )
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "memory", "norm", "slope", "mode"), SECOND_ORDER)
@pytest.mark.parametrize("shape", [(2, 16, 5, 3), (3, 24)])
def test_first_and_second_order(
    shape: tuple[int, ...], dtype: torch.dtype, memory: str, norm: str, slope: float | None, mode: str
) -> None:
    """The public op against the float64 reference: outputs, gradients, and the gradients of those."""
    numbers = grid.Numbers({"dtype": dtype, "layout": memory}, 3, grid.is_kinked(slope))
    inputs = {"x": numbers.tensor(*shape), "bias": numbers.bias("float32", shape[1], 1.0)}
    options = {"negative_slope": slope, "pixel_norm": norm, "eps": 0.25, "eps_mode": mode}
    with emulate.emulated():
        grid.check("bias_act", inputs, options, "cuda", data=["x"], seed=3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory", ["channels_last", "nchw"])
@pytest.mark.parametrize("slope", [None, 0.2])
def test_second_order_of_the_pooled_form(dtype: torch.dtype, memory: str, slope: float | None) -> None:
    numbers = grid.Numbers({"dtype": dtype, "layout": memory}, 5, grid.is_kinked(slope))
    inputs = {"x": numbers.tensor(2, 17, 4, 6), "bias": numbers.bias("float32", 17, 1.0)}

    def ours(x: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = bias_act_forward(x, bias, 1.0, 1.0, slope, "none", 0.0, "inside", True, "cuda")[0]
        return y

    def plain(x: Tensor, bias: Tensor) -> Tensor:
        return reference.down2(reference.bias_act(x, bias, negative_slope=slope))

    def run(f: Any, as_is: bool) -> grid.Results:
        return grid.derivatives(f, inputs, ["x"], 5, "same", dtype, as_is)

    with emulate.emulated():
        got = run(ours, True)
    wrong = grid.judge(got, run(plain, True), run(plain, False), dtype)
    assert not wrong, "\n".join(wrong)


# Traffic, as modelled

FORMS = [(16, "none", False), (64, "none", True), (16, "after_act", False), (512, "before_act", False)]


@pytest.mark.parametrize(("c", "norm", "pool"), FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_memory_is_passed_over_once(c: int, norm: str, pool: bool, dtype: torch.dtype) -> None:
    """In rows of channels: 16 bytes at a time, all of a sector used, and no byte of an image moved twice."""
    u = random_tensor(1, c, 8, 8, dtype=dtype, memory_format=torch.channels_last)
    with emulate.emulated(stats=True) as emulator:
        y, r, mask = cuda.ops.bias_act_forward(u, None, 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool)
        forward = whole_sectors(emulator.traffic())
    assert forward == u.nbytes + y.nbytes
    with emulate.emulated(stats=True) as emulator:
        cuda.ops.bias_act_backward(y, None, y, r, mask, 1.0, 1.0, 0.2, norm, 1e-8, "inside", pool, True)
        backward = whole_sectors(emulator.traffic())
    assert backward == u.nbytes + y.nbytes * (1 if pool else 2)


def whole_sectors(traffic: list[dict[str, Any]]) -> int:
    """Bytes moved 16 at a time by whole warps; nothing that a warp moves leaves part of a sector unused but masks."""
    places = [place for place in traffic if place["space"] == "global"]
    assert all(place["sectors"] == place["ideal"] for place in places if place["bytes"] > 32 * place["requests"])
    return sum(place["bytes"] for place in places if place["bytes"] == 512 * place["requests"])


# Seeded faults


def test_faulty_arguments_are_caught() -> None:
    """One wrong argument at a time: the comparisons above fail."""
    u = random_tensor(2, 16, 5, 5, memory_format=torch.channels_last)
    right = (u, random_tensor(16, seed=1), 0.7, 1.3, 0.2, "after_act", 0.05, "inside", False)
    with emulate.emulated():
        y, r, _ = cuda.ops.bias_act_forward(*right)
        assert_close(y, forward_formula, *right)
        for index, wrong in ((1, None), (2, 0.71), (3, 1.31), (4, 0.21), (5, "before_act"), (6, 0.06), (7, "outside")):
            faulty = cuda.ops.bias_act_forward(*right[:index], wrong, *right[index + 1 :])[0]
            must_fail(faulty, forward_formula, *right)
        backward = (random_tensor(2, 16, 5, 5, seed=2), r, y, r, y > 0, 0.2, "after_act", 0.05, "inside", False)
        for dr, slope, scale in ((None, 0.2, 1.0), (r, 0.21, 1.0), (r, 0.2, 1.01)):
            du, _ = cuda.ops.bias_act_backward(
                backward[0], dr, y, r, None, scale, 1.0, slope, "after_act", 0.05, "inside", False, False
            )  # fmt: skip
            must_fail(du, backward_formula, *backward)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_a_flipped_bit_is_caught(memory_format: torch.memory_format) -> None:
    even = random_tensor(1, 16, 4, 4, memory_format=memory_format)
    with emulate.emulated():
        _, _, mask = cuda.ops.bias_act_forward(even, None, 1.0, 1.0, 0.2, "none", 0.0, "inside", True)
        assert mask is not None
        positive, dy = bits_of(mask, 16), random_tensor(1, 16, 2, 2, seed=4)
        mask[0, 1, 2, 3] ^= 4
        out = cuda.ops.masked_pool(even, mask, 1.0, 0.2)
        du, _ = cuda.ops.bias_act_backward(
            dy, None, dy, None, mask, 1.0, 1.0, 0.2, "none", 0.0, "inside", True, False
        )  # fmt: skip
    must_fail(out, lambda g: blocks(torch.where(positive, g, g * 0.2)).mean((3, 5)), even)
    must_fail(du, lambda dy: torch.where(positive, up2(dy) / 4, up2(dy) / 20), dy)


def test_a_workspace_too_small_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = emulate.call
    monkeypatch.setattr(
        emulate, "call", lambda name, *args: real(name, *args) - 1 if name.endswith("_workspace") else real(name, *args)
    )
    for memory_format, norm in itertools.product(FORMATS, NORMS[:2]):
        u = random_tensor(2, 17, 6, 10, memory_format=memory_format)
        with emulate.emulated(), pytest.raises(emulate.Fault, match="bias_act"):
            check(u, None, 0.2, norm, "inside", False)


def test_a_pool_after_a_norm_is_refused() -> None:
    u = random_tensor(1, 8, 2, 2)
    with emulate.emulated(), pytest.raises(emulate.Fault):
        cuda.ops.bias_act_forward(u, None, 1.0, 1.0, 0.2, "after_act", 1e-8, "inside", True)


def test_the_public_op_says_what_it_lacks() -> None:
    with emulate.emulated(), pytest.raises(RuntimeError, match=r"no kernels for torch\.float64"):
        ops.bias_act(torch.ones(1, 8, 2, 2, dtype=torch.float64), backend="cuda")
