"""What tests of fuse ask of a module before and after."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pggan_fast import fuse
from pggan_fast.swap import FuseReport


def same_derivatives(a: nn.Module, b: nn.Module, x: Tensor, **tolerance: float) -> None:
    """Output, gradients and those of a gradient penalty, of two modules with equal parameters."""
    found = []
    for m in (a, b):
        xs = x.clone().requires_grad_()
        y = m(xs)
        w = torch.linspace(1, 2, y.numel(), dtype=y.dtype).view(y.shape)
        (g,) = torch.autograd.grad((y * w).sum(), xs, create_graph=True)
        penalty = ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
        grads = torch.autograd.grad((y * w).sum() + penalty, [xs, *m.parameters()])
        found.append([y, g, penalty, *grads])
    torch.testing.assert_close(*found, **tolerance)


def fused_wholly(module: nn.Module) -> FuseReport:
    report = fuse(module)
    assert [row.name for row in report.rows] == [""], str(report)
    assert report.rows[0].replaced, str(report)
    return report
