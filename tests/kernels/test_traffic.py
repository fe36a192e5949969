"""Memory-bound kernels move little more than their inputs and outputs once, by the model of traffic.py."""

from __future__ import annotations

import pytest
import torch
import traffic
import triton
import triton.language as tl
from pggan_fast.kernels import launch as launching
from pggan_fast.kernels.launch import cdiv
from triton.runtime.errors import InterpreterError

from pggan_fast import ops

# Products reuse their inputs on purpose; packing and unpacking weights move what no one would notice.
NOT_MEMORY_BOUND = {"pack_weight_kernel", "unpack_weight_grad_kernel"}
FORMATS = {"channels_last": torch.channels_last, "planes": torch.contiguous_format}
N, C, SIZE = 2, 32, 32  # 256 KiB a tensor in float32: four times the model's cache


def image(channels=C, size=SIZE, form="channels_last", dtype=torch.float32):
    x = torch.randn(N, channels, size, size, dtype=dtype)
    return x.contiguous(memory_format=FORMATS[form]).requires_grad_()


def weights(*shape):
    return torch.randn(shape, requires_grad=True)


OPS = {
    "bias_act": lambda x, a: ops.bias_act(x, weights(C), negative_slope=0.2, backend="triton"),
    "after_act": lambda x, a: ops.bias_act(x, weights(C), negative_slope=0.2, pixel_norm="after_act", backend="triton"),
    "before_act": lambda x, a: ops.bias_act(
        x, weights(C), negative_slope=0.2, pixel_norm="before_act", backend="triton"
    ),
    "pixel_norm": lambda x, a: ops.pixel_norm(x, backend="triton"),
    "fade_in": lambda x, a: ops.fade_in(x, torch.randn_like(x), a, backend="triton"),
    "fade_in_up": lambda x, a: ops.fade_in(x[:, :, ::2, ::2].contiguous(), x, a, backend="triton"),
    "fade_reals": lambda x, a: ops.fade_reals(x, a, backend="triton"),
    "stddev": lambda x, a: ops.minibatch_stddev(x, 2, backend="triton"),
    "from_rgb": lambda x, a: ops.from_rgb_fade_in(
        torch.randn(N, 3, 2 * SIZE, 2 * SIZE).to(x.dtype).contiguous(memory_format=torch.channels_last), x,
        weights(C, 3, 1, 1), weights(C), a, weight_scale=1.0, backend="triton",
    ),
    "to_rgb": lambda x, a: ops.to_rgb_fade_in(
        x[:, :, ::2, ::2].contiguous(), x, weights(3, C, 1, 1), weights(3), weights(3, C, 1, 1), weights(3), a,
        weight_scale_low=1.0, weight_scale_high=1.0, backend="triton",
    ),
    "pool": lambda x, a: ops.scaled_conv2d(
        x, weights(C, C, 1, 1), weights(C), weight_scale=1.0, resample="pool", negative_slope=0.2, backend="triton"
    ),
}  # fmt: skip


def heavy(launches):
    """The launches that are held to the limit: memory-bound, and large against the model's cache and its sectors."""
    return [t for t in launches if not t.product and t.kernel not in NOT_MEMORY_BOUND and t.minimum > traffic.CACHE]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_forward_and_backward_move_little_more_than_they_must(op, dtype, form):
    x = image(form=form, dtype=dtype)
    with traffic.metered() as launches:
        y = OPS[op](x, torch.tensor(0.3))
        y.backward(torch.randn_like(y))
    assert heavy(launches), [str(t) for t in launches]
    wrong = [str(t) for t in heavy(launches) if t.ratio > traffic.LIMIT]
    assert not wrong, "\n".join(wrong)


# Seeded faults


@triton.jit
def scale_kernel(x, y, N, PASSES: tl.constexpr, BLOCK: tl.constexpr):
    """y = 2 x over [N]; with PASSES = 2 programs come round a second time."""
    program = tl.program_id(0) % (tl.num_programs(0) // PASSES)
    i = program * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, 2.0 * tl.load(x + i, mask=i < N, other=0.0), mask=i < N)


@triton.jit
def normalise_kernel(x, y, N, BLOCK: tl.constexpr):
    """y = x / sum(x) in one program, which reads x a second time when none of it is left in the cache."""
    total = 0.0
    for first in range(0, N, BLOCK):
        total += tl.sum(tl.load(x + first + tl.arange(0, BLOCK)))
    for first in range(0, N, BLOCK):
        i = first + tl.arange(0, BLOCK)
        tl.store(y + i, tl.load(x + i) / total)


@triton.jit
def column_kernel(x, y, ROWS, COLS, BLOCK: tl.constexpr):
    """y = 2 x over [ROWS, COLS], a column at a time: a sector for every element."""
    i = tl.arange(0, BLOCK) * COLS + tl.program_id(0)
    tl.store(y + i, 2.0 * tl.load(x + i))


def measure(kernel, grid, *args):
    x = torch.randn(2**16)
    with traffic.metered() as launches:
        launching.launch(kernel, grid, x, torch.empty_like(x), *args)
    (t,) = launches
    assert t.minimum == 2 * x.nbytes
    return t


def test_the_model_counts_a_sound_kernel_exactly():
    t = measure(scale_kernel, (cdiv(2**16, 1024),), 2**16, 1, 1024)
    assert (t.ratio, t.requested) == (1.0, t.minimum)


@pytest.mark.parametrize(
    ("kernel", "grid", "args", "ratio"),
    [
        (scale_kernel, (128,), (2**16, 2, 1024), 2.0),  # a grid twice as large as it should be
        (normalise_kernel, (1,), (2**16, 1024), 1.5),  # two passes over its input
        (column_kernel, (16,), (4096, 16, 4096), 8.0),  # 4 bytes of each sector
    ],
)
def test_a_wasteful_kernel_is_over_the_limit(kernel, grid, args, ratio):
    assert measure(kernel, grid, *args).ratio == pytest.approx(ratio, rel=0.1)


def test_an_access_outside_every_tensor_is_an_error():
    big = torch.randn(128)
    with traffic.metered(), pytest.raises(InterpreterError, match="leaves its tensors"):
        launching.launch(scale_kernel, (2,), big[:64], big[:64], 128, 1, 64)
