"""Bad input of every op: which exception, and the words that its message must hold. The reference backend included."""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from typing import Any

import grid
import numpy as np
import public_ops
import pytest
import torch

from pggan_fast import ops, reference
from pggan_fast.ops import Scaled, _checks

T = torch.zeros


def good(op: str) -> dict[str, Any]:
    """Arguments that `op` takes."""
    layer = {"bias": T(4), "negative_slope": 0.2, "pixel_norm": "after_act", "eps": 1e-8}
    return {
        "scaled_conv2d": {"x": T(2, 3, 4, 4), "weight": T(4, 3, 3, 3), "weight_scale": 0.5, **layer},
        "bias_act": {"x": T(2, 4, 4, 4), "scale": 0.5, "bias_scale": 0.5, "eps_mode": "inside", **layer},
        "scaled_linear": {"x": T(2, 3), "weight": T(4, 3), "weight_scale": 0.5, "bias_scale": 1.0, **layer},
        "pixel_norm": {"x": T(2, 3, 4, 4), "eps": 1e-8},
        "fade_in": {"low": T(2, 3, 2, 2), "high": T(2, 3, 4, 4), "alpha": 0.5},
        "fade_reals": {"image": T(2, 3, 4, 4), "alpha": 0.5},
        "to_rgb_fade_in": {
            "x_low": T(2, 5, 2, 2), "x_high": T(2, 4, 4, 4), "w_low": T(3, 5, 1, 1), "b_low": T(3),
            "w_high": T(3, 4, 1, 1), "b_high": T(3), "alpha": 0.5, "weight_scale_low": 0.5, "weight_scale_high": 0.5,
        },
        "from_rgb_fade_in": {
            "image": T(2, 3, 4, 4), "high": T(2, 5, 2, 2), "w_low": T(5, 3, 1, 1), "b_low": T(5), "alpha": 0.5,
            "weight_scale": 0.5,
        },
        "generator_stage": {
            "x": T(2, 3, 2, 2), "conv_up": Scaled(T(4, 3, 3, 3)), "conv": Scaled(T(4, 4, 3, 3)),
            "to_rgb": Scaled(T(3, 4, 1, 1)), "to_rgb_low": Scaled(T(3, 3, 1, 1)), "alpha": 0.5, "eps": 1e-8,
        },
        "discriminator_stem": {
            "image": T(2, 3, 4, 4), "from_rgb": Scaled(T(5, 3, 1, 1)), "conv": Scaled(T(4, 5, 3, 3)),
        },
        "minibatch_stddev": {"x": T(4, 3, 2, 2), "group_size": 4, "grouping": "strided", "eps": 1e-8},
    }[op]  # fmt: skip


OPS = ("scaled_conv2d", "bias_act", "scaled_linear", "pixel_norm", "fade_in", "fade_reals", "to_rgb_fade_in",
       "from_rgb_fade_in", "minibatch_stddev", "generator_stage", "discriminator_stem")  # fmt: skip

Row = tuple[str, str, Any, type[Exception], tuple[str, ...]]


def shared(op: str) -> list[Row]:
    """What holds for every argument of a kind."""
    rows: list[Row] = [(op, "backend", "cudnn", ValueError, ("backend", "cudnn", "aten"))]
    for name, value in good(op).items():
        if isinstance(value, torch.Tensor):
            on_meta = value.to("meta")
            rows.append((op, name, value.tolist(), TypeError, (name, "list", "tensor")))
            rows.append((op, name, value.to(torch.int64), TypeError, (name, "int64", "float32")))
            rows.append((op, name, value.to(torch.complex64), TypeError, (name, "complex64")))
            rows.append((op, name, value[None], ValueError, (name, "-D")))
            rows.append((op, name, value.to_sparse(), TypeError, (name, "dense", "sparse_coo")))
            if name not in ("x", "image"):  # the first one decides where all have to be
                rows.append((op, name, on_meta, ValueError, ("expected a tensor on", "meta")))
        elif isinstance(value, float) and name != "alpha":
            rows += [(op, name, bad, ValueError, (name, "finite")) for bad in (math.nan, math.inf, -math.inf)]
            rows.append((op, name, T(()), TypeError, (name, "Tensor", "float")))
            rows.append((op, name, "1", TypeError, (name, "str", "float")))
        elif name == "alpha":
            rows += [
                (op, name, math.nan, ValueError, (name, "nan")),
                (op, name, "1", ValueError, (name, "'1'", "number")),
                (op, name, T(1), ValueError, (name, "0-d", "(1,)")),
                (op, name, T((), dtype=torch.int64), ValueError, (name, "int64")),
                (op, name, T(()).requires_grad_(), ValueError, (name, "requires_grad")),
                (op, name, T((), device="meta"), ValueError, (name, "meta", "cpu")),
            ]
    return rows


