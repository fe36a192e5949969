"""bias_act: the epilogue of a layer, its backward pass, and the 2x2 mean under a mask, each in one pass over memory.

A program holds a tile of BP pixels by BC channels in float32; with a pixel norm BC spans all channels. The pooled forms
tile the small image and read each 2x2 block in TAPS steps: channels_last in four, one pixel each, and in planes in two,
one row of pairs each, so that a step's memory is contiguous. TAPS is 1 without pool. Masks hold one bit per element:
bit c % 8 of byte c / 8 of uint8 [N, ceil(C / 8), H, W], in the memory format of the image.
"""

import functools
from typing import Any, NamedTuple

import triton
import triton.language as tl
from pggan_fast.kernels.launch import cdiv, launch, power_of_2
from pggan_fast.kernels.tile import activate, tile_offsets
from torch import Tensor

# Elements of a tile: 16 float32 registers per tensor and thread of 4 warps, two 16-byte accesses of half precision.
# With a norm over many channels a tile grows, to 32 registers, and the warps with it up to 16.
ELEMENTS = 2048
MAX_CHANNELS = 16384
MAX_ROWS = 1024


@triton.jit
def place(C: tl.constexpr, BC: tl.constexpr):
    """(int64 number among the programs with the same channels, int32 first channel); channel blocks are innermost."""
    BLOCKS: tl.constexpr = (C + BC - 1) // BC
    program = tl.program_id(0).to(tl.int64)
    return program // BLOCKS, (program % BLOCKS).to(tl.int32) * BC


