"""Implicit-GEMM convolutions of every resampling, forward and adjoint, with the layer's epilogue in registers.

M = output pixels of a phase, N = output channels, K = taps x input channels. The upsampled tensor, the padded image and
the column matrix never exist: a program gathers its [BM, BK] tile of x where the taps say.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.configs import ConvConfig
from pggan_fast.kernels.launch import INTERPRETED, cdiv, launch
from pggan_fast.kernels.taps import lead, pixel_of, taps_of
from pggan_fast.kernels.tile import activate
from torch import Tensor


@triton.jit
def x_tile(
    x, pixel, i, j, ok, k, IH, IW, sh, sw, sc,
    CIN: tl.constexpr, TAPS: tl.constexpr, BK: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """[BM, BK] of x for columns k .. k + BK of the column matrix; pixel [BM]: offsets of the first tap's pixels."""
    columns = k + tl.arange(0, BK)
    if FLAT:  # a tile spans several taps
        tap = columns // CIN
        s, t = (tap // TAPS)[None, :], (tap % TAPS)[None, :]
        inside = (tap < TAPS * TAPS)[None, :]
        ii, jj = i[:, None] + s, j[:, None] + t
        channel = columns % CIN
    else:
        tap = k // CIN
        s, t = tap // TAPS, tap % TAPS
        inside = True
        ii, jj = (i + s)[:, None], (j + t)[:, None]
        channel = k % CIN + tl.arange(0, BK)
    inside = ok[:, None] & (ii >= 0) & (ii < IH) & (jj >= 0) & (jj < IW) & inside
    offset = tl.cast(s, tl.int64) * sh + tl.cast(t, tl.int64) * sw + (tl.cast(channel, tl.int64) * sc)[None, :]
    return tl.load(x + (pixel[:, None] + offset), mask=inside, other=0.0)


@triton.jit
def accumulate(
    x, w, pixel, i, j, ok, column, k_first, k_last, IH, IW, sh, sw, sc,
    CIN: tl.constexpr, COLS: tl.constexpr, TAPS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[BM, BN] sums over columns k_first .. k_last of the column matrix, in float32."""
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(k_first, k_last, BK):
        a = x_tile(x, pixel, i, j, ok, k, IH, IW, sh, sw, sc, CIN, TAPS, BK, CIN % BK != 0)
        row = tl.cast(k + tl.arange(0, BK), tl.int64)
        b = tl.load(w + row[:, None] * COLS + column[None, :])  # padded with zeros: no mask
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def store_pooled(y, mask, v, a, n, i, j, ok, column, syn, syh, syw, syc, smn, smh, smw, smc,
                 C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, SAVE_MASK: tl.constexpr):  # fmt: skip
    """The 2x2 means of activations a [BM, BN], four rows to a block, and one bit per pre-activation v > 0."""
    if SAVE_MASK:
        group = tl.min(tl.reshape(column, (BN // 8, 8)), axis=1) // 8  # [BN / 8]
        bits = (v > 0).to(tl.int32) << (column % 8)[None, :]
        packed = tl.sum(tl.reshape(bits, (BM, BN // 8, 8)), axis=2)
        at = (n * smn + i * smh + j * smw)[:, None] + group.to(tl.int64)[None, :] * smc
        tl.store(mask + at, packed.to(tl.uint8), mask=ok[:, None] & (group * 8 < C)[None, :])
    mean = tl.sum(tl.reshape(a, (BM // 4, 4, BN)), axis=1) * 0.25
    at = n * syn + (i // 2) * syh + (j // 2) * syw  # the same for the four rows of a block
    at = tl.min(tl.reshape(at, (BM // 4, 4)), axis=1)
    block_ok = tl.min(tl.reshape(ok.to(tl.int32), (BM // 4, 4)), axis=1) > 0
    at = at[:, None] + column.to(tl.int64)[None, :] * syc
    tl.store(y + at, mean.to(y.dtype.element_ty), mask=block_ok[:, None] & (column < C)[None, :])


@triton.jit
def scaled_conv2d_kernel(
    x, w, bias, y, r, mask, bias_scale, eps, M, GH, GW, IH, IW, K_SPLIT,
    sxn, sxh, sxw, sxc, syn, syh, syw, syc, sys, smn, smh, smw, smc,
    CIN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr,
    OS: tl.constexpr, IS: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr, EPS_INSIDE: tl.constexpr,
    POOL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
    BIG: tl.constexpr,
):  # fmt: skip
    """One [BM, BN] tile of one phase, summed over K_SPLIT of the column matrix's ROWS.

    x [N, CIN, IH, IW] and y [N, C, OS * GH, OS * GW] (with POOL half of it) by strides; M = N * GH * GW. Of several
    splits, each writes its sums to its own y, `sys` apart. r [N, 1, H, W], mask [N, ceil(C / 8), H, W].
    """
    pid = tl.program_id(0)
    tiles: tl.constexpr = (COLS + BN - 1) // BN
    phase = pid % (OS * OS)
    column = (pid // (OS * OS)) % tiles * BN + tl.arange(0, BN)
    block = pid // (OS * OS * tiles)
    if BIG:
        block = block.to(tl.int64)
    m = block * BM + tl.arange(0, BM)
    ok = m < M
    n, gi, gj = pixel_of(m, GH, GW, POOL)
    pa, pb = phase // OS, phase % OS
    i, j = gi * IS + lead(pa, K, OS), gj * IS + lead(pb, K, OS)
    n = n.to(tl.int64)
    pixel = n * sxn + i.to(tl.int64) * sxh + j.to(tl.int64) * sxw
    split = tl.program_id(1)
    k_first = split * K_SPLIT
    k_last = tl.minimum(k_first + K_SPLIT, ROWS)
    acc = accumulate(
        x, w + phase.to(tl.int64) * ROWS * COLS, pixel, i, j, ok, column, k_first, k_last, IH, IW, sxh, sxw, sxc,
        CIN, COLS, TAPS, BM, BN, BK, PRECISION,
    )  # fmt: skip
    if bias is not None:
        b = tl.load(bias + column, mask=column < C, other=0.0).to(tl.float32) * bias_scale
        acc += b[None, :]
    a, norm = activate(acc, C, SLOPE, NORM, eps, EPS_INSIDE)
    oi, oj = (gi * OS + pa).to(tl.int64), (gj * OS + pb).to(tl.int64)
    if POOL:
        store_pooled(y, mask, acc, a, n, oi, oj, ok, column, syn, syh, syw, syc, smn, smh, smw, smc,
                     C, BM, BN, mask is not None)  # fmt: skip
    else:
        at = (split.to(tl.int64) * sys + n * syn + oi * syh + oj * syw)[:, None] + column.to(tl.int64)[None, :] * syc
        tl.store(y + at, a.to(y.dtype.element_ty), mask=ok[:, None] & (column < C)[None, :])
        if NORM != "none":
            tl.store(r + (n * (OS * GH) + oi) * (OS * GW) + oj, norm, mask=ok)


def scaled_conv2d(
    x: Tensor, packed: Tensor, bias: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, k: int,
    resample: str, bias_scale: float, slope: float | None, norm: str, eps: float, eps_mode: str, precision: str,
    config: ConvConfig, splits: int = 1,
) -> None:  # fmt: skip
    """The convolution of x [N, X, H, W] with `packed` (see pack_weight), and the epilogue, into y, r and mask.

    With splits > 1 y is float32 [splits, N, Y, H, W], sums without an epilogue: bias, norm and slope have to be none.
    """
    n, cin, h, w = x.shape
    taps, phases, stride = taps_of("none" if resample == "pool" else resample, k)
    pool = resample == "pool"
    gh, gw = h // stride, w // stride
    c = y.shape[-3]
    _, rows, cols = packed.shape
    pixels = n * gh * gw
    each = cdiv(cdiv(rows, config.bk), splits) * config.bk
    syn, syc, syh, syw = y.stride()[-4:]
    smn, smc, smh, smw = (0, 0, 0, 0) if mask is None else mask.stride()
    sxn, sxc, sxh, sxw = x.stride()
    tiles = cdiv(pixels, config.bm) * cdiv(cols, config.bn) * phases * phases
    launch(
        scaled_conv2d_kernel, (tiles, splits), x, packed, bias, y, r, mask, bias_scale, eps, pixels, gh, gw, h, w, each,
        sxn, sxh, sxw, sxc, syn, syh, syw, syc, y.stride(0) if splits > 1 else 0, smn, smh, smw, smc, cin, c, rows,
        cols, k, taps, phases, stride, slope, norm, eps_mode == "inside", pool, config.bm, config.bn, config.bk,
        "ieee" if INTERPRETED else precision, pixels >= 2**31, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