SPECIFIC: list[Row] = [
    ("scaled_conv2d", "x", T(2, 5, 4, 4), ValueError, ("weight", "5 input channels", "got 3")),
    ("scaled_conv2d", "x", T(2, 3, 4, 4).half().double(), TypeError, ("weight", "float64", "float32")),
    ("scaled_conv2d", "x", T(2, 3, 0, 4), ValueError, ("x", "one pixel", "0x4")),
    ("scaled_conv2d", "weight", T(0, 3, 3, 3), ValueError, ("weight", "one input and output channel", "(0, 3, 3, 3)")),
    ("scaled_conv2d", "weight", T(4, 3, 4, 4), ValueError, ("weight", "1x1 or 3x3", "4x4")),
    ("scaled_conv2d", "weight", T(4, 3, 1, 3), ValueError, ("weight", "1x3")),
    ("scaled_conv2d", "weight", T(4, 3, 3, 3).half(), TypeError, ("weight", "float16", "float32")),
    (
        "scaled_conv2d",
        "x",
        T(2, 3, 4, 4).double(),
        TypeError,
        ("weight, x", ".to(torch.float32)", ".to(torch.float64)"),
    ),
    ("scaled_conv2d", "bias", T(4).half(), TypeError, ("bias of float16", "x of float32", "autocast")),
    ("scaled_conv2d", "bias", T(3), ValueError, ("bias", "4 elements", "got 3")),
    ("scaled_conv2d", "bias", T(4).double(), TypeError, ("bias", "float64")),
    ("scaled_conv2d", "resample", "half", ValueError, ("resample", "'half'", "'pool'")),
    ("scaled_conv2d", "negative_slope", -0.2, ValueError, ("negative_slope", "-0.2", "[0, 1]")),
    ("scaled_conv2d", "negative_slope", 1.5, ValueError, ("negative_slope", "1.5")),
    ("scaled_conv2d", "negative_slope", True, TypeError, ("negative_slope", "bool")),
    ("scaled_conv2d", "pixel_norm", "batch", ValueError, ("pixel_norm", "'batch'", "'after_act'")),
    ("scaled_conv2d", "eps_mode", "under", ValueError, ("eps_mode", "'under'", "'outside'")),
    ("scaled_conv2d", "eps", -1e-8, ValueError, ("eps", ">= 0")),
    ("bias_act", "x", T(2, 4, 4), ValueError, ("x", "2-D or 4-D", "(2, 4, 4)")),
    ("bias_act", "x", T(2, 4, 4, 4).double(), TypeError, ("bias, x", "float32", "float64")),
    ("bias_act", "bias", T(5), ValueError, ("bias", "4 elements", "got 5")),
    ("bias_act", "pixel_norm", None, ValueError, ("pixel_norm", "None")),
    ("scaled_linear", "x", T(2, 5), ValueError, ("weight", "5 columns", "got 3")),
    ("scaled_linear", "weight", T(0, 3), ValueError, ("weight", "one row and column", "(0, 3)")),
    ("scaled_linear", "weight", T(4, 3).half(), TypeError, ("weight", "float16")),
    ("scaled_linear", "bias", T(3), ValueError, ("bias", "4 elements", "got 3")),
    ("scaled_linear", "negative_slope", 2.0, ValueError, ("negative_slope", "2.0")),
    ("pixel_norm", "eps", -1.0, ValueError, ("eps", ">= 0")),
    ("fade_in", "low", T(2, 3, 3, 2), ValueError, ("low", "(2, 3, 4, 4)", "(2, 3, 3, 2)")),
    ("fade_in", "low", T(2, 4, 2, 2), ValueError, ("low", "(2, 4, 2, 2)")),
    ("fade_in", "low", T(1, 3, 2, 2), ValueError, ("low", "(1, 3, 2, 2)")),
    ("fade_in", "low", T(2, 3, 2, 2).half(), TypeError, ("low", "float16", "float32")),
    ("fade_in", "high", T(2, 3, 4, 4).double(), TypeError, ("low, high", "float32", "float64", ".to()", "autocast")),
    ("fade_in", "high", T(2, 3, 5, 5), ValueError, ("high", "even", "5x5")),
    ("fade_reals", "image", T(2, 3, 3, 4), ValueError, ("image", "even", "3x4")),
    ("to_rgb_fade_in", "x_low", T(2, 5, 4, 4), ValueError, ("x_low", "half", "4x4")),
    ("to_rgb_fade_in", "x_low", T(1, 5, 2, 2), ValueError, ("x_low", "batch 2")),
    ("to_rgb_fade_in", "x_low", T(2, 5, 2, 2).half(), TypeError, ("x_low", "float16")),
    ("to_rgb_fade_in", "w_low", T(3, 4, 1, 1), ValueError, ("w_low", "5 input channels", "x_low")),
    ("to_rgb_fade_in", "w_low", T(1, 5, 1, 1), ValueError, ("w_low", "3 output channels", "got 1")),
    ("to_rgb_fade_in", "w_high", T(3, 4, 3, 3), ValueError, ("w_high", "1x1", "3x3")),
    ("to_rgb_fade_in", "b_high", T(4), ValueError, ("b_high", "3 elements", "got 4")),
    ("from_rgb_fade_in", "image", T(2, 3, 5, 4), ValueError, ("image", "even", "5x4")),
    ("from_rgb_fade_in", "high", T(2, 5, 4, 4), ValueError, ("high", "(2, 5, 2, 2)", "(2, 5, 4, 4)")),
    ("from_rgb_fade_in", "high", T(2, 5, 2, 2).half(), TypeError, ("high", "float16")),
    ("from_rgb_fade_in", "b_low", T(5).bfloat16(), TypeError, ("b_low, image", "bfloat16", "float32")),
    ("from_rgb_fade_in", "w_low", T(5, 3, 3, 3), ValueError, ("w_low", "1x1", "3x3")),
    ("from_rgb_fade_in", "b_low", T(3), ValueError, ("b_low", "5 elements", "got 3")),
    ("from_rgb_fade_in", "negative_slope", -1.0, ValueError, ("negative_slope", "-1.0")),
    ("from_rgb_fade_in", "negative_slope", None, TypeError, ("negative_slope", "NoneType")),
    ("generator_stage", "conv", Scaled(T(4, 4, 3, 3).half()), TypeError, ("conv.weight, x", "float16")),
    ("generator_stage", "x", T(2, 3, 2, 2).double(), TypeError, ("conv_up.weight, x", "x of float64")),
    ("discriminator_stem", "image", T(2, 3, 4, 4).double(), TypeError, ("from_rgb.weight, image", "image of float64")),
    ("minibatch_stddev", "group_size", 3, ValueError, ("group_size 3", "got 4 samples")),
    ("minibatch_stddev", "group_size", 0, ValueError, ("group_size", ">= 1", "0")),
    ("minibatch_stddev", "group_size", 2.0, ValueError, ("group_size", "2.0")),
    ("minibatch_stddev", "grouping", "random", ValueError, ("grouping", "'random'", "'adjacent'")),
    ("minibatch_stddev", "eps", -1.0, ValueError, ("eps", ">= 0")),
]
ROWS = [row for op in OPS for row in shared(op)] + SPECIFIC


