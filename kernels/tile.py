"""What the kernels share: addresses of [pixels, channels] tiles, and the epilogue of a layer in registers."""

import triton
import triton.language as tl


@triton.jit
def tile_offsets(p, c, HW, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """int64 element offsets [BP, BC] of pixels `p` (int64, of N * HW) and channels `c` in a dense [N, C, H, W]."""
    if CHANNELS_LAST:
        return p[:, None] * C + c[None, :]
    n = p // HW
    return (n * C * HW + (p - n * HW))[:, None] + c.to(tl.int64)[None, :] * HW


@triton.jit
def leaky(v, SLOPE: tl.constexpr):
    """Leaky ReLU; SLOPE None is linear. Zero counts as negative, as in torch."""
    if SLOPE is not None:  # no return here: the code after it would be compiled all the same
        v = tl.where(v > 0, v, v * SLOPE)
    return v


@triton.jit
def reciprocal_rms(v, C: tl.constexpr, eps, EPS_INSIDE: tl.constexpr):
    """[BP] from v [BP, BC], whose columns past C are zero: rsqrt(mean + eps), or 1 / (sqrt(mean) + eps)."""
    mean = tl.sum(v * v, axis=1) / C
    if EPS_INSIDE:
        return 1.0 / tl.sqrt(mean + eps)
    return 1.0 / (tl.sqrt(mean) + eps)


@triton.jit
def activate(v, C: tl.constexpr, SLOPE: tl.constexpr, NORM: tl.constexpr, eps, EPS_INSIDE: tl.constexpr):
    """(y [BP, BC], r [BP], which is zero and unused where NORM is "none") of pre-activations v.

    v's columns past C have to be zero. NORM: "none", "after_act" (official) or "before_act".
    """
    if NORM == "before_act":
        r = reciprocal_rms(v, C, eps, EPS_INSIDE)
        y = leaky(v * r[:, None], SLOPE)
    elif NORM == "after_act":
        y = leaky(v, SLOPE)
        r = reciprocal_rms(y, C, eps, EPS_INSIDE)
        y = y * r[:, None]
    else:
        y = leaky(v, SLOPE)
        r = tl.zeros([v.shape[0]], tl.float32)  # None cannot be returned from compiled code
    return y, r
