"""Kernels with one seeded fault each, and sound ones beside them, with launchers as kernels/ has them."""

import triton
import triton.language as tl
from pggan_fast.kernels.launch import cdiv, launch


@triton.jit
def scale_kernel(x, y, scale, N, STRIDE: tl.constexpr, B: tl.constexpr):
    """y = scale * x over [N]; with STRIDE 2 of every second element, which no wide access can read."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    v = tl.load(x + i * STRIDE, mask=i < N, other=0.0)
    tl.store(y + i * STRIDE, (v.to(tl.float32) * scale).to(y.dtype.element_ty), mask=i < N)


def scale(x, y, factor, stride=1, block=1024):
    n = x.numel() // stride
    launch(scale_kernel, (cdiv(n, block),), x, y, factor, n, stride, block, num_warps=4)


@triton.jit
def sort_kernel(x, y, B: tl.constexpr):
    """Orders B numbers by adding what every other one has to say: all of them live at once."""
    i = tl.arange(0, B)
    v = tl.load(x + i)
    w = tl.load(x + B + i)
    u = tl.cumsum(v, 0) * w
    tl.store(y + i, tl.cumsum(u, 0) + v * w + tl.flip(w))


def sort(x, y, block):
    launch(sort_kernel, (1,), x, y, block, num_warps=1)


@triton.jit
def product_kernel(a, b, c, K, B: tl.constexpr, PRECISION: tl.constexpr, HONEST: tl.constexpr):
    """c [B, B] = a [B, K] b [K, B]; without HONEST in IEEE precision, whatever PRECISION says."""
    i = tl.arange(0, B)
    acc = tl.zeros((B, B), tl.float32)
    for k in range(0, K, 64):
        j = k + tl.arange(0, 64)
        u = tl.load(a + i[:, None] * K + j[None, :])
        v = tl.load(b + j[:, None] * B + i[None, :])
        acc = tl.dot(u, v, acc, input_precision=PRECISION if HONEST else "ieee")
    tl.store(c + i[:, None] * B + i[None, :], acc.to(c.dtype.element_ty))


def product(a, b, c, precision="tf32", honest=True, stages=2, warps=4):
    launch(product_kernel, (1,), a, b, c, a.shape[1], a.shape[0], precision, honest, num_warps=warps, num_stages=stages)