def describe(row: Row) -> str:
    op, name, value, *_ = row
    shown = f"{value.dtype}{tuple(value.shape)}{value.device}" if isinstance(value, torch.Tensor) else str(value)[:20]
    return f"{op}-{name}-{shown}"


def test_every_op_is_in_the_table() -> None:
    assert {*OPS, "no_weight_grads", "Scaled"} == set(ops.__all__)


@pytest.mark.parametrize("backend", [None, "reference", *grid.BACKENDS_UNDER_TEST])
@pytest.mark.parametrize("op", OPS)
def test_good_input_is_good(op: str, backend: str | None) -> None:
    getattr(ops, op)(**good(op), backend=backend)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("row", ROWS, ids=describe)
def test_bad_input_is_named(row: Row, backend: str | None) -> None:
    op, name, value, kind, words = row
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(ops, op)(**{"backend": backend, **good(op), name: value})
    assert caught.type is kind, caught.value
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in {str(caught.value)!r}"


@pytest.mark.parametrize("backend", ["reference", *grid.BACKENDS_UNDER_TEST])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wide", [(), ("weight",), ("bias",), ("weight", "bias")])
def test_any_parameter_may_be_float32_beside_half_data(backend: str, half: torch.dtype, wide: tuple[str, ...]) -> None:
    arguments = good("scaled_conv2d")
    tensors = {k: arguments[k].to(torch.float32 if k in wide else half) for k in ("x", "weight", "bias")}
    leaves = {k: t.requires_grad_() for k, t in tensors.items()}
    y = ops.scaled_conv2d(**{**arguments, **leaves, "backend": backend})
    assert y.dtype == half
    y.sum().backward()
    assert all(t.grad is not None and t.grad.dtype == t.dtype for t in leaves.values())


