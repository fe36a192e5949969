"""The grid itself: the covers are covers, the poison shows, and the judgement catches faults."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import grid
import pytest
import torch

from pggan_fast import ops
from pggan_fast.backends import layout, native, registry


def missing_pairs(axes: dict[str, Any], cases: list[grid.Case]) -> list[str]:
    missing = []
    for a, b in itertools.combinations(axes, 2):
        seen = {(case[a], case[b]) for case in cases}
        for value, other in itertools.product(axes[a], axes[b]):
            wide = any(k in ("cin", "cout", "channels") and v >= grid.WIDE for k, v in ((a, value), (b, other)))
            large = any(k == "size" and v > grid.FEW for k, v in ((a, value), (b, other)))
            if (value, other) not in seen and not (wide and large):
                missing.append(f"{a}={value}, {b}={other}")
    return missing


def test_every_public_op_has_a_grid() -> None:
    public = set(ops.__all__) - {"no_weight_grads", "Scaled"}
    assert {f"test_{name}" for name in public} == set(grid.FILES)


@pytest.mark.parametrize("name", grid.FILES)
def test_the_grid_is_a_pairwise_cover_of_at_most_400_cases(name: str) -> None:
    module = grid.load(name)
    assert len(module.CASES) <= 400
    missing = missing_pairs(module.AXES, module.CASES)
    if name == "test_minibatch_stddev":  # the unbiased deviation of one sample is undefined
        missing = [m for m in missing if m not in ("batch=(1, 4), unbiased=True", "batch=(5, 1), unbiased=True")]
    assert not missing


def test_the_convolution_grid_has_the_axes_of_the_design() -> None:
    axes = grid.load("test_scaled_conv2d").AXES
    assert axes["cin"] == axes["cout"] == (1, 3, 16, 24, 32, 48, 64, 128, 512)
    assert axes["size"] == (1, 4, 5, 7, 8, 33, 64)
    assert {len(axes[k]) for k in ("dtype", "layout", "resample", "slope")} == {4}
    assert axes["norm"] == ("none", "after_act", "before_act")


def test_a_cover_without_one_case_is_seen() -> None:
    axes = {"a": (1, 2), "b": (1, 2), "c": (1, 2)}
    cases = grid.cover(axes, lambda case: 1.0, 1.0)
    assert not missing_pairs(axes, cases)
    assert any(missing_pairs(axes, cases[:i] + cases[i + 1 :]) for i in range(len(cases)))


@pytest.mark.usefixtures("poison")
def test_allocations_are_poisoned_wherever_a_backend_makes_them() -> None:
    like = torch.zeros(1)
    assert layout.empty((1, 2, 2, 2), like, True).isnan().all()
    assert native.empty((1, 2, 2, 2), like, True).isnan().all()
    assert native.allocate(layout.output((1, 2, 2, 2), like, True), like).isnan().all()
    assert like.new_empty(3).isnan().all()
    assert layout.empty((1, 1, 2, 2), like, True, torch.uint8).eq(0xA5).all()


def test_the_first_cases_that_hold_all_pairs_are_found() -> None:
    axes = {"a": (1, 2), "b": (1, 2), "c": (1, 2)}
    first = grid.cover(axes, lambda case: 1.0, 1.0)
    length = grid.cover_length([*first, *grid.cover(axes, lambda case: 1.0, 1.0, seed=1)])
    assert length <= len(first)
    assert not missing_pairs(axes, first[:length])
    assert missing_pairs(axes, first[: length - 1])


@pytest.mark.parametrize("how", grid.LAYOUTS)
def test_another_device_gets_the_same_strides(how: str) -> None:
    t = grid.arrange(torch.empty(2, 3, 4, 5), how)
    there = grid.place(t, "meta")
    assert (there.shape, there.stride(), there.storage_offset()) == (t.shape, t.stride(), t.storage_offset())
    assert (t.to("meta").stride() == t.stride()) == (how != "sliced"), "what Tensor.to does to a slice"


INPUTS = {"x": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))}
OPTIONS = {"negative_slope": 0.2, "pixel_norm": "after_act", "eps": 0.25}


def check_with(monkeypatch: pytest.MonkeyPatch, op: str, run: Any) -> None:
    """The grid's check of bias_act with one internal op of the backend "aten" replaced."""
    right = registry._TABLE["aten", op]
    monkeypatch.setitem(
        registry._TABLE, ("aten", op), right._replace(run=lambda *args: run(right.run, *args), plan=None)
    )
    grid.check("bias_act", INPUTS, OPTIONS, "aten", data=["x"], seed=0)


@pytest.mark.usefixtures("poison")
def test_an_unwritten_element_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_but_the_last_row(run: Any, *args: Any) -> Any:
        y, r, mask = run(*args)
        out = layout.empty(y.shape, y, False)
        out[:, :, :-1] = y[:, :, :-1]
        return out, r, mask

    with pytest.raises(AssertionError, match="y: error nan"):
        check_with(monkeypatch, "bias_act_forward", all_but_the_last_row)


@pytest.mark.parametrize(
    ("op", "fault", "where"),
    [
        ("bias_act_forward", lambda out: (out[0] * (1 + 1e-5), *out[1:]), "y: error"),
        ("bias_act_forward", lambda out: (out[0], out[1] * (1 + 1e-4), out[2]), "d/dx: error"),
        ("bias_act_backward", lambda out: (out[0].roll(1, 3), out[1]), "d/dx: error"),
        ("bias_act_forward", lambda out: (out[0].to(memory_format=torch.channels_last), *out[1:]), "strides"),
        ("bias_act_forward", lambda out: (out[0].double(), *out[1:]), "torch.float64"),
    ],
    ids=["y off by 1e-5", "r off by 1e-4", "du shifted", "other layout", "other dtype"],
)
def test_a_fault_is_caught(monkeypatch: pytest.MonkeyPatch, op: str, fault: Any, where: str) -> None:
    grid.check("bias_act", INPUTS, OPTIONS, "aten", data=["x"], seed=0)
    with pytest.raises((AssertionError, RuntimeError), match=where):
        check_with(monkeypatch, op, lambda run, *args: fault(run(*args)))


def test_a_wrong_second_order_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("pggan_fast.ops.bias_act")
    right = module._norm_second_order

    def wrong(*args: Any) -> Any:
        ddy, ddr, d_y, d_r = right(*args)
        return ddy, ddr, d_y, 0.5 * d_r

    monkeypatch.setattr(module, "_norm_second_order", wrong)
    with pytest.raises(AssertionError, match=r"^d2/dx: error") as caught:
        grid.check("bias_act", INPUTS, OPTIONS, "aten", data=["x"], seed=0)
    assert "d/dx:" not in str(caught.value)


def test_a_missing_gradient_is_caught() -> None:
    some, none = torch.ones(2), None
    results = {"d/dx": some}
    assert grid.judge({"d/dx": none}, results, results, torch.float32)
    assert grid.judge(results, {"d/dx": none}, {"d/dx": none}, torch.float32)
    assert not grid.judge({"d/dx": none}, {"d/dx": some * 0}, {"d/dx": some * 0}, torch.float32)
