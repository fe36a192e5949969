"""What a module does, read off whatever way it is written."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from foreign_layers import CONVS, NORMS, POOLS, SCALE, STDDEVS, UPS, Does, OnWeight
from torch import Tensor, nn

from pggan_fast.swap import operations
from pggan_fast.swap.read import Unreadable, read
from pggan_fast.swap.steps import Act, Bias, Call, Conv, Norm, Pool, Product, Scale, Stddev, Step, Up, View

SCALES = {
    "E1": (SCALE, 1.0),
    "E2": (SCALE, 1.0),
    "E2t": (SCALE, 1.0),
    "E2b": (0.5 * SCALE, 0.5),
    "E3": (SCALE, 1.0),
    "E4": (SCALE, SCALE),
}


def steps(module: nn.Module, rank: int = 4) -> tuple[Step, ...]:
    return read(module, rank).steps


def around(function: object) -> nn.Sequential:
    return nn.Sequential(OnWeight(3, 4), Does(function), OnWeight(4, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("form", CONVS)
def test_every_form_of_equalised_learning_rate_is_one_product(form: str, kernel: int) -> None:
    module = CONVS[form](3, 5, kernel)
    (conv,) = steps(module)
    assert isinstance(conv, Conv)
    fan = 3 * kernel**2
    weight_scale, bias_scale = SCALES.get(form, ({"E5": (2 / fan) ** 0.5, "E6": fan**-0.5}.get(form, 1.0), 1.0))
    assert conv.kernel == kernel
    assert conv.weight_scale == pytest.approx(weight_scale, rel=1e-6)
    assert conv.bias_scale == pytest.approx(bias_scale)
    p = conv.scaled
    assert {id(p.weight), id(conv.bias())} == {id(q) for q in module.parameters()}  # type: ignore[misc]
    x = torch.randn(2, 3, 6, 4)
    want = module(x)
    got = F.conv2d(x, p.weight * p.weight_scale, p.bias * p.bias_scale, padding=kernel // 2)  # type: ignore[operator]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", NORMS)
def test_pixel_norms_are_read_with_their_eps(name: str) -> None:
    formula, eps, mode = NORMS[name]
    norm = steps(around(formula))[1]
    assert isinstance(norm, Norm)
    assert (norm.eps, norm.mode) == (pytest.approx(eps), mode)
    assert steps(nn.Sequential(nn.LeakyReLU(0.1), Does(formula)))[0] == Act(0.1)


@pytest.mark.parametrize(
    "formula",
    [
        lambda x: x / (x.pow(2).mean(2, keepdim=True) + 1e-8).sqrt(),  # not over the channels
        lambda x: x / (x.pow(2).mean((1, 2), keepdim=True) + 1e-8).sqrt(),
        lambda x: x / ((x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt() + 1e-8),  # two eps
        lambda x: x / (x.pow(2).mean(1, keepdim=True) + 1e-8),  # no root
        lambda x: x / (x.pow(3).mean(1, keepdim=True).abs() + 1e-8).sqrt(),
        lambda x: F.leaky_relu(x, 1.5),
        lambda x: F.leaky_relu(x, -0.2),
        torch.tanh,
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.max_pool2d(x, 2),
        lambda x: x + torch.randn_like(x),
        lambda x: x + x.flip(0),
    ],
)
def test_what_is_no_step_stays_a_call(formula: object) -> None:
    module = around(formula)
    found = steps(module)
    assert found[1] == Call(module[1])
    assert [type(s) for s in found] == [Conv, Call, Conv]


@pytest.mark.parametrize("name", UPS)
def test_nearest_upsampling_in_all_spellings(name: str) -> None:
    assert steps(around(UPS[name]))[1] == Up()


@pytest.mark.parametrize("name", POOLS)
def test_the_mean_of_four_pixels_in_all_spellings(name: str) -> None:
    assert steps(around(POOLS[name]))[1] == Pool()


@pytest.mark.parametrize("name", STDDEVS)
def test_minibatch_statistics_are_told_apart(name: str) -> None:
    formula, *want = STDDEVS[name]
    first, last = steps(nn.Sequential(Does(formula), OnWeight(6, 4)))
    assert isinstance(first, Stddev)
    assert isinstance(last, Conv)
    assert [first.group, first.grouping, first.unbiased, first.eps] == want


@pytest.mark.parametrize(
    ("module", "want"),
    [
        (nn.LeakyReLU(0.3), [Act(0.3)]),
        (nn.Sequential(nn.Identity(), nn.ReLU()), [Act(0.0)]),
        (Does(lambda x: torch.max(x, 0.2 * x)), [Act(0.2)]),
        (Does(lambda x: x * 3.0 / 2.0), [Scale(1.5)]),
        (nn.Sequential(nn.Dropout(0.0), nn.AvgPool2d(2), nn.Dropout2d(0.0)), [Pool()]),
        (nn.Sequential(nn.Upsample(scale_factor=2), Does(lambda x: x * 0.5)), [Scale(0.5), Up()]),
    ],
)
def test_functions_without_parameters(module: nn.Module, want: list[Step]) -> None:
    assert list(steps(module)) == want


def test_dense_layers() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(7, 5)), nn.Parameter(torch.randn(7))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * 0.25, self.bias * 0.5)

    module = Scaled()
    (dense,) = steps(module, 2)
    assert isinstance(dense, Product)
    assert (dense.kind, dense.weight_scale, dense.bias_scale) == ("linear", 0.25, 0.5)
    viewed = steps(nn.Sequential(nn.Linear(5, 32), Does(lambda x: x.view(-1, 2, 4, 4)), nn.LeakyReLU(0.2)), 2)
    assert viewed[1:] == (View((2, 4, 4)), Act(0.2))


def test_first_and_last_layers_of_ports() -> None:
    last = nn.Sequential(nn.Conv2d(6, 5, 4), nn.LeakyReLU(0.2), nn.Conv2d(5, 1, 1), nn.Flatten())
    conv, act, dense, view = steps(last)
    assert isinstance(conv, Product)
    assert (conv.kind, conv.padding, act, view) == ("conv", (0, 0), Act(0.2), View())
    assert isinstance(dense, Conv)
    first = steps(nn.Sequential(nn.ConvTranspose2d(6, 5, 4), nn.LeakyReLU(0.2)))[0]
    assert isinstance(first, Product)
    assert first.kind == "conv_transpose"


def test_a_bias_after_an_activation_stands_alone() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.late = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.zeros(1, 4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.conv(x)) + self.late

    assert isinstance(steps(Late())[-1], Bias)


class OnARow(nn.Module):
    """A bias of zeros on the rows, of which there are as many as channels: only its values tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 4:
            raise ValueError(x.shape)
        return self.conv(x) + self.b.view(1, 1, 4, 1)


class LearnedScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale


class Flipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flip(2, 3), padding=1)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 4, 3, padding=1), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(self.conv(x))


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) if bool(x.sum() > 0) else self.conv(x)


class Modal(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) if self.training else self.conv(x)


class Sized(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) if x.shape[2] > 4 else self.conv(x)


class Two(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + F.relu(self.conv(x))


class Writing(Deciding):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.mul_(2.0))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (LearnedScale(), "a scale that is learned"),
        (Flipped(), r"parameters alone \(flip\)"),
        (Counting(), "writes its attribute calls"),
        (Deciding(), "decides by values"),
        (Modal(), "different things in training and evaluation"),
        (OnARow(), "no bias per channel"),
        (Two(), "none of the known steps"),
        (Writing(), "overwrites its input"),
    ],
)
def test_what_cannot_be_steps_says_why(module: nn.Module, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read(module, 4)


def test_sizes_that_behave_otherwise_limit_the_reading() -> None:
    reading = read(Sized(), 4)
    assert reading.limited
    assert len({g.shape[1] > 4 for g in reading.shapes}) == 1
    assert not read(OnWeight(3, 4), 4).limited


def test_dropout_is_a_call_in_both_modes() -> None:
    module = nn.Sequential(OnWeight(3, 4), nn.Dropout(0.5), nn.LeakyReLU(0.2))
    for training in (True, False):
        assert Call(module[1]) in steps(module.train(training))


def test_a_defect_of_the_recorder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(operations.HANDLERS, "relu", broken)
    with pytest.raises(Unreadable, match=r"defect of this recorder.*ZeroDivisionError"):
        read(nn.ReLU(), 4)


class Attends(nn.Module):
    """Each pixel looks at every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        sizes.append(h * w)
        y = x.flatten(2)
        z = (y.transpose(1, 2) @ y).softmax(-1)
        return nn.functional.leaky_relu(self.layer((y @ z).view(n, c, h, w) + x), 0.2)


sizes: list[int] = []


def test_large_inputs_stop_where_memory_would_not_do() -> None:
    read(nn.Sequential(nn.Conv2d(3, 3, 1), Attends(), nn.Conv2d(4, 3, 3, padding=1), nn.LeakyReLU(0.2)), 4)
    assert max(sizes) == 64 * 64  # at 128x128 the attention alone would take 4 GB
