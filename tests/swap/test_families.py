"""Adapters for whole models: matched first, probed like any other replacement."""

from __future__ import annotations

import copy
from typing import Any

import torch
from foreign_layers import NORMS, UPS, Does, OnInput
from torch import Tensor, nn

from pggan_fast import fuse, ops, unfuse
from pggan_fast.swap import families
from pggan_fast.swap.chain import chain
from pggan_fast.swap.fused import Forward, inside, installed, outside
from pggan_fast.swap.read import steps_of
from pggan_fast.swap.steps import Act, NotAsRecorded, Up, View


class Growing(nn.Module):
    """A generator of images at 4x4 and more, in the style of ports."""

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.dense = nn.Linear(5, 6 * 16)
        self.convs = nn.ModuleList([OnInput(6, 6) for _ in range(levels)])
        self.to_rgb = nn.ModuleList([OnInput(6, 3, 1) for _ in range(levels + 1)])
        self.act, self.norm = nn.LeakyReLU(0.2), Does(NORMS["sqrt"][0])

    def forward(self, z: Tensor, step: int, alpha: float) -> Tensor:
        x = self.norm(self.act(self.dense(z).view(-1, 6, 4, 4)))
        for conv in self.convs[:step]:
            low, x = x, self.norm(self.act(conv(UPS["interpolate"](x))))
        if not step:
            return self.to_rgb[0](x)
        return (1 - alpha) * UPS["interpolate"](self.to_rgb[step - 1](low)) + alpha * self.to_rgb[step](x)


class FusedGrowing(Forward):
    pattern = "a growing generator"
    slope = 0.2

    def __init__(self, model: Growing) -> None:
        super().__init__(model, model.modules())
        norm = steps_of(model.norm)
        self.first = chain([*steps_of(model.dense, rank=2), View((6, 4, 4)), Act(self.slope), *norm])
        self.blocks = [chain([Up(), *steps_of(conv), Act(self.slope), *norm]) for conv in model.convs]
        self.to_rgb = [chain(steps_of(layer)) for layer in model.to_rgb]

    def examples(self, like: Tensor) -> list[tuple[Any, ...]]:
        z = torch.randn(3, 5, dtype=like.dtype, device=like.device)
        return [(z, 2, 0.25), (z, 0, 1.0)]

    def run(self, z: Tensor, step: int, alpha: float) -> Tensor:
        if not isinstance(z, Tensor) or z.ndim != 2:
            raise NotAsRecorded("latents of another rank")
        x = low = inside(self.first(z))
        for block in self.blocks[:step]:
            low, x = x, block(x)
        image = self.to_rgb[step](x)
        return outside(ops.fade_in(self.to_rgb[step - 1](low), image, alpha) if step else image)


class WrongSlope(FusedGrowing):
    slope = 0.25


class Family:
    def __init__(self, kind: type[Forward]) -> None:
        self.kind = kind

    def match(self, model: nn.Module) -> Forward | None:
        return self.kind(model) if hasattr(model, "to_rgb") else None  # type: ignore[arg-type, call-arg]


def test_a_model_that_a_family_knows_is_one_replacement() -> None:
    families.FAMILIES.insert(0, Family(FusedGrowing))
    try:
        model = Growing()
        original = copy.deepcopy(model)
        (row,) = fuse(model).rows
    finally:
        families.FAMILIES.pop(0)
    assert (row.name, row.pattern, row.replaced) == ("", "a growing generator", True)
    assert row.error is not None
    assert row.error < 1e-12
    z = torch.randn(2, 5)
    for step, alpha in ((0, 1.0), (1, 0.25), (3, 0.75)):
        torch.testing.assert_close(model(z, step, alpha), original(z, step, alpha))
        assert model(z, step, alpha).is_contiguous()
    twin = copy.deepcopy(model)
    assert installed(twin).module is twin  # type: ignore[union-attr]
    assert torch.equal(unfuse(model)(z, 2, 0.5), original(z, 2, 0.5))


def test_a_wrong_adapter_is_undone_and_its_parts_fused() -> None:
    families.FAMILIES.insert(0, Family(WrongSlope))
    try:
        model = Growing()
        report = fuse(model)
    finally:
        families.FAMILIES.pop(0)
    assert report.rows[0].reason.startswith("undone: for arguments ")
    assert "the fused form's output is " in report.rows[0].reason
    assert [row.name for row in report.rows].count("") == 1
    assert installed(model) is None
    assert {"norm", "convs.0", "to_rgb.3"} <= {row.name for row in report.replaced}
