"""Weights packed for the products of the family: scaled, summed over taps, transposed and rounded in one small pass."""

from __future__ import annotations

import triton
import triton.language as tl
from pggan_fast.kernels.launch import INTERPRETED, cdiv, launch, power_of_2
from pggan_fast.kernels.taps import contributes, tap_of, taps_of
from torch import Tensor

TILE_ROWS = 512 if INTERPRETED else 16  # an interpreted program costs the same whatever its size


@triton.jit
def pack_weight_kernel(
    w, out, scale, C, CIN, ROWS, COLS,
    K: tl.constexpr, RESAMPLE: tl.constexpr, ADJOINT: tl.constexpr, TAPS: tl.constexpr, OS: tl.constexpr,
    BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A tile [BR, BC] of out[phase, tap * X + x, y], X the channels of the convolution's input; zeros past edges."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(COLS, BC)
    phase = tl.program_id(1)
    row = (pid // tiles) * BR + tl.arange(0, BR)
    y = (pid % tiles) * BC + tl.arange(0, BC)
    channels_x = C if ADJOINT else CIN
    channels_y = CIN if ADJOINT else C
    tap, x = row // channels_x, row % channels_x
    s, t = tap // TAPS, tap % TAPS
    ok = (tap < TAPS * TAPS)[:, None] & (y < channels_y)[None, :]
    x_step, y_step = (CIN, 1) if ADJOINT else (1, CIN)
    element = tl.cast(x, tl.int64)[:, None] * x_step + tl.cast(y, tl.int64)[None, :] * y_step
    total = tl.zeros((BR, BC), tl.float32)
    for i in tl.static_range(K):
        for j in tl.static_range(K):
            term = contributes(i, s, phase // OS, K, RESAMPLE) & contributes(j, t, phase % OS, K, RESAMPLE)
            source = (K - 1 - i) * K + K - 1 - j if ADJOINT else i * K + j
            value = tl.load(w + element * (K * K) + source, mask=ok & term[:, None], other=0.0)
            total += value.to(tl.float32)
    packed = (total * scale).to(out.dtype.element_ty)
    offset = (phase.to(tl.int64) * ROWS + row)[:, None] * COLS + y[None, :]
    tl.store(out + offset, packed, mask=(row < ROWS)[:, None] & (y < COLS)[None, :])


@triton.jit
def unpack_weight_grad_kernel(
    parts, dw, scale, C, CIN, ROWS, COLS, SPLITS,
    K: tl.constexpr, RESAMPLE: tl.constexpr, TAPS: tl.constexpr, OS: tl.constexpr, TERMS: tl.constexpr,
    BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """dw[c, cin, i, j]: the transpose of packing, over the sum of the splits, which are added in order."""
    cin = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    element = tl.program_id(2)
    i, j = element // K, element % K
    ok = (cin < CIN)[:, None] & (c < C)[None, :]
    total = tl.zeros((BR, BC), tl.float32)
    for phase in tl.static_range(OS * OS):
        for other in tl.static_range(TERMS * TERMS):
            s = tap_of(i, other // TERMS, phase // OS, K, RESAMPLE)
            t = tap_of(j, other % TERMS, phase % OS, K, RESAMPLE)
            row = phase * ROWS + (s * TAPS + t) * CIN + cin
            offset = row.to(tl.int64)[:, None] * COLS + c[None, :]
            for _ in range(SPLITS):
                total += tl.load(parts + offset, mask=ok, other=0.0)
                offset += tl.cast(OS * OS * ROWS, tl.int64) * COLS
    offset = (c.to(tl.int64)[None, :] * CIN + cin[:, None]) * (K * K) + element
    tl.store(dw + offset, (total * scale).to(dw.dtype.element_ty), mask=ok)


def down_scale(scale: float, resample: str) -> float:
    """The mean of four is a quarter of their sum."""
    return 0.25 * scale if resample == "down" else scale


def pack_weight(w: Tensor, out: Tensor, scale: float, resample: str, adjoint: bool) -> None:
    """out [phases, rows, columns] from contiguous w [C, Cin, k, k]; rows and columns past the weights become zero."""
    c, cin, k, _ = w.shape
    taps, phases, _ = taps_of(resample, k)
    _, rows, cols = out.shape
    br, bc = TILE_ROWS, min(64, power_of_2(cols))
    launch(
        pack_weight_kernel, (cdiv(rows, br) * cdiv(cols, bc), phases * phases), w, out, down_scale(scale, resample),
        c, cin, rows, cols, k, resample, adjoint, taps, phases, br, bc, num_warps=4,
    )  # fmt: skip


def unpack_weight_grad(parts: Tensor, dw: Tensor, scale: float, resample: str) -> None:
    """dw [C, Cin, k, k], contiguous, from parts [splits, phases, rows, columns] in float32."""
    c, cin, k, _ = dw.shape
    taps, phases, _ = taps_of(resample, k)
    splits, _, rows, cols = parts.shape
    br, bc = TILE_ROWS, 32
    launch(
        unpack_weight_grad_kernel, (cdiv(cin, br), cdiv(c, bc), k * k), parts, dw, down_scale(scale, resample), c, cin,
        rows, cols, splits, k, resample, taps, phases, 2 if resample == "down" else 1, br, bc, num_warps=4,
    )  # fmt: skip
