"""Steps grouped into calls of the ops compute what the steps say one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pggan_fast import reference
from pggan_fast.swap.chain import Chain, ConvUnit, EpilogueUnit, ViewUnit, chain
from pggan_fast.swap.steps import (
    Act,
    Bias,
    Conv,
    Norm,
    NotAsRecorded,
    Pool,
    Product,
    Ref,
    Scale,
    Stddev,
    Step,
    Up,
    View,
)

N, C = 2, 4


def conv(k: int = 3, bias: bool = True) -> Conv:
    module = nn.Conv2d(C, C, k, padding=k // 2)
    return Conv(Ref(module, "weight"), 0.5, Ref(module, "bias") if bias else None, 0.7 if bias else 1.0, k)


def bias() -> Bias:
    module = nn.Module()
    module.b = nn.Parameter(torch.randn(1, C, 1, 1))
    return Bias(Ref(module, "b"), 0.3)


def one(x: Tensor, step: Step) -> Tensor:
    """A step with PyTorch alone."""
    if isinstance(step, (Conv, Product)):
        p = step.scaled
        b = None if p.bias is None else p.bias * p.bias_scale
        if isinstance(step, Conv):
            return F.conv2d(x, p.weight * p.weight_scale, b, padding=step.kernel // 2)
        if step.kind == "linear":
            return F.linear(x, p.weight * p.weight_scale, b)
        if step.kind == "conv":
            return F.conv2d(x, p.weight * p.weight_scale, b, step.stride, step.padding, step.dilation, step.groups)
        return F.conv_transpose2d(x, p.weight * p.weight_scale, b, step.stride, step.padding)
    if isinstance(step, Scale):
        return x * step.factor
    if isinstance(step, Bias):
        return x + step.scale * step.bias().view(1, -1, *(1,) * (x.ndim - 2))
    if isinstance(step, Norm):
        return reference.bias_act(x, pixel_norm="after_act", eps=step.eps, eps_mode=step.mode)
    return step(x)  # type: ignore[operator]


def one_by_one(x: Tensor, steps: list[Step]) -> Tensor:
    for step in steps:
        x = one(x, step)
    return x


A, P, Q = Act(0.2), Norm(), Norm(1e-3, "outside")
GROUPED: list[tuple[list[Step], list[str]]] = [
    ([conv()], ["none"]),
    ([Up(), conv(), A, P], ["up after_act"]),
    ([conv(), P, A], ["none before_act"]),
    ([conv(), Q], ["none after_act"]),
    ([conv(1), A, Pool()], ["pool"]),
    ([conv(), Pool(), A], ["down"]),
    ([conv(bias=False), Pool(), bias(), A], ["down"]),
    ([conv(bias=False), Pool(), Scale(2.0), bias(), Scale(0.5), A], ["down"]),
    ([conv(), A, P, Pool()], ["pool after_act"]),
    ([conv(), Pool(), A, Pool()], ["down", "Pool"]),
    ([Scale(0.1), Up(), conv(), A, A], ["up", "epilogue"]),
    ([Up(), Up(), conv()], ["Up", "up"]),
    ([conv(), A, P, conv(), A, P], ["none after_act", "none after_act"]),
    ([conv(), bias(), A], ["none", "epilogue"]),
    ([A, P, bias(), Scale(3.0)], ["epilogue after_act", "epilogue"]),
    ([P, Scale(3.0), conv(1)], ["epilogue after_act", "none"]),
    ([Up(), conv(), Pool(), A], ["up", "Pool", "epilogue"]),
    ([Scale(0.5), A], ["epilogue"]),
]


def name(unit: object) -> str:
    if isinstance(unit, (ConvUnit, EpilogueUnit)):
        kind = unit.resample if isinstance(unit, ConvUnit) else "epilogue"
        return kind if unit.epilogue.norm == "none" else f"{kind} {unit.epilogue.norm}"
    return type(unit).__name__


@pytest.mark.parametrize(("steps", "units"), GROUPED, ids=[" ".join(map(str, s)) for s, _ in GROUPED])
@pytest.mark.parametrize("channels_last", [False, True])
def test_groups(steps: list[Step], units: list[str], channels_last: bool) -> None:
    x = torch.randn(N, C, 8, 12)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    made = chain(steps)
    assert [name(unit) for unit in made.units] == units
    y = made(x)
    torch.testing.assert_close(y, one_by_one(x, steps))
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_products_that_the_ops_do_not_have(scale: float) -> None:
    dense, last, first = nn.Linear(C, 16 * C), nn.Conv2d(C, 3, 4), nn.ConvTranspose2d(C, 5, 4)
    strided = nn.Conv2d(C, C, 3, 2, 1, groups=2)
    linear = Product(Ref(dense, "weight"), scale)
    per_map = Bias(Ref(nn.Conv2d(1, C, 1), "bias"), 2.0)
    valid = Product(Ref(last, "weight"), scale, Ref(last, "bias"), 0.5, "conv")
    spread = Product(Ref(first, "weight"), scale, Ref(first, "bias"), 0.5, "conv_transpose")
    odd = Product(Ref(strided, "weight"), scale, None, 1.0, "conv", (2, 2), (1, 1), groups=2)
    cases: list[tuple[list[Step], tuple[int, ...], int]] = [
        ([linear, View((C, 4, 4)), per_map, A, P], (C,), 1),
        ([Product(Ref(dense, "weight"), scale, Ref(dense, "bias"), 0.5), A], (C,), 1),
        ([valid, A, View()], (C, 4, 4), 2),
        ([valid, A], (C, 7, 5), 1),
        ([spread, A, P], (C, 1, 1), 1),
        ([spread], (C, 2, 3), 1),
        ([odd, A], (C, 8, 6), 1),
    ]
    for steps, shape, units in cases:
        x = torch.randn(N, *shape)
        made = chain(steps)
        assert len(made.units) == units
        torch.testing.assert_close(made(x), one_by_one(x, steps))


def test_a_map_that_a_view_makes_is_channels_last() -> None:
    dense = Product(Ref(nn.Linear(C, 16 * C), "weight"))
    for steps in ([dense, View((C, 4, 4))], [View((C, 4, 4))]):
        x = torch.randn(N, C if len(steps) == 2 else 16 * C)
        assert chain(steps)(x).is_contiguous(memory_format=torch.channels_last)
    assert isinstance(chain([View((C, 4, 4))]).units[0], ViewUnit)


def test_scales_meet_their_products() -> None:
    c = conv()
    merged = chain([Scale(2.0), c, Scale(3.0)]).steps
    assert merged == (Conv(c.weight, 0.5 * 6.0, c.bias, pytest.approx(0.7 * 3.0), 3),)
    assert chain([A, Scale(2.0), Scale(0.5), Up()]).steps == (A, Up())


@pytest.mark.parametrize(
    ("steps", "shape"),
    [
        ([conv(), A, Pool()], (2, C, 5, 4)),
        ([Pool()], (2, C, 4, 5)),
        ([View((C * 16,))], (2, C, 8, 8)),
        ([Stddev(4)], (6, C, 4, 4)),
        ([Stddev(None, "strided", True, 0.0)], (1, C, 4, 4)),
    ],
)
def test_inputs_of_which_the_steps_say_nothing(steps: list[Step], shape: tuple[int, ...]) -> None:
    with pytest.raises(NotAsRecorded):
        chain(steps)(torch.randn(shape))


def test_parameters_are_looked_up_in_each_call() -> None:
    module = nn.Conv2d(C, C, 1)
    made = chain([Conv(Ref(module, "weight"), 1.0, Ref(module, "bias"), 1.0, 1)])
    x = torch.randn(N, C, 2, 2)
    module.weight = nn.Parameter(torch.randn_like(module.weight))
    torch.testing.assert_close(made(x), module(x))
    module.double()
    torch.testing.assert_close(made(x.double()), module(x.double()))
    module.bias = None
    with pytest.raises(NotAsRecorded):
        made(x.double())


@pytest.mark.parametrize(
    ("steps", "worth"),
    [
        ([conv(bias=False)], True),  # a scale
        ([Conv(Ref(nn.Conv2d(1, 1, 1), "weight"), kernel=1)], False),
        ([A], False),
        ([Up(), Pool(), View()], False),
        ([P], True),
        ([Scale(0.5)], False),
        ([Scale(0.5), A], True),
        ([Stddev()], True),
    ],
)
def test_what_is_worth_a_replacement(steps: list[Step], worth: bool) -> None:
    assert Chain(tuple(steps)).worth == worth