@pytest.mark.parametrize("backend", ["reference", *grid.BACKENDS_UNDER_TEST])
def test_no_channels_are_no_layer(backend: str) -> None:
    """torch's convolution returns [N, 0, H, W] there, whatever the weight's output channels."""
    with pytest.raises(ValueError, match=r"weight: expected at least one .* \(4, 0, 3, 3\)"):
        ops.scaled_conv2d(T(2, 0, 4, 4), T(4, 0, 3, 3), weight_scale=1.0, backend=backend)


@pytest.mark.parametrize("resample", ["down", "pool"])
def test_odd_sizes_cannot_be_halved(resample: str) -> None:
    arguments = {**good("scaled_conv2d"), "x": T(2, 3, 5, 4), "resample": resample}
    with pytest.raises(ValueError, match=rf'x: resample="{resample}" needs even height and width, got 5x4'):
        ops.scaled_conv2d(**arguments)


@pytest.mark.parametrize(("n", "group"), [(4, 1), (1, 4)])
def test_the_unbiased_deviation_of_one_sample_is_refused(n: int, group: int) -> None:
    with pytest.raises(ValueError, match=r"unbiased: .*1 sample"):
        ops.minibatch_stddev(T(n, 3, 2, 2), group, unbiased=True)


@pytest.mark.parametrize("dtype", grid.DTYPES, ids=str)
@pytest.mark.parametrize("weights", grid.DTYPES, ids=str)
def test_a_network_takes_its_own_dtype_or_half_beside_float32(dtype: torch.dtype, weights: torch.dtype) -> None:
    x, layer = T(1, 3, dtype=dtype), torch.nn.Linear(3, 2, dtype=weights)
    if dtype == weights or (dtype in grid.HALF and weights == torch.float32):
        _checks.network_input("image", x, layer)
    else:
        names = (str(t).removeprefix("torch.") for t in (weights, dtype))
        with pytest.raises(
            TypeError, match="^image: expected {} as the network's parameters have, got {};".format(*names)
        ):
            _checks.network_input("image", x, layer)
    _checks.network_input("image", x, torch.nn.ReLU())


def test_a_table_row_without_the_error_would_fail() -> None:
    """The table's test on good input: it does not raise."""
    with pytest.raises(pytest.fail.Exception):
        test_bad_input_is_named(("pixel_norm", "eps", 1e-6, ValueError, ("eps",)), None)


CHANGES: list[tuple[str, str, Any]] = [
    # After the good call has passed, one that equals it but for this must be checked anew
    ("scaled_conv2d", "negative_slope", True),  # equal to 1.0, and of the same hash
    ("scaled_conv2d", "weight_scale", np.float32(0.5)),  # no Python float
    ("scaled_conv2d", "weight_scale", math.nan),
    ("scaled_conv2d", "bias", T(4).double()),
    ("scaled_conv2d", "bias", T(4, device="meta")),
    ("scaled_conv2d", "weight", T(4, 3, 3, 3).to_sparse()),
    ("scaled_conv2d", "weight", np.zeros((4, 3, 3, 3), np.float32)),
    ("scaled_conv2d", "x", T(2, 3, 4, 4).int()),
    ("scaled_conv2d", "resample", ["none"]),  # cannot be hashed
    ("bias_act", "x", T(2, 4, 4)),
    ("bias_act", "scale", True),
    ("scaled_linear", "eps", math.inf),
    ("fade_in", "low", T(2, 3, 2, 2).half()),
    ("minibatch_stddev", "unbiased", 0),
    ("minibatch_stddev", "group_size", 4.0),
]


