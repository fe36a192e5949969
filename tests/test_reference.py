"""pggan_fast.reference against the numpy oracle, its gradients, and the facts that it rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ops
from oracle.compare import assert_close, difference, draw

from pggan_fast import reference

SIZES = [(1, 1), (3, 3), (1, 5), (5, 7), (4, 4), (6, 3)]
RESAMPLE = ["none", "up", "down", "pool"]
EPILOGUES = [
    {"negative_slope": slope, "pixel_norm": norm, "eps": eps, "eps_mode": mode}
    for slope, norm, (eps, mode) in itertools.product(
        [None, 0.2, 0.0], ["none", "after_act", "before_act"], [(1e-8, "inside"), (0.1, "inside"), (0.1, "outside")]
    )
    if norm != "none" or (eps, mode) == (1e-8, "inside")
]
ALPHAS = [-0.5, 0.0, 0.3, 1.0, 1.5]


def tensors(args: tuple[Any, ...]) -> list[Any]:
    return [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args]


def check(name: str, *args: Any, **options: Any) -> None:
    """The op `name` of both modules on the same float64 arguments."""
    got = getattr(reference, name)(*tensors(args), **options)
    assert got.dtype == torch.float64
    assert_close(got.numpy(), getattr(ops, name)(*args, **options))


def even(size: tuple[int, int], resample: str) -> tuple[int, int]:
    return (2 * size[0], 2 * size[1]) if resample in ("down", "pool") else size


# Every op, float64.


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("resample", RESAMPLE)
def test_scaled_conv2d(resample: str, epilogue: dict[str, Any]) -> None:
    for size, k, bias in itertools.product(SIZES, [1, 3], [True, False]):
        x, w, b = draw(2, 3, *even(size, resample)), draw(5, 3, k, k), draw(5) if bias else None
        check("scaled_conv2d", x, w, b, weight_scale=0.3, bias_scale=0.7, resample=resample, **epilogue)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 3),
    inp=st.integers(1, 9),
    out=st.integers(1, 9),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    k=st.sampled_from([1, 3]),
    resample=st.sampled_from(RESAMPLE),
    epilogue=st.sampled_from(EPILOGUES),
    seed=st.integers(0, 9),
)
def test_scaled_conv2d_of_any_shape(
    n: int, inp: int, out: int, height: int, width: int, k: int, resample: str, epilogue: dict[str, Any], seed: int
) -> None:
    x, w, b = draw(n, inp, *even((height, width), resample), seed=seed), draw(out, inp, k, k), draw(out)
    check("scaled_conv2d", x, w, b, weight_scale=0.3, resample=resample, **epilogue)


@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (2, 5, 1, 1), (2, 5, 3, 4), (0, 5, 2, 2)], ids=str)
def test_bias_act(shape: tuple[int, ...], epilogue: dict[str, Any]) -> None:
    check("bias_act", draw(*shape), draw(shape[1]), scale=0.4, bias_scale=1.7, **epilogue)
    check("bias_act", draw(*shape), **epilogue)


@pytest.mark.parametrize("norm", ["none", "after_act", "before_act"])
@pytest.mark.parametrize("slope", [None, 0.2])
@pytest.mark.parametrize(("n", "inp", "out"), [(3, 5, 7), (1, 1, 1), (0, 4, 2)])
def test_scaled_linear(n: int, inp: int, out: int, slope: float | None, norm: str) -> None:
    for b in (draw(out), None):
        options = {"bias_scale": 0.5, "negative_slope": slope, "pixel_norm": norm, "eps": 1e-3}
        check("scaled_linear", draw(n, inp), draw(out, inp), b, weight_scale=0.3, **options)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3),
    c=st.integers(1, 9),
    image=st.one_of(st.just(()), st.tuples(st.integers(1, 7), st.integers(1, 7))),
    eps=st.sampled_from([1e-8, 1e-4, 1.0]),
)
def test_pixel_norm(n: int, c: int, image: tuple[int, ...], eps: float) -> None:
    check("pixel_norm", draw(n, c, *image), eps)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 3),
    c=st.integers(1, 5),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    alpha=st.one_of(st.sampled_from(ALPHAS), st.floats(0, 1)),
)
def test_fades(n: int, c: int, height: int, width: int, alpha: float) -> None:
    low, high = draw(n, c, height, width), draw(n, c, 2 * height, 2 * width, seed=1)
    check("fade_in", low, high, alpha)
    check("fade_in", draw(n, c, height, width, seed=2), low, alpha)
    check("fade_reals", high, alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_rgb_fades(size: tuple[int, int], alpha: float, bias: bool) -> None:
    double = (2 * size[0], 2 * size[1])
    b_low, b_high = (draw(3), draw(3, seed=1)) if bias else (None, None)
    args = (draw(2, 7, *size), draw(2, 5, *double), draw(3, 7, 1, 1), b_low, draw(3, 5, 1, 1), b_high, alpha)
    scales = {"weight_scale_low": 0.3, "weight_scale_high": 0.4, "bias_scale_low": 0.5, "bias_scale_high": 0.6}
    check("to_rgb_fade_in", *args, **scales)
    args = (draw(2, 3, *double), draw(2, 5, *size), draw(5, 3, 1, 1), draw(5) if bias else None, alpha)
    for slope in (0.2, 0.1):
        check("from_rgb_fade_in", *args, weight_scale=0.3, bias_scale=0.7, negative_slope=slope)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 3),
    group=st.integers(2, 5),
    c=st.integers(1, 5),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    grouping=st.sampled_from(["strided", "adjacent"]),
    unbiased=st.booleans(),
    eps=st.sampled_from([1e-8, 0.1]),
)
def test_minibatch_stddev(
    groups: int, group: int, c: int, height: int, width: int, grouping: str, unbiased: bool, eps: float
) -> None:
    x = draw(groups * group, c, height, width)
    check("minibatch_stddev", x, group, grouping=grouping, unbiased=unbiased, eps=eps)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("grouping", ["strided", "adjacent"])
def test_minibatch_stddev_of_a_batch_below_the_group(n: int, grouping: str) -> None:
    check("minibatch_stddev", draw(n, 3, 2, 5), 4, grouping=grouping)


# Gradients: autograd of the reference against central differences of the oracle.


GRADIENT_CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    **{
        f"conv {resample} {norm}": (
            "scaled_conv2d",
            (draw(2, 2, 2, 4), draw(3, 2, 3, 3), draw(3)),
            {"weight_scale": 0.3, "resample": resample, "negative_slope": 0.2, "pixel_norm": norm},
        )
        for resample, norm in itertools.product(RESAMPLE, ["none", "after_act", "before_act"])
    },
    "bias_act outside": (
        "bias_act",
        (draw(2, 3, 2, 1), draw(3)),
        {"negative_slope": 0.2, "pixel_norm": "after_act", "eps": 0.1, "eps_mode": "outside"},
    ),
    "linear": ("scaled_linear", (draw(2, 3), draw(4, 3), draw(4)), {"weight_scale": 0.3, "negative_slope": 0.2}),
    "pixel_norm": ("pixel_norm", (draw(2, 3),), {}),
    "fade_in": ("fade_in", (draw(2, 3, 1, 2), draw(2, 3, 2, 4), 0.3), {}),
    "fade_reals": ("fade_reals", (draw(2, 3, 2, 4), 0.3), {}),
    "to_rgb_fade_in": (
        "to_rgb_fade_in",
        (draw(1, 3, 1, 2), draw(1, 2, 2, 4), draw(3, 3, 1, 1), draw(3), draw(3, 2, 1, 1), draw(3), 0.3),
        {"weight_scale_low": 0.3, "weight_scale_high": 0.4},
    ),
    "from_rgb_fade_in": (
        "from_rgb_fade_in",
        (draw(1, 3, 2, 4), draw(1, 2, 1, 2), draw(2, 3, 1, 1), draw(2), 0.3),
        {"weight_scale": 0.3},
    ),
    "minibatch_stddev strided": ("minibatch_stddev", (draw(4, 2, 1, 2), 2), {}),
    "minibatch_stddev adjacent": (
        "minibatch_stddev",
        (draw(4, 2, 1, 2), 2),
        {"grouping": "adjacent", "unbiased": True},
    ),
}


@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_against_central_differences(case: str) -> None:
    name, args, options = GRADIENT_CASES[case]
    leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in tensors(args)]
    out = getattr(reference, name)(*leaves, **options)
    cotangent = draw(*out.shape, seed=5)
    out.backward(torch.from_numpy(cotangent))
    for i, arg in enumerate(args):
        if not isinstance(arg, np.ndarray):
            continue

        def weighted_sum(value: np.ndarray, i: int = i) -> float:
            changed = (*args[:i], value, *args[i + 1 :])
            return float(np.sum(cotangent * getattr(ops, name)(*changed, **options)))

        assert_close(leaves[i].grad.numpy(), ops.numeric_gradient(weighted_sum, arg), 1e-7)


# Facts of the official code that are easy to get wrong.

X, W, B = draw(4, 3, 4, 6), draw(5, 3, 3, 3), draw(5)


def test_transposed_form_needs_the_flip() -> None:
    x, w = tensors((X, W))
    up = reference.scaled_conv2d(x, w, weight_scale=1.0, resample="up").numpy()
    for weight, same in ((w.flip(2, 3), True), (w, False)):
        kernel = torch.from_numpy(ops.box_sum(weight.numpy())).transpose(0, 1)  # [in, out, 4, 4], as torch has it
        found = difference(F.conv_transpose2d(x, kernel, stride=2, padding=1).numpy(), up)
        assert found < 1e-12 if same else found > 0.1


def test_strided_form_of_down_needs_no_flip() -> None:
    x, w = tensors((X, W))
    strided = F.conv2d(x, torch.from_numpy(ops.box_sum(W) / 4), stride=2, padding=1)
    assert_close(reference.scaled_conv2d(x, w, weight_scale=1.0, resample="down").numpy(), strided.numpy())


def test_down_and_pool_agree_only_where_nothing_bends() -> None:
    def conv(resample: str, slope: float | None) -> np.ndarray:
        x, w, b = tensors((X, W, B))
        return reference.scaled_conv2d(x, w, b, weight_scale=1.0, resample=resample, negative_slope=slope).numpy()

    assert difference(conv("pool", None), conv("down", None)) < 1e-12
    assert difference(conv("pool", 0.2), conv("down", 0.2)) > 0.05


def test_strided_groups_are_n_modulo_the_number_of_groups() -> None:
    """Samples 0, 2, 4, 6 are alike and 1, 3, 5, 7 differ from each other: only the even ones have deviation 0."""
    x = torch.zeros(8, 2, 3, 1, dtype=torch.float64)
    x[1::2] = torch.arange(4.0, dtype=torch.float64).view(4, 1, 1, 1)
    stddev = reference.minibatch_stddev(x)[:, 2, 0, 0]
    assert_close(stddev[0::2].numpy(), np.full(4, math.sqrt(1e-8)))
    assert_close(stddev[1::2].numpy(), np.full(4, math.sqrt(1.25 + 1e-8)))
    adjacent = reference.minibatch_stddev(x, grouping="adjacent", unbiased=True)[:, 2, 0, 0]
    assert difference(adjacent.numpy(), stddev.numpy()) > 0.1


def test_unbiased_deviation_is_larger_by_the_square_root_of_four_thirds() -> None:
    x = torch.from_numpy(X)
    biased, unbiased = (reference.minibatch_stddev(x, unbiased=u, eps=0.0)[:, 3].numpy() for u in (False, True))
    assert_close(unbiased, biased * math.sqrt(4 / 3))


def test_alpha_one_is_exactly_the_new_layer_and_zero_exactly_the_old() -> None:
    low, high = torch.from_numpy(draw(2, 3, 2, 3)), torch.from_numpy(draw(2, 3, 4, 6))
    for one in (1.0, 1.5, torch.tensor(1.0)):
        assert torch.equal(reference.fade_in(low, high, one), high)
    for zero in (0.0, -1.0, torch.tensor(0.0)):
        assert torch.equal(reference.fade_in(low, high, zero), torch.from_numpy(ops.up2(low.numpy())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pixel_norm_statistics_of_half_inputs_are_float32(dtype: torch.dtype) -> None:
    large = reference.pixel_norm(torch.full((1, 4, 2, 2), 300.0, dtype=dtype))
    assert large.dtype == dtype
    assert torch.equal(large, torch.ones_like(large)), "300^2 overflows float16"
    # mean(x^2) is about eps here, so that half of the denominator is eps: an eps lost in rounding gives 1 or infinity.
    small = reference.pixel_norm(torch.full((1, 4, 2, 2), 1e-4, dtype=dtype))
    assert_close(small.double().numpy(), np.full((1, 4, 2, 2), math.sqrt(0.5)), 4e-3)
    assert torch.equal(reference.pixel_norm(torch.zeros(1, 4, 2, 2, dtype=dtype)), torch.zeros(1, 4, 2, 2, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_minibatch_stddev_of_half_inputs_is_float32_inside(dtype: torch.dtype) -> None:
    x = torch.from_numpy(300 * np.sign(X)).to(dtype)  # squares overflow float16
    want = ops.minibatch_stddev(x.double().numpy())
    assert_close(reference.minibatch_stddev(x).double().numpy(), want, 4e-3)


# Seeded faults: the checks above have to fail when the reference is wrong.


def faulty_norm(x: torch.Tensor, eps: float = 1e-8, eps_mode: str = "inside") -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


FAULTS: dict[str, tuple[str, Callable[..., torch.Tensor], tuple[str, tuple[Any, ...], dict[str, Any]]]] = {
    "up2 shifted": (
        "up2",
        lambda x: F.interpolate(x, scale_factor=2, mode="nearest").roll(1, 2),
        ("scaled_conv2d", (X, W, B), {"weight_scale": 1.0, "resample": "up"}),
    ),
    "up2 bilinear": (
        "up2",
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        ("fade_in", (ops.down2(X), X, 0.3), {}),
    ),
    "down2 takes every second pixel": (
        "down2",
        lambda x: x[:, :, ::2, ::2],
        ("scaled_conv2d", (X, W, B), {"weight_scale": 1.0, "resample": "down"}),
    ),
    "down2 takes the maximum": ("down2", lambda x: F.max_pool2d(x, 2), ("fade_reals", (X, 0.3), {})),
    "mean over the width": ("pixel_norm", faulty_norm, ("pixel_norm", (X,), {})),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_checks_catch(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, mutant, (name, args, options) = FAULTS[fault]
    check(name, *args, **options)
    monkeypatch.setattr(reference, target, mutant)
    with pytest.raises(AssertionError, match="relative difference"):
        check(name, *args, **options)


@pytest.mark.parametrize(
    ("given_options", "true_options"),
    [
        ({"resample": "pool"}, {"resample": "down"}),
        ({"pixel_norm": "before_act"}, {"pixel_norm": "after_act"}),
        ({"pixel_norm": "after_act", "eps_mode": "outside"}, {"pixel_norm": "after_act"}),
        ({"pixel_norm": "after_act", "eps": 1e-4}, {"pixel_norm": "after_act"}),
        ({"negative_slope": 0.21}, {"negative_slope": 0.2}),
        ({"bias_scale": 0.3}, {"bias_scale": 1.0}),
    ],
    ids=str,
)
def test_options_are_told_apart(given_options: dict[str, Any], true_options: dict[str, Any]) -> None:
    base = {"weight_scale": 0.05, "negative_slope": 0.2}
    got = reference.scaled_conv2d(*tensors((X, W, B)), **{**base, **given_options})
    want = ops.scaled_conv2d(X, W, B, **{**base, **true_options})
    assert difference(got.numpy(), want) > 1e-9
