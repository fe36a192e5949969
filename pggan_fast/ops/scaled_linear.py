"""scaled_linear: the equalised-learning-rate dense layer, as a 1x1 convolution of 1x1 images (the same family)."""

from __future__ import annotations

from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced
from pggan_fast.ops import _autocast, _checks
from pggan_fast.ops._again import AgainOp
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.ops.scaled_conv2d import apply, one_node


def scaled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    weight_scale: float,
    bias_scale: float = 1.0,
    negative_slope: float | None = None,
    pixel_norm: str = "none",
    eps: float = 1e-8,
    backend: str | None = None,
) -> Tensor:
    """`act(weight_scale * x @ weight.T + bias_scale * bias)`, optionally pixel-normalised over the features.

    Args:
        x: [N, K]; weight: [C, K]; bias: [C]. dtypes, scales, slope, norm and backend as for `scaled_conv2d`.
    Returns:
        [N, C] in x's dtype (autocast's under autocast).
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, section 4.1.
    """
    args = x, weight, bias, weight_scale, bias_scale, negative_slope, pixel_norm, eps
    named = forced.named(backend)
    if (run := _again.find(args, named)) is not None and (
        out := _again.call(run, _as_images(*args), named)
    ) is not None:
        y: Tensor = out[0]
        return y.view(y.shape[:2])
    x = _autocast.lowered(x)
    weight, bias = _autocast.parameter(weight, x), _autocast.parameter(bias, x)
    _check(x, weight, bias, weight_scale, bias_scale, negative_slope, pixel_norm, eps)
    if named == "reference" or needs_reference():
        return reference.scaled_linear(
            x, weight, bias, weight_scale=weight_scale, bias_scale=bias_scale, negative_slope=negative_slope,
            pixel_norm=pixel_norm, eps=eps,
        )  # fmt: skip
    images = _as_images(x, weight, bias, weight_scale, bias_scale, negative_slope, pixel_norm, eps)
    y = apply(*images, named)
    if one_node("none", negative_slope, pixel_norm):
        _again.learn_choice(args, images, named)
    return y.view(y.shape[:2])


_again = AgainOp("scaled_linear", "scaled_conv2d_forward", tensors=3)


def _as_images(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: float,
    bias_scale: float,
    slope: float | None,
    norm: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None, float, float, str, float | None, str, float, str]:
    """The arguments of `scaled_conv2d` for 1x1 images."""
    image, kernel = x.view(*x.shape, 1, 1), weight.view(*weight.shape, 1, 1)
    return image, kernel, bias, weight_scale, bias_scale, "none", slope, norm, eps, "inside"


@_checks.once(tensors=3)
def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: float,
    bias_scale: float,
    negative_slope: float | None,
    pixel_norm: str,
    eps: float,
) -> None:
    _checks.tensor("x", x, (2,))
    _checks.tensor("weight", weight, (2,), x)
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight: expected {x.shape[1]} columns as x has, got {weight.shape[1]}")
    if not weight.numel():
        raise ValueError(f"weight: expected at least one row and column, got shape {tuple(weight.shape)}")
    _checks.parameter_dtype("weight", weight, x)
    _checks.bias("bias", bias, weight.shape[0], x)
    _checks.finite(weight_scale=weight_scale, bias_scale=bias_scale)
    _checks.epilogue(negative_slope, pixel_norm, eps, "inside")