@pytest.mark.parametrize(("op", "name", "value"), CHANGES)
def test_a_call_that_passed_lets_no_other_pass(op: str, name: str, value: Any) -> None:
    arguments = good(op)
    if op == "scaled_conv2d":
        arguments["negative_slope"] = 1.0
    if op == "bias_act":
        arguments["scale"] = 1.0
    getattr(ops, op)(**arguments)
    getattr(ops, op)(**arguments)
    with pytest.raises((TypeError, ValueError), match=name if name != "resample" else "resample: expected one of"):
        getattr(ops, op)(**{**arguments, name: value})


def test_a_check_runs_once_per_signature_and_keeps_no_tensor() -> None:
    runs: list[tuple[Any, ...]] = []
    check = _checks.once(tensors=2)(lambda *args: runs.append(args[2:]))
    x, b = T(2, 3), T(3)
    alive = [weakref.ref(x), weakref.ref(b)]
    for scalar in (1.0, 1.0, True, 1, "1"):
        check(x, b, scalar)
    assert runs == [(1.0,), (True,), (1,), ("1",)]
    for other in (T(2, 4), T(2, 3).double(), T(2, 3, device="meta"), torch.nn.Parameter(T(2, 3))):
        check(other, None, 1.0)
        check(other, None, 1.0)
    assert len(runs) == 8
    del x, b
    assert [r() for r in alive] == [None, None]


def test_a_check_that_failed_runs_again() -> None:
    runs = []

    @_checks.once(tensors=1)
    def check(x: torch.Tensor) -> None:
        runs.append(x)
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            check(T(2))
    assert len(runs) == 2


def test_signatures_take_a_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "_MOST_SIGNATURES", 3)
    runs: list[float] = []
    check = _checks.once(tensors=1)(lambda x, scalar: runs.append(scalar))
    for scalar in (0.0, 1.0, 2.0, 3.0, 0.0, 3.0):
        check(T(2), scalar)
    assert runs == [0.0, 1.0, 2.0, 3.0, 0.0]


class Named(torch.Tensor):
    pass


def test_subclasses_and_traced_sizes_are_checked_every_time() -> None:
    runs = []
    check = _checks.once(tensors=1)(lambda x: runs.append(x.shape))
    for _ in range(2):
        check(T(2).as_subclass(Named))
    assert len(runs) == 2

    def f(x: torch.Tensor) -> torch.Tensor:
        check(x)
        return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            torch.jit.trace(f, T(2), check_trace=False)
    assert len(runs) == 4


@pytest.mark.parametrize("name", [name for name in ops.__all__ if hasattr(reference, name)])
def test_what_is_not_given_is_what_the_reference_takes(name: str) -> None:
    ours, theirs = (
        {key: parameter.default for key, parameter in inspect.signature(getattr(m, name)).parameters.items()}
        for m in (ops, reference)
    )
    assert ours.pop("backend") is None
    assert ours == theirs


def test_the_ends_of_what_an_epilogue_takes() -> None:
    for slope in (None, 0.0, 0, 1.0, 1):
        _checks.epilogue(slope, "none", 0.0, "inside")
    for slope in (-1e-9, 1.0 + 1e-9):
        with pytest.raises(ValueError, match=r"negative_slope: expected a number in \[0, 1\] or None"):
            _checks.epilogue(slope, "none", 0.0, "inside")
    with pytest.raises(ValueError, match="eps: expected a number >= 0, got -1e-09"):
        _checks.epilogue(None, "none", -1e-9, "inside")


@pytest.mark.parametrize("name", public_ops.OPS)
def test_the_reference_backend_is_the_reference(name: str) -> None:
    op = public_ops.OPS[name]
    tensors = public_ops.draw(op)
    assert op.call(public_ops.By("reference"), **tensors).equal(op.call(reference, **tensors))
