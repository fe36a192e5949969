"""Weight gradients of the family: column matrix transposed times output gradient, split over pixels.

M = taps x input channels, N = output channels, K = pixels. Every split writes its own sums, and they are added in
order: the result does not depend on what ran when.
"""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.configs import ConvConfig
from pggan_fast.kernels.launch import INTERPRETED, cdiv, launch
from pggan_fast.kernels.scaled_conv2d import x_tile
from pggan_fast.kernels.taps import lead, pixel_of, taps_of
from torch import Tensor


@triton.jit
def conv_weight_grad_kernel(
    x, dy, parts, M, GH, GW, IH, IW, M_SPLIT,
    sxn, sxh, sxw, sxc, syn, syh, syw, syc,
    CIN: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr,
    OS: tl.constexpr, IS: tl.constexpr, BR: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
    PRECISION: tl.constexpr, BIG: tl.constexpr,
):  # fmt: skip
    """parts[split, phase, tap * CIN + cin, c]: a tile [BR, BN], summed over the M_SPLIT pixels of the split."""
    pid = tl.program_id(0)
    tiles: tl.constexpr = (COLS + BN - 1) // BN
    phase = pid % (OS * OS)
    column = (pid // (OS * OS)) % tiles * BN + tl.arange(0, BN)
    first_row = pid // (OS * OS * tiles) * BR
    pa, pb = phase // OS, phase % OS
    split = tl.program_id(1)
    if BIG:
        split = split.to(tl.int64)
    first = split * M_SPLIT
    acc = tl.zeros((BR, BN), tl.float32)
    for p in range(0, M_SPLIT, BP):
        m = first + p + tl.arange(0, BP)
        ok = (m < M) & (p + tl.arange(0, BP) < M_SPLIT)
        n, gi, gj = pixel_of(m, GH, GW, False)
        i, j = gi * IS + lead(pa, K, OS), gj * IS + lead(pb, K, OS)
        n = n.to(tl.int64)
        pixel = n * sxn + i.to(tl.int64) * sxh + j.to(tl.int64) * sxw
        a = x_tile(x, pixel, i, j, ok, first_row, IH, IW, sxh, sxw, sxc, CIN, TAPS, BR, CIN % BR != 0)  # [BP, BR]
        at = n * syn + (gi * OS + pa).to(tl.int64) * syh + (gj * OS + pb).to(tl.int64) * syw
        at = at[:, None] + column.to(tl.int64)[None, :] * syc
        b = tl.load(dy + at, mask=ok[:, None] & (column < C)[None, :], other=0.0)  # [BP, BN]
        acc = tl.dot(tl.trans(a), b, acc, input_precision=PRECISION)
    row = first_row + tl.arange(0, BR)
    offset = ((split.to(tl.int64) * (OS * OS) + phase) * ROWS + row)[:, None] * COLS + column[None, :]
    tl.store(parts + offset, acc, mask=(row < ROWS)[:, None] & (column < COLS)[None, :])


def conv_weight_grad(
    x: Tensor, dy: Tensor, parts: Tensor, k: int, resample: str, precision: str, config: ConvConfig
) -> None:
    """parts [splits, phases, taps * X, columns] of x [N, X, ...] and dy [N, Y, ...]; `unpack_weight_grad` adds them."""
    n, cin, h, w = x.shape
    taps, phases, stride = taps_of(resample, k)
    gh, gw = h // stride, w // stride
    splits, _, rows, cols = parts.shape
    pixels = n * gh * gw
    each = cdiv(cdiv(pixels, config.bk), splits) * config.bk
    sxn, sxc, sxh, sxw = x.stride()
    syn, syc, syh, syw = dy.stride()
    tiles = cdiv(rows, config.bm) * cdiv(cols, config.bn) * phases * phases
    launch(
        conv_weight_grad_kernel, (tiles, splits), x, dy, parts, pixels, gh, gw, h, w, each, sxn, sxh, sxw, sxc, syn,
        syh, syw, syc, cin, dy.shape[1], rows, cols, k, taps, phases, stride, config.bm, config.bn, config.bk,
        "ieee" if INTERPRETED else precision, splits * each >= 2**31, num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
