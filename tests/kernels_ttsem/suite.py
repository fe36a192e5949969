"""Run by `python -m ttsem.sanitize pytest`, see test_sanitized.py: every op once, forward and backward, on odd shapes.

ttsem executes Triton's IR on the CPU and fails a launch that leaves its tensors or in which programs race. The results
are compared with the reference too, which also shows that the kernels ran.
"""

from __future__ import annotations

import pytest
import torch
from static.gate import CHIPS
from static.model_launches import triton_forced

from pggan_fast import ops, reference

FORMATS = {"channels_last": torch.channels_last, "planes": torch.contiguous_format}
# A slope of 1 takes the whole path of a leaky ReLU, and no rounding puts an element on the other side of its kink.
NORMS = ("none", "after_act", "before_act")


@pytest.fixture(autouse=True)
def exact():
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # ttsem rounds as TF32 does
    yield
    torch.backends.cudnn.conv.fp32_precision = before


def random(*shape, form="planes", dtype=torch.float32):
    return (
        torch.randn(shape).to(dtype).contiguous(memory_format=FORMATS[form] if len(shape) == 4 else FORMATS["planes"])
    )


def layer(form, dtype, c=5, k=3, **options):
    x = random(2, c, 6, 6, form=form, dtype=dtype)
    return "scaled_conv2d", [x, random(7, c, k, k), random(7)], {"weight_scale": 0.2, "negative_slope": 1.0, **options}


def epilogue(form, dtype, norm):
    x = random(2, 5, 3, 7, form=form, dtype=dtype)
    return "bias_act", [x, random(5)], {"negative_slope": 1.0, "pixel_norm": norm}


CASES = {
    **{f"layer {how}": lambda f, d, how=how: layer(f, d, resample=how) for how in ("none", "up", "down", "pool")},
    **{f"layer {norm}": lambda f, d, norm=norm: layer(f, d, pixel_norm=norm) for norm in NORMS[1:]},
    "layer of one tap": lambda f, d: layer(f, d, k=1),
    **{f"epilogue {norm}": lambda f, d, norm=norm: epilogue(f, d, norm) for norm in NORMS},
    "fade in up": lambda f, d: ("fade_in", [random(2, 3, 3, 5, form=f, dtype=d), random(2, 3, 6, 10, form=f, dtype=d)]),
    "fade in same": lambda f, d: ("fade_in", [random(2, 3, 3, 5, form=f, dtype=d) for _ in range(2)]),
    "fade reals": lambda f, d: ("fade_reals", [random(2, 3, 6, 10, form=f, dtype=d)]),
    "stddev": lambda f, d: ("minibatch_stddev", [random(4, 5, 3, 3, form=f, dtype=d)], {"group_size": 2}),
    "to rgb": lambda f, d: (
        "to_rgb_fade_in",
        [random(2, 9, 3, 5, form=f, dtype=d), random(2, 5, 6, 10, form=f, dtype=d),
         random(3, 9, 1, 1), random(3), random(3, 5, 1, 1), random(3)],
        {"weight_scale_low": 0.5, "weight_scale_high": 0.5},
    ),
    "from rgb": lambda f, d: (
        "from_rgb_fade_in",
        [random(2, 3, 6, 10, form=f, dtype=d), random(2, 5, 3, 5, form=f, dtype=d), random(5, 3, 1, 1), random(5)],
        {"weight_scale": 0.5, "negative_slope": 1.0},
    ),
}  # fmt: skip
FADES = ("fade_in", "fade_reals", "to_rgb_fade_in", "from_rgb_fade_in")


def run(f, tensors, options):
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = f(*leaves, **options)
    torch.manual_seed(1)
    return [y.detach(), *torch.autograd.grad(y, leaves, torch.randn(y.shape).to(y.dtype))]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_no_access_leaves_its_tensor_and_no_programs_race(case, dtype, form):
    op, tensors, *rest = CASES[case](form, dtype)
    options = {**(rest[0] if rest else {}), **({"alpha": torch.tensor(0.3)} if op in FADES else {})}
    with triton_forced(CHIPS[80].shared_block):
        ours = run(getattr(ops, op), tensors, options)
    want = run(getattr(reference, op), [t.double() for t in tensors], options)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for got, expected in zip(ours, want, strict=True):
        error = (got.double() - expected).abs().max()
        assert error <= tolerance * max(1.0, float(expected.abs().max())), f"{op}: {error}"
