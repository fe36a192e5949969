"""bias_act's formulas, written once more for the tests of native kernels, and the comparison of one case with them."""

import torch
from kernel_checks import F64, accumulator, affine, assert_close, bits_of, blocks, leaky, norms, random_tensor, up2


def factor(v, eps, eps_mode):
    v = v.to(torch.promote_types(v.dtype, torch.float32))
    mean = (v * v).mean(1, keepdim=True)
    return 1 / (mean + eps).sqrt() if eps_mode == "inside" else 1 / (mean.sqrt() + eps)


def forward_formula(u, bias, scale, bias_scale, slope, norm, eps, eps_mode, pool):
    """y of bias_act."""
    v = affine(u, bias, scale, bias_scale)
    if norm == "before_act":
        v = (v * factor(v, eps, eps_mode)).to(u.dtype)
    v = leaky(v, slope)
    if norm == "after_act":
        v = (v * factor(v, eps, eps_mode)).to(u.dtype)
    return blocks(v).mean((3, 5)) if pool else v


def factor_formula(u, bias, scale, bias_scale, slope, norm, eps, eps_mode, pool):
    v = affine(u, bias, scale, bias_scale)
    return factor(leaky(v, slope) if norm == "after_act" else v, eps, eps_mode)


def backward_formula(dy, dr, y, r, positive, slope, norm, eps, eps_mode, pool):
    """dv of bias_act: the derivative before `scale`, from what the forward pass saved."""
    s = 1.0 if slope is None else slope
    masked = lambda g, factor: torch.where(positive, g, g * factor)  # noqa: E731
    if norm == "none":
        return masked(up2(dy) / 4 if pool else dy, s)
    wide = torch.promote_types(dy.dtype, torch.float32)
    dy, y = dy.to(wide), y.to(wide)
    k = 1 if eps_mode == "inside" else 1 / (1 - eps * r)
    t = k * (r * (dy * y).mean(1, keepdim=True) + (0 if dr is None else dr * r**2 / dy.shape[1]))
    return masked(r * dy - y * t, s) if norm == "after_act" else r * masked(dy, s) - masked(y, 1 / s) * t


def check_forward(backend, args):
    """`backend`'s (y, r, mask) of bias_act_forward's arguments, compared with the formulas."""
    u, bias, scale, bias_scale, slope, norm, _, _, pool = args
    y, r, mask = backend.bias_act_forward(*args)
    assert_close(y, forward_formula, *args)
    assert y.dtype == u.dtype
    assert (r is None) == (norm == "none")
    if r is not None:
        assert_close(r, factor_formula, *args)
        assert r.dtype == accumulator(u.dtype)
        assert r.is_contiguous()
    assert (mask is None) == (not pool or slope is None)
    if mask is not None and mask.numel():
        v = affine(u.to(F64), None if bias is None else bias.to(F64), scale, bias_scale)
        wrong = bits_of(mask, u.shape[1]) != (v > 0)
        assert (v[wrong].abs() < 1e-5).all()
    return y, r, mask


def check_backward(backend, y, r, mask, args, with_dr, need_bias, sum_error=norms):
    """bias_act_backward of what check_forward returned for `args`, compared with the formulas.

    sum_error(dv) is the magnitude of which db may be off by a rounding.
    """
    u, _, scale, bias_scale, slope, norm, eps, eps_mode, pool = args
    last = torch.contiguous_format if u.is_contiguous() else torch.channels_last
    dy = random_tensor(*y.shape, dtype=y.dtype, memory_format=last, seed=2)
    dr = random_tensor(*r.shape, dtype=r.dtype, seed=3) if with_dr and r is not None else None
    du, db = backend.bias_act_backward(
        dy, dr, y, r, mask, scale, bias_scale, slope, norm, eps, eps_mode, pool, need_bias
    )  # fmt: skip
    if mask is not None and mask.numel():
        positive = bits_of(mask, u.shape[1])
    else:
        positive = torch.ones(u.shape, dtype=torch.bool) if pool else y > 0
    saved = (dy, dr, y, r, positive)

    def du_formula(*saved):
        return scale * backward_formula(*saved, slope, norm, eps, eps_mode, pool)

    def db_formula(*saved):
        dv = backward_formula(*saved, slope, norm, eps, eps_mode, pool)
        return bias_scale * dv.to(accumulator(dv.dtype)).sum((0, 2, 3))

    assert_close(du, du_formula, *saved)
    assert du.dtype == y.dtype
    assert (db is not None) == need_bias
    if db is not None:
        assert db.dtype == accumulator(y.dtype)
        dv = backward_formula(*saved, slope, norm, eps, eps_mode, pool).to(F64)
        assert_close(db, db_formula, *saved, magnitude=bias_scale * sum_error(dv) if dv.numel() else 0.0)


def sizes(dv):
    """Triton's interpreter adds pixels in sequential runs, where a GPU and torch add in a tree: there a sum that is off
    by one rounding of its terms' sizes is no fault of the kernel."""
    return dv.abs().sum((0, 2, 3)).max().item()


def bias_of(kind, c, dtype):
    return None if kind is None else random_tensor(c, dtype=dtype if kind == "same" else torch.float32, seed=1)


def check_triton(u, bias, slope, norm, mode, pool, with_dr, need_bias):
    """Forward and, where it is supported, backward pass of the backend "triton"."""
    from pggan_fast.backends.triton import epilogue

    args = (u, bias, 0.7, 1.3, slope, norm, 0.05, mode, pool)
    saved = check_forward(epilogue, args)
    if norm != "before_act" or slope != 0.0:
        check_backward(epilogue, *saved, args, with_dr, need_bias, sizes)