@triton.jit
def source(q, tap: tl.constexpr, W, TAPS: tl.constexpr):
    """int64 pixels of the large image, its rows 2 * W wide, that step `tap` reads; of the same image for one step.

    For four steps q is pixels of the small image, its rows W wide; for two it counts their pairs: 2 * pixel + 0 or 1.
    """
    if TAPS == 1:
        p = q
    elif TAPS == 2:
        p = q + (q // (2 * W) + tap) * (2 * W)
    else:
        p = 2 * q + (q // W + tap // 2) * (2 * W) + tap % 2
    return p


@triton.jit
def source_offsets(q, p, c, HW, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, TAPS: tl.constexpr):
    """tile_offsets(p, c, HW, C, CHANNELS_LAST) for p = source(q, ...).

    Pairs count up to HW / 2 per plane. Dividing q and not p leaves the compiler the knowledge that neighbours in q are
    neighbours in memory, which 16-byte accesses hang on.
    """
    if TAPS == 2:
        n = q // (HW // 2)
        offsets = (p + n * (C - 1) * HW)[:, None] + c.to(tl.int64)[None, :] * HW
    else:
        offsets = tile_offsets(p, c, HW, C, CHANNELS_LAST)
    return offsets


@triton.jit
def add_pairs(v, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """[BP, BC] of a step's [BP, BC], or [2 * BP, BC] where it holds pairs."""
    return tl.sum(tl.reshape(v, (BP, 2, BC)), axis=1) if TAPS == 2 else v


@triton.jit
def repeat_pairs(v, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """The adjoint of add_pairs."""
    return tl.reshape(tl.broadcast_to(v[:, None, :], (BP, 2, BC)), (2 * BP, BC)) if TAPS == 2 else v


@triton.jit
def sum_pixels(v, BP: tl.constexpr, BC: tl.constexpr):
    """[BC] of v [BP, BC], in two levels: the interpreter's sums are sequential, and round more the longer they are."""
    if BP > 16:
        v = tl.sum(tl.reshape(v, (BP // 16, 16, BC)), axis=0)
    return tl.sum(v, axis=0)


@triton.jit
def store_bits(
    mask, positive, q, p, valid, first, HW, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, TAPS: tl.constexpr,
    BS: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Write bool `positive` [BS, BC] of the valid pixels p = source(q) and channels from `first`; false past C."""
    BYTES: tl.constexpr = (C + 7) // 8
    bits = tl.reshape(positive.to(tl.int32), (BS, BC // 8, 8)) << tl.arange(0, 8)[None, None, :]
    byte = first // 8 + tl.arange(0, BC // 8)
    inside = valid[:, None] & (byte < BYTES)[None, :]
    offsets = source_offsets(q, p, byte, HW, BYTES, CHANNELS_LAST, TAPS)
    tl.store(mask + offsets, tl.sum(bits, axis=2).to(tl.uint8), mask=inside)


@triton.jit
def load_bits(mask, q, p, c, inside, HW, C: tl.constexpr, CHANNELS_LAST: tl.constexpr, TAPS: tl.constexpr):
    """bool [BS, BC] of pixels p = source(q) and channels c."""
    offsets = source_offsets(q, p, c // 8, HW, (C + 7) // 8, CHANNELS_LAST, TAPS)
    byte = tl.load(mask + offsets, mask=inside, other=0).to(tl.int32)
    return ((byte >> (c % 8)[None, :]) & 1) != 0


@triton.jit
def forward_kernel(
    u, bias, y, r, mask, P, HW, STEP, SOURCE_HW, W, PARTIAL, scale, bias_scale, eps, C: tl.constexpr,
    SPLITS: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr, EPS_INSIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y has P pixels in planes of HW and rows of W; a step reads STEP pixels of u, whose planes have SOURCE_HW, and
    whose SPLITS parts have PARTIAL elements each."""
    BS: tl.constexpr = 2 * BP if TAPS == 2 else BP
    block, first = place(C, BC)
    c = first + tl.arange(0, BC)
    s = block * BS + tl.arange(0, BS)
    inside = (s < STEP)[:, None] & (c < C)[None, :]
    if bias is not None:
        b = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32) * bias_scale
    for tap in tl.static_range(TAPS):
        p = source(s, tap, W, TAPS)
        offsets = source_offsets(s, p, c, SOURCE_HW, C, CHANNELS_LAST, TAPS)
        v = tl.load(u + offsets, mask=inside, other=0.0).to(tl.float32)
        part = offsets
        for _ in tl.static_range(1, SPLITS):
            part += PARTIAL  # step by step: the product of two int32 could overflow
            v += tl.load(u + part, mask=inside, other=0.0).to(tl.float32)
        v *= scale
        if bias is not None:
            v += b[None, :]
        a, factor = activate(v, C, SLOPE, NORM, eps, EPS_INSIDE)
        if mask is not None:
            store_bits(mask, v > 0, s, p, s < STEP, first, SOURCE_HW, C, CHANNELS_LAST, TAPS, BS, BC)
        if r is not None:
            tl.store(r + p, factor, mask=s < STEP)
        if tap == 0:
            total = add_pairs(a, TAPS, BP, BC)
        else:
            total += add_pairs(a, TAPS, BP, BC)
    if TAPS > 1:
        total *= 0.25
    q = block * BP + tl.arange(0, BP)
    inside = (q < P)[:, None] & (c < C)[None, :]
    tl.store(y + tile_offsets(q, c, HW, C, CHANNELS_LAST), total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    g, y, positive, r, dr, p, valid, eps, C: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
):  # fmt: skip
    """dv [BP, BC] from dy g and y, both zero past C, the activation's mask, and the factors r and their gradient dr.

    r is taken out of the difference, which cancels most of its terms where there are few channels.
    """
    f = tl.load(r + p, mask=valid, other=0.0)
    t = tl.sum(g * y, axis=1) / C
    if dr is not None:
        t += tl.load(dr + p, mask=valid, other=0.0) * f / C
    if not EPS_INSIDE:
        rest = 1.0 - eps * f
        t = tl.where(rest > 0, t / rest, 0.0)
    if NORM == "after_act":
        dv = masked(g - y * t[:, None], positive, SLOPE)
    else:
        if SLOPE is not None:
            y = tl.where(positive, y, y * (1.0 / SLOPE))  # the normalised value
        dv = masked(g, positive, SLOPE) - y * t[:, None]
    return f[:, None] * dv


@triton.jit
def masked(g, positive, SLOPE: tl.constexpr):
    """The derivative of leaky ReLU, times g."""
    if SLOPE is not None:
        g = tl.where(positive, g, g * SLOPE)
    return g


@triton.jit
def backward_kernel(
    dy, dr, y, r, mask, du, sums, P, HW, STEP, SOURCE_HW, W, rows, blocks_per_row, scale, eps, C: tl.constexpr,
    SLOPE: tl.constexpr, NORM: tl.constexpr, EPS_INSIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """dy has P pixels in planes of HW and rows of W; a step writes STEP pixels of du, whose planes have SOURCE_HW.

    A program takes every rows-th block of pixels and writes their sums of dv to its row of `sums` [rows, C].
    """
    BS: tl.constexpr = 2 * BP if TAPS == 2 else BP
    row, first = place(C, BC)
    c = first + tl.arange(0, BC)
    total = tl.zeros([BS, BC], tl.float32)
    for i in range(blocks_per_row):
        q = (row + i * rows) * BP + tl.arange(0, BP)
        inside = (q < P)[:, None] & (c < C)[None, :]
        g = tl.load(dy + tile_offsets(q, c, HW, C, CHANNELS_LAST), mask=inside, other=0.0).to(tl.float32)
        if TAPS > 1:
            g = repeat_pairs(g * 0.25, TAPS, BP, BC)
        s = (row + i * rows) * BS + tl.arange(0, BS)
        inside = (s < STEP)[:, None] & (c < C)[None, :]
        for tap in tl.static_range(TAPS):
            p = source(s, tap, W, TAPS)
            out = source_offsets(s, p, c, SOURCE_HW, C, CHANNELS_LAST, TAPS)
            if y is not None:
                saved = tl.load(y + out, mask=inside, other=0.0).to(tl.float32)
            if mask is not None:
                positive = load_bits(mask, s, p, c, inside, SOURCE_HW, C, CHANNELS_LAST, TAPS)
            elif SLOPE is not None:
                positive = saved > 0
            else:
                positive = None
            if NORM == "none":
                dv = masked(g, positive, SLOPE)
            else:
                dv = norm_backward(g, saved, positive, r, dr, p, s < STEP, eps, C, SLOPE, NORM, EPS_INSIDE)
            tl.store(du + out, (dv * scale).to(du.dtype.element_ty), mask=inside)
            if sums is not None:
                total += dv
    if sums is not None:
        tl.store(sums + row * C + c, sum_pixels(total, BS, BC), mask=c < C)


@triton.jit
def masked_pool_kernel(
    g, mask, out, P, HW, STEP, SOURCE_HW, W, scale, C: tl.constexpr, SLOPE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """out has P pixels in planes of HW and rows of W; a step reads STEP pixels of g, whose planes have SOURCE_HW."""
    BS: tl.constexpr = 2 * BP if TAPS == 2 else BP
    block, first = place(C, BC)
    c = first + tl.arange(0, BC)
    s = block * BS + tl.arange(0, BS)
    inside = (s < STEP)[:, None] & (c < C)[None, :]
    total = tl.zeros([BP, BC], tl.float32)
    for tap in tl.static_range(TAPS):
        p = source(s, tap, W, TAPS)
        offsets = source_offsets(s, p, c, SOURCE_HW, C, CHANNELS_LAST, TAPS)
        v = tl.load(g + offsets, mask=inside, other=0.0).to(tl.float32)
        if mask is not None:
            v = masked(v, load_bits(mask, s, p, c, inside, SOURCE_HW, C, CHANNELS_LAST, TAPS), SLOPE)
        total += add_pairs(v, TAPS, BP, BC)
    total *= 0.25 * scale
    q = block * BP + tl.arange(0, BP)
    inside = (q < P)[:, None] & (c < C)[None, :]
    tl.store(out + tile_offsets(q, c, HW, C, CHANNELS_LAST), total.to(out.dtype.element_ty), mask=inside)


def as_rows(shape: tuple[int, ...], channels_last: bool) -> bool:
    """Whether a dense image of `shape` [N, C, H, W] is [N * H * W, C] in memory: so are one channel, and 1x1 planes."""
    _, c, h, w = shape
    return channels_last or c == 1 or h * w == 1


class Tiling(NamedTuple):
    """How a launch covers `small` [N, C, H, W], the image without the 2x2 blocks of a pooled form."""

    sizes: tuple[int, int, int, int, int]  # P, HW, STEP, SOURCE_HW and W of the kernels
    blocks: int  # of pixels
    channel_blocks: int
    options: dict[str, Any]  # C, CHANNELS_LAST, TAPS, BP, BC and num_warps


@functools.lru_cache(4096)  # asked for at every call
def tiling(large: tuple[int, ...], channels_last: bool, norm: str, pool: bool) -> Tiling:
    """The tiles for a dense image of shape `large` [N, C, H, W]; with pool what is tiled has half its height and width.

    The memory's dimension comes first: rows of at most 128 channels, planes of at most 512 pixels. With a norm BC spans
    all channels, and in planes BP is at least 16 (32 bytes of half precision) where 32 elements per thread allow it.
    With pool BC is at least 8: a byte of the mask belongs to one program.
    """
    n, c, h, w = large
    rows = as_rows(large, channels_last)
    taps = 1 if not pool else 4 if rows else 2
    if pool:
        h, w = h // 2, w // 2
    step = 2 if taps == 2 else 1  # pixels of the large image side by side in a step, per pixel of the small one
    bc = max(8 if pool else 1, power_of_2(c))
    if norm == "none":
        bc = min(bc, 128 if rows else max(8, ELEMENTS // min(512, power_of_2(step * h * w))))
    bp = max(1, ELEMENTS // (bc * step))
    if norm != "none" and not rows:
        bp = max(bp, min(16, 4 * ELEMENTS // bc))
    warps = min(16, max(4, bp * bc * step // 1024))
    options = {"C": c, "CHANNELS_LAST": rows, "TAPS": taps, "BP": bp, "BC": bc, "num_warps": warps}
    sizes = (n * h * w, h * w, step * n * h * w, (4 if pool else 1) * h * w, w)
    return Tiling(sizes, cdiv(n * h * w, bp), cdiv(c, bc), options)


def bias_act_forward(
    u: Tensor, bias: Tensor | None, y: Tensor, r: Tensor | None, mask: Tensor | None, *, channels_last: bool,
    pool: bool, scale: float, bias_scale: float, slope: float | None, norm: str, eps: float, eps_inside: bool,
) -> None:  # fmt: skip
    """y, and r and the mask where given, of u.

    Args:
        u: dense [N, C, H, W] in y's memory format, or with channels_last partial sums [S, N, H, W, C], in any dtype,
            which are added in order. y may be u itself, or its first part, except with pool.
        bias: [C] in any dtype, or None.
        y: [N, C, H, W], or with pool half its height and width.
        r: float32 [N, 1, H, W], exactly where there is a norm; pool has none.
        mask: of v > 0, or None.
    """
    splits = u.shape[0] if u.ndim == 5 else 1
    if u.ndim == 5 and not as_rows(y.shape, channels_last):
        raise ValueError(
            f"y: expected channels_last, as the partial sums {tuple(u.shape)} are, got {tuple(y.shape)} without it"
        )
    t = tiling(y.shape if u.ndim == 5 else u.shape, channels_last, norm, pool)
    launch(
        forward_kernel, (t.blocks * t.channel_blocks,), u, bias, y, r, mask, *t.sizes, y.numel(), scale, bias_scale,
        eps, SPLITS=splits, SLOPE=slope, NORM=norm, EPS_INSIDE=eps_inside, **t.options,
    )  # fmt: skip


def bias_act_rows(du: Tensor, channels_last: bool, norm: str, pool: bool) -> int:
    """How many rows of sums of dv `bias_act_backward` writes: by the shape alone, so that all devices add alike."""
    return min(MAX_ROWS, tiling(du.shape, channels_last, norm, pool).blocks)


def bias_act_backward(
    dy: Tensor, dr: Tensor | None, y: Tensor | None, r: Tensor | None, mask: Tensor | None, du: Tensor,
    sums: Tensor | None, *, channels_last: bool, pool: bool, scale: float, slope: float | None, norm: str, eps: float,
    eps_inside: bool,
) -> None:  # fmt: skip
    """du of dy, and sums of dv over pixels.

    Args:
        dy: dense [N, C, H, W].
        dr, r: float32 [N, 1, H, W]; r exactly where there is a norm.
        y: like dy; not read, and may be None, where there is a mask, or neither a slope nor a norm.
        mask: like du, or None.
        du: like dy, or with pool twice its height and width; may be dy itself except with pool.
        sums: float32 [bias_act_rows(...), C] for the caller to add, or None.
    """
    t = tiling(du.shape, channels_last, norm, pool)
    rows = t.blocks if sums is None else sums.shape[0]
    if norm == "none" and (mask is not None or slope is None):
        y = None
    launch(
        backward_kernel, (rows * t.channel_blocks,), dy, dr, y, r, mask, du, sums, *t.sizes, rows,
        cdiv(t.blocks, max(1, rows)), scale, eps, SLOPE=slope, NORM=norm, EPS_INSIDE=eps_inside, **t.options,
    )  # fmt: skip


def masked_pool(
    g: Tensor, mask: Tensor | None, out: Tensor, *, channels_last: bool, scale: float, slope: float | None
) -> None:
    """out [N, C, H, W]: scale times the 2x2 mean of dense g, times the slope where the mask's bit is clear."""
    t = tiling(g.shape, channels_last, "none", True)
    launch(
        masked_pool_kernel, (t.blocks * t.channel_blocks,), g, mask, out, *t.sizes, scale, SLOPE=slope, **t.options
    )  # fmt: skip
