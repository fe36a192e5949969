"""The backward pass of a layer of tiles in one call: the bits of its parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DTYPES, FORMATS, random_tensor
from torch import Tensor

from pggan_fast import ops
from pggan_fast.backends import cpu, registry, tiled
from pggan_fast.backends.frozen import frozen
from pggan_fast.backends.launch import launch

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (False, True, True)], ids=str)
@pytest.mark.parametrize(
    ("resample", "k", "norm"),
    [("none", 3, "after_act"), ("up", 3, "before_act"), ("down", 3, "none"), ("pool", 3, "none"), ("none", 1, "none")],
)
def test_the_backward_pass_in_one_call(
    resample: str, k: int, norm: str, needs: tuple[bool, ...], memory_format: Any, dtype: torch.dtype, poison: None
) -> None:
    """The bits of its three parts, one after the other; a learned call is one launch."""
    options = {"weight_scale": 0.3, "bias_scale": 0.5, "resample": resample, "negative_slope": 0.2, "backend": "cpu"}
    x = random_tensor(2, 24, 6, 8, dtype=dtype, memory_format=memory_format)
    tensors = x, random_tensor(17, 24, k, k, dtype=dtype), random_tensor(17, dtype=dtype)
    for tensor, needed in zip(tensors, needs, strict=True):
        tensor.requires_grad_(needed)

    def gradients() -> tuple[list[Tensor], list[str]]:
        launched: list[str] = []
        y = ops.scaled_conv2d(*tensors, **options, pixel_norm=norm, eps=0.1)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:
            for module in (cpu, tiled):
                patch.setattr(module, "launch", lambda f, *args: (launched.append(f.__name__), launch(f, *args))[1])
            dy = random_tensor(*y.shape, dtype=dtype, memory_format=memory_format, seed=9)
            found = torch.autograd.grad(y, [t for t in tensors if t.requires_grad], dy)
        return list(found), launched

    registry.forget()
    (first, parts), (again, whole) = gradients(), gradients()
    assert len(parts) == 1 + sum(needs[:2])
    assert whole == ["tiled_layer_backward"]
    assert all(map(torch.equal, first, again))
    assert [t.stride() for t in first] == [t.stride() for t in again]


def test_what_a_hook_of_saved_tensors_gives_back_in_another_format(poison: None) -> None:
    """A call that was learned from one without a hook."""
    x = random_tensor(2, 9, 6, 8, memory_format=FORMATS[1]).requires_grad_()
    w = random_tensor(17, 9, 3, 3).requires_grad_()

    def gradients() -> list[Tensor]:
        y = ops.scaled_conv2d(x, w, weight_scale=0.3, negative_slope=0.2, pixel_norm="after_act", backend="cpu")
        return list(torch.autograd.grad(y, (x, w), torch.linspace(-1.0, 1.0, y.numel()).view(y.shape)))

    want = gradients()
    gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous() if t.shape[1] == 17 else t, lambda t: t):
        assert all(map(torch.equal, gradients(), want))


def test_weights_that_are_frozen_are_transformed_once(poison: None) -> None:
    """Gradients of images through a network whose weights want none."""
    conv = torch.nn.Conv2d(9, 17, 3, bias=False).requires_grad_(False)
    x = random_tensor(2, 9, 6, 8, memory_format=FORMATS[1]).requires_grad_()

    def gradient() -> Tensor:
        y = ops.scaled_conv2d(x, conv.weight, weight_scale=0.3, negative_slope=0.2, backend="cpu")
        return torch.autograd.grad(y, x, torch.ones_like(y))[0]

    want, launched = gradient(), []
    assert torch.equal(want, gradient())
    with frozen(conv), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "launch", lambda f, *args: (launched.append((f.__name__, args)), launch(f, *args))[1])
        assert all(torch.equal(want, gradient()) for _ in range(3))
    assert [name for name, _ in launched].count("tiled_weight") == 2  # for y, and for the gradient
    assert launched[-1][0] == "tiled_layer_backward"
    assert launched[-1][1][6] is not None
