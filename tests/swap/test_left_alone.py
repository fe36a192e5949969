"""fuse(): what has hooks, changes later, or is no chain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_layers import NORMS, UPS, Block, Does, Equaliser, Hooked, OnInput, OnOutput, Pair
from small_networks import make
from swap_checks import fused_wholly, same_derivatives
from torch import Tensor, nn

from pggan_fast import fuse, unfuse
from pggan_fast.models import Discriminator, Generator
from pggan_fast.swap.fused import installed


def test_foreign_hooks_go_on_running() -> None:
    calls: list[str] = []
    module = nn.Sequential(OnInput(3, 4), nn.LeakyReLU(0.2), OnInput(4, 4), nn.LeakyReLU(0.2))
    x = torch.randn(2, 3, 4, 4)
    module[0].register_forward_hook(lambda m, a, y: calls.append("hook") or y * 2.0)  # type: ignore[func-returns-value]
    module[2].conv.register_forward_pre_hook(lambda m, a: calls.append("pre"))
    module.register_forward_hook(lambda *_: calls.append("root"))
    want = module(x)
    calls.clear()
    report = fuse(module)
    assert not calls
    torch.testing.assert_close(module(x), want)
    assert calls == ["hook", "pre", "root"]
    assert report.rows[0].replaced
    assert report.rows[0].pattern == "OnInput() lrelu scale Conv2d() bias lrelu"


class Staged(nn.Module):
    """Called with more than an input, as many generators are."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = Block(), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor, step: int, *, scale: float, alpha: float = 1.0) -> Tensor:
        y: Tensor = self.last(self.block(x)) * scale
        return y


def test_what_forward_needs_beside_its_input_is_named() -> None:
    report = fuse(Staged())
    (whole, *parts) = report.rows
    assert whole.reason == "its forward needs step, scale too, which is not made up here; its parts are looked at"
    assert [(row.name, row.replaced) for row in parts] == [("block", True), ("last", False)]


def test_a_parameter_that_is_not_finite_is_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(0.2))
    assert fuse(copy.deepcopy(module)).rows[0].replaced
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = torch.inf
    row = next(row for row in fuse(module).rows if row.name == "0")
    assert row.reason == "weight holds NaN or infinity, with which nothing can be compared"
    assert not any(row.replaced for row in fuse(module).rows)


def test_hooks_registered_later_run_too() -> None:
    module = Block()
    fuse(module)
    calls: list[int] = []
    module.conv1.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="Block was changed after fuse") as caught:
        module(torch.randn(2, 5, 4, 4))
    assert calls == [1]
    assert caught[0].filename == __file__  # the line above, and none of torch's


@pytest.mark.parametrize("change", ["scale", "slope", "child", "buffer", "forward"])
def test_what_is_changed_later_counts(change: str) -> None:
    module = nn.Sequential(OnOutput(3, 4), nn.LeakyReLU(0.2), OnInput(4, 4))
    x = torch.randn(2, 3, 4, 4)
    before = module(x)
    fuse(module)
    if change == "scale":
        module[2].scale = 2.0
    elif change == "slope":
        module[1].negative_slope = 0.5
    elif change == "child":
        module[1] = nn.Tanh()
    elif change == "buffer":
        module[0].scale.fill_(3.0)
    else:
        module[1].forward = torch.tanh
    with pytest.warns(UserWarning, match="was changed after"):
        y = module(x)
    assert not torch.allclose(y, before)
    assert torch.equal(y, unfuse(module)(x))


def test_global_hooks_are_seen() -> None:
    module = Block()
    fuse(module)
    calls: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: calls.append(type(m).__name__))
    try:
        with pytest.warns(UserWarning, match="was changed after"):
            module(torch.randn(2, 5, 4, 4))
    finally:
        handle.remove()
    assert calls.count("OnInput") == 2


