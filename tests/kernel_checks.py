"""What the tests of native kernels share: seeded inputs, the error bound, and the small formulas written once more."""

import random

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
FORMATS = (torch.contiguous_format, torch.channels_last)
F64 = torch.float64
HALVES = (torch.float16, torch.bfloat16)
ALLOWED = 1  # times the bound; more in tests/sanitizers, where loops are not vectorised and each sum is one chain


def shared(dtype, cases, seed):
    """All cases, or for a half-precision type its random half of them: the two types differ in conversions alone."""
    dealt = list(cases)
    random.Random(str(seed)).shuffle(dealt)
    return dealt[HALVES.index(dtype) :: 2] if dtype in HALVES else dealt


def accumulator(dtype):
    return F64 if dtype == F64 else torch.float32


def random_tensor(*shape, dtype=torch.float32, memory_format=torch.contiguous_format, seed=0):
    x = torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return x.to(dtype).contiguous(memory_format=memory_format if x.ndim == 4 else torch.contiguous_format)


def assert_close(ours, formula, *args, magnitude=0.0):
    """ours against formula(*args) in float64: at most twice the error of the same formula in torch in ours' dtype,
    plus one rounding of the largest result, or of `magnitude` if that is more. For float64 itself, 32 roundings."""
    wide = [a.to(F64) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    exact, same = formula(*wide), formula(*args)
    assert ours.shape == exact.shape
    assert torch.isfinite(ours).all(), "an element was not written"
    if ours.numel() == 0:
        return
    magnitude = max(exact.abs().max().item(), magnitude)
    roundings = 32 if ours.dtype == F64 else 1
    bound = 2 * (same.to(F64) - exact).abs().max() + roundings * torch.finfo(ours.dtype).eps * magnitude
    bound *= ALLOWED
    error = (ours.to(F64) - exact).abs().max()
    assert error <= bound, f"error {error:.3g}, allowed {bound:.3g}, magnitude {magnitude:.3g}"


def must_fail(*args):
    """A seeded fault: assert_close has to notice it."""
    try:
        assert_close(*args)
    except AssertionError:
        return
    raise AssertionError("the fault went unnoticed")


def leaky(v, slope):
    return v if slope is None else torch.where(v > 0, v, v * slope)


def affine(u, bias, scale, bias_scale):
    return u * scale if bias is None else u * scale + (bias * bias_scale).to(u.dtype).view(1, -1, 1, 1)


def blocks(x):
    """[N, C, H, W] -> [N, C, H/2, 2, W/2, 2]."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)


def up2(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def norms(dv):
    """What rounding every dv adds to a bias gradient is a random walk over the pixels; it rarely goes this far."""
    return 2 * dv.square().sum((0, 2, 3)).sqrt().max().item()


def bits_of(mask, channels):
    """uint8 [N, ceil(C/8), H, W] -> bool [N, C, H, W]."""
    n, _, h, w = mask.shape
    bits = torch.stack([mask >> k & 1 for k in range(8)], 2)
    assert not bits.flatten(1, 2)[:, channels:].any(), "bits beyond the last channel are zero"
    return bits.reshape(n, -1, h, w)[:, :channels].bool()


def poisoned(empty):
    """The allocator `empty`, with outputs that start as NaN (masks as ones): an element that is not written shows."""

    def fill(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(float("nan") if out.is_floating_point() else 0xFF)

    return fill


def relative_errors(got: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    """Root mean square, relative; infinite where an element was not written or a shape is wrong."""
    return [
        float((g.double() - e).norm() / e.norm()) if g.shape == e.shape and g.isfinite().all() else float("inf")
        for g, e in zip(got, exact, strict=True)
    ]
