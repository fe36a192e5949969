"""Every public op as one table, and how to run it: its result and the gradients of both orders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import grid
import torch
from torch import Tensor

from pggan_fast import ops
from pggan_fast.ops import Scaled


class Op(NamedTuple):
    call: Callable[..., Tensor]  # of a module with the ops and named tensors
    images: dict[str, tuple[int, ...]]  # shapes of what autocast may cast
    parameters: dict[str, tuple[int, ...]]
    result: str  # "autocast": its dtype; "input": the first image's; "wider": the images'


def linear_stage(m: Any, x: Tensor, u: Tensor, v: Tensor, w: Tensor, r: Tensor) -> Tensor:
    layers = [Scaled(t, None, 0.25) for t in (u, v, w, r)]
    return m.generator_stage(x, *layers, 0.25, negative_slope=None, eps=0.25)


# Between two convolutions an activation's kink would meet rounded numbers: those have none here.
OPS = {
    "scaled_conv2d": Op(
        lambda m, x, w, b: m.scaled_conv2d(x, w, b, weight_scale=0.25, negative_slope=0.2),
        {"x": (2, 4, 6, 6)}, {"w": (5, 4, 3, 3), "b": (5,)}, "autocast",
    ),
    "scaled_conv2d up": Op(
        lambda m, x, w, b: m.scaled_conv2d(
            x, w, b, weight_scale=0.25, resample="up", negative_slope=0.2, pixel_norm="after_act", eps=0.25
        ),
        {"x": (2, 8, 4, 4)}, {"w": (16, 8, 3, 3), "b": (16,)}, "autocast",
    ),
    "scaled_conv2d pool": Op(
        lambda m, x, w, b: m.scaled_conv2d(x, w, b, weight_scale=0.25, resample="pool", negative_slope=0.2),
        {"x": (2, 8, 6, 6)}, {"w": (8, 8, 3, 3), "b": (8,)}, "autocast",
    ),
    "scaled_linear": Op(
        lambda m, x, w, b: m.scaled_linear(x, w, b, weight_scale=0.25, negative_slope=0.2),
        {"x": (3, 8)}, {"w": (5, 8), "b": (5,)}, "autocast",
    ),
    "to_rgb_fade_in": Op(
        lambda m, x, y, v, c, w, d: m.to_rgb_fade_in(
            x, y, v, c, w, d, 0.25, weight_scale_low=0.25, weight_scale_high=0.5
        ),
        {"x": (2, 5, 2, 2), "y": (2, 4, 4, 4)}, {"v": (3, 5, 1, 1), "c": (3,), "w": (3, 4, 1, 1), "d": (3,)},
        "autocast",
    ),
    "from_rgb_fade_in": Op(
        lambda m, x, y, w, b: m.from_rgb_fade_in(x, y, w, b, 0.25, weight_scale=0.25),
        {"x": (2, 3, 4, 4), "y": (2, 5, 2, 2)}, {"w": (5, 3, 1, 1), "b": (5,)}, "autocast",
    ),
    "generator_stage": Op(
        linear_stage, {"x": (2, 8, 4, 4)},
        {"u": (8, 8, 3, 3), "v": (8, 8, 3, 3), "w": (3, 8, 1, 1), "r": (3, 8, 1, 1)}, "autocast",
    ),
    "discriminator_stem": Op(
        lambda m, x, v, w: m.discriminator_stem(x, Scaled(v, None, 0.5), Scaled(w, None, 0.25), negative_slope=None),
        {"x": (2, 3, 4, 4)}, {"v": (8, 3, 1, 1), "w": (8, 8, 3, 3)}, "autocast",
    ),
    "bias_act": Op(
        lambda m, x, b: m.bias_act(x, b, scale=0.5, negative_slope=0.2, pixel_norm="after_act", eps=0.25),
        {"x": (2, 8, 4, 4)}, {"b": (8,)}, "input",
    ),
    "pixel_norm": Op(lambda m, x: m.pixel_norm(x, 0.25), {"x": (2, 8, 4, 4)}, {}, "input"),
    "minibatch_stddev": Op(lambda m, x: m.minibatch_stddev(x, 2, eps=0.25), {"x": (4, 8, 2, 2)}, {}, "input"),
    "fade_reals": Op(lambda m, x: m.fade_reals(x, 0.25), {"x": (2, 3, 4, 4)}, {}, "input"),
    "fade_in": Op(lambda m, x, y: m.fade_in(x, y, 0.25), {"x": (2, 3, 2, 2), "y": (2, 3, 4, 4)}, {}, "wider"),
}  # fmt: skip


class By:
    """pggan_fast.ops by one backend."""

    def __init__(self, backend: str | None) -> None:
        self.backend = backend

    def __getattr__(self, op: str) -> Callable[..., Tensor]:
        return lambda *args, **options: getattr(ops, op)(*args, **options, backend=self.backend)


def draw(op: Op, enlarged: int = 1) -> dict[str, Tensor]:
    """Multiples of 1/2, biases of 1/32: float16 and bfloat16 have them, and no pre-activation is at the kink.

    `enlarged`: times the height and width of the table's images.
    """
    numbers = grid.Numbers({"dtype": torch.float32, "layout": "nchw"}, 0, kinked=True)
    images = {k: (*s[:2], *(enlarged * size for size in s[2:])) for k, s in op.images.items()}
    shapes = {**images, **op.parameters}
    return {k: numbers.bias("float32", *s, 0.25) if len(s) == 1 else numbers.tensor(*s) for k, s in shapes.items()}


def gradients(y: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of both orders, for data that does not change."""
    leaves = list(tensors.values())
    dy = torch.linspace(-1.0, 1.0, y.numel()).view(y.shape).to(y.device, y.dtype)
    first = torch.autograd.grad(y, leaves, dy, create_graph=True)
    total = sum(g.float().square().sum() for g in first)
    assert isinstance(total, Tensor)
    second = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True) if total.requires_grad else ()
    results = {f"d/d{k}": g.detach() for k, g in zip(tensors, first, strict=True)}
    return results | {f"d2/d{k}": g for k, g in zip(tensors, second, strict=False) if g is not None}


def leaves_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().clone().requires_grad_() for k, t in tensors.items()}


def everything(f: Callable[..., Tensor], tensors: dict[str, Tensor], around: Any = None) -> dict[str, Tensor]:
    """Output and gradients; `around` is a context for the backward passes."""
    leaves = leaves_of(tensors)
    y = f(**leaves)
    with around or contextlib.nullcontext():
        return {"y": y.detach(), **gradients(y, leaves)}


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for k, t in want.items():
        assert got[k].dtype == t.dtype, k
        assert got[k].equal(t), k