def test_dropout_and_its_strength() -> None:
    class Strength(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.strength = 0.0

        def forward(self, x: Tensor) -> Tensor:
            return x + self.strength * torch.ones_like(x) if self.strength else x

    module = nn.Sequential(Strength(), OnInput(3, 4), nn.Dropout(0.0), nn.LeakyReLU(0.2))
    assert fused_wholly(module).rows[0].pattern == "conv3x3 lrelu"
    module[0].strength = 1.0
    x = torch.randn(2, 3, 4, 4)
    with pytest.warns(UserWarning, match="was changed after"):
        y = module(x)
    assert torch.equal(y, unfuse(module)(x))


def parametrized() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    nn.utils.parametrize.register_parametrization(conv, "weight", nn.Softplus())
    return conv


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.utils.weight_norm(nn.Conv2d(4, 4, 3, padding=1)), "weight_norm"),
        (lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)), "spectral_norm"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)), "parametrizations"),
        (parametrized, "parametrizations"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_weights_that_are_computed_otherwise_are_left(layer: Callable[[], nn.Module], reason: str) -> None:
    module = nn.Sequential(OnInput(3, 4), nn.LeakyReLU(0.2), layer(), nn.LeakyReLU(0.2)).eval()
    x = torch.randn(2, 3, 4, 4)
    want = module(x)
    report = fuse(module)
    torch.testing.assert_close(module(x), want)
    (row,) = [row for row in report.left if row.name == "2"]
    assert reason in row.reason
    assert report.rows[0].pattern.startswith(f"conv3x3 lrelu {type(module[2]).__name__}()")


def test_parts_of_what_is_no_chain() -> None:
    module = Pair()
    x = torch.randn(2, 5, 4, 4)
    want = module(x, 0.3)
    report = fuse(module)
    assert [row.name for row in report.replaced] == ["block", "low"]
    assert not report.rows[0].replaced
    assert report.rows[0].reason
    torch.testing.assert_close(module(x, 0.3), want)


class Both(nn.Module):
    """One tensor in, two out."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Sequential(OnInput(6, 3, 1), Does(UPS["view"])), Block(6, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.low(x), self.high(x)]


class Blend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = 0.3

    def forward(self, pair: list[Tensor]) -> Tensor:
        return (1 - self.alpha) * pair[0] + self.alpha * pair[1]


def growing() -> nn.Sequential:
    norm = Does(NORMS["sqrt"][0])
    head = [OnInput(5, 6), nn.LeakyReLU(0.2), norm]
    return nn.Sequential(*head, Both(), Blend(), OnInput(3, 4), nn.LeakyReLU(0.2), nn.Tanh())


@pytest.mark.filterwarnings("error:.*was changed after")
def test_runs_of_a_sequential_around_what_is_no_chain() -> None:
    module = growing().double()
    original = copy.deepcopy(module)
    report = fuse(module)
    assert [row.name for row in report.replaced] == ["[5:8]", "[0:3]", "3.low", "3.high"]
    assert [row.pattern for row in report.replaced[:2]] == ["conv3x3 lrelu Tanh()", "conv3x3 lrelu norm"]
    assert not report.rows[0].replaced
    same_derivatives(module, original, torch.randn(2, 5, 4, 6, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    x = torch.randn(2, 5, 4, 6).double()
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    assert [row.reason for row in fuse(module).replaced] == ["fused before"] * 3
    module[4].alpha = 0.9  # of a child that is called
    original[4].alpha = 0.9
    torch.testing.assert_close(module(x), original(x))
    module[1] = original[1] = nn.ReLU()
    with pytest.warns(UserWarning, match="was changed after"):
        torch.testing.assert_close(module(x), original(x))
    assert torch.equal(unfuse(module)(x), original(x))


def test_replicas_of_data_parallel_run_the_original() -> None:
    module = Block()
    fuse(module)
    replica = module._replicate_for_data_parallel()
    assert installed(replica) is None
    assert "_replicate_for_data_parallel" not in vars(replica)
    wrapped = nn.DataParallel(Pair())
    assert [row.name for row in fuse(wrapped).replaced] == ["module.block", "module.low"]


def test_distributed_data_parallel(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        module = nn.parallel.DistributedDataParallel(Block())
        assert [row.name for row in fuse(module).replaced] == ["module"]
        assert installed(module) is None
        module(torch.randn(2, 5, 4, 4)).sum().backward()
        assert all(p.grad is not None for p in module.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_modules_are_left_and_fused_ones_compile() -> None:
    (row,) = fuse(torch.compile(Block(), backend="eager")).rows  # type: ignore[arg-type]
    assert not row.replaced
    assert "torch.compile" in row.reason
    module = Block()
    fuse(module)
    x = torch.randn(2, 5, 4, 4)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize("kind", [Generator, Discriminator])
def test_our_own_models_are_left(kind: type[Generator] | type[Discriminator]) -> None:
    (row,) = fuse(make(kind)).rows
    assert not row.replaced
    assert row.reason == "already pggan_fast"


@pytest.mark.parametrize(
    "module",
    [
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.LSTM(4, 5),
        nn.Embedding(5, 6),
        nn.Bilinear(3, 4, 5),
        nn.LazyConv2d(4, 3),
        nn.ParameterList([nn.Parameter(torch.zeros(3))]),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_models_of_other_kinds_are_left_with_a_reason(module: nn.Module) -> None:
    report = fuse(module)
    assert not report.replaced
    assert all(row.reason and "defect" not in row.reason for row in report.rows)


def test_forwards_of_others_on_instances_are_left() -> None:
    module = nn.Sequential(Block(), Block(6, 6))
    module[0].forward = Block(5, 6).forward  # type: ignore[method-assign]
    report = fuse(module)
    assert report.rows[0].pattern.startswith("Block() up conv3x3")
    assert "replaced on the instance" in next(row.reason for row in report.left if row.name == "0")
    assert installed(module[0]) is None


def test_models_on_the_meta_device_are_left() -> None:
    (row,) = fuse(Block().to("meta")).rows
    assert "meta" in row.reason


def test_other_sizes_than_were_looked_at_are_as_before() -> None:
    class Sized(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x)) if x.shape[2] < 4 else super().forward(x)

    module = Sized()
    for size in (2, 4, 16):
        x = torch.randn(2, 5, size, size)
        want = module(x)
        fuse(module)
        torch.testing.assert_close(module(x), want)
        unfuse(module)
    pooled = nn.Sequential(OnInput(3, 4), nn.LeakyReLU(0.2), nn.AvgPool2d(2))
    x = torch.randn(2, 3, 5, 7)
    want = pooled(x)
    fuse(pooled)
    torch.testing.assert_close(pooled(x), want)


def test_arguments_that_were_not_looked_at_are_as_before() -> None:
    module = Block()
    fuse(module)
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(module(x=x), module(x))
    torch.testing.assert_close(module(torch.randn(0, 5, 4, 4)), torch.empty(0, 6, 8, 8))
    with pytest.raises((RuntimeError, ValueError)):
        module(torch.randn(2, 4, 4, 4))


def test_a_second_layer_in_the_middle_of_a_hook() -> None:
    """An equalised layer with a second hook that does something else keeps it."""
    calls: list[int] = []
    module = nn.Sequential(Hooked(3, 4), nn.LeakyReLU(0.2), Hooked(4, 4))
    module[0].conv.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 4, 4)
    want = module(x)
    calls.clear()
    fuse(module)
    torch.testing.assert_close(module(x), want)
    assert calls == [1]
    assert any(isinstance(h, Equaliser) for h in module[2].conv._forward_pre_hooks.values())


class Labelled(nn.Module):
    """Not read, for its label; with a buffer of any kind."""

    def __init__(self, buffer: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("mask", buffer)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


@pytest.mark.parametrize(
    "buffer",
    [
        torch.full((3, 3), -torch.inf).triu(1),
        torch.empty(2, device="meta"),
        torch.eye(3).to_sparse(),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8),
    ],
    ids=["infinite", "meta", "sparse", "float8", "quantised"],
)
def test_buffers_of_any_kind_do_not_hide_the_reason(buffer: Tensor) -> None:
    report = fuse(Labelled(buffer))
    assert report.rows[0].reason == "its forward needs label too, which is not made up here; its parts are looked at"
