"""generator_stage: a whole block of the generator, and the image that it shows, for sampling.

    y = conv(conv_up(x)), each with bias, leaky ReLU and pixel norm
    image = to_rgb(y), or (1 - alpha) * up2(to_rgb_low(x)) + alpha * to_rgb(y)

A backend that is named and has one kernel for it runs that where no gradient is wanted; else the parts run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pggan_fast import reference
from pggan_fast.backends import forced, layout, registry
from pggan_fast.ops import _autocast, _checks, _register
from pggan_fast.ops._again import Again
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.ops.scaled_conv2d import scaled_conv2d
from pggan_fast.ops.to_rgb_fade_in import to_rgb_fade_in


class Scaled(NamedTuple):
    """A convolution's parameters, and the floats that multiply them at run time (equalised learning rate).

    weight: [out, in, k, k]; bias: [out] or None. `ScaledConv2d.scaled` of `pggan_fast.nn` gives a layer's.
    """

    weight: Tensor
    bias: Tensor | None = None
    weight_scale: float = 1.0
    bias_scale: float = 1.0


def generator_stage(
    x: Tensor,
    conv_up: Scaled,
    conv: Scaled,
    to_rgb: Scaled | None = None,
    to_rgb_low: Scaled | None = None,
    alpha: float | Tensor = 1.0,
    *,
    negative_slope: float | None = 0.2,
    pixel_norm: str = "after_act",
    eps: float = 1e-8,
    eps_mode: str = "inside",
    backend: str | None = None,
) -> Tensor:
    """Features of the next level, or the image that they show.

    Args:
        x: [N, Cin, H / 2, W / 2], features of the level below.
        conv_up: weight [C, Cin, 3, 3], after nearest x2; conv: weight [C, C, 3, 3]; biases [C] or None.
        to_rgb: weight [K, C, 1, 1]; None gives features.
        to_rgb_low: weight [K, Cin, 1, 1], of x's level, blended in with `alpha`; None shows the new level alone.
        alpha: a float or a 0-d tensor on the device, clamped to [0, 1]; not differentiable. Unused without to_rgb_low.
        negative_slope, pixel_norm, eps, eps_mode: of both convolutions, see `bias_act`.
        backend: "cpu" has one kernel for all up to 128 channels, which None takes too on the CPU. "cuda" has one for
            at most 64 channels in and out, and 4 of the image, where they fit a multiprocessor's shared memory, which
            runs only where it is named. No gradient flows through either, so where one is wanted, and under
            torch.compile, torch.func and dispatch modes, and in all other cases, the parts run.
    Returns:
        [N, C, H, W], or with to_rgb [N, K, H, W], in x's dtype (autocast's under autocast).
    Raises:
        ValueError, TypeError: an argument is off; the message names it.
        BackendUnavailable: the named backend cannot run here.
    Source: Karras et al. 2017, figure 2 and table 2.
    """
    chosen = forced.named(backend)
    layers, options = (conv_up, conv, to_rgb, to_rgb_low), (negative_slope, pixel_norm, eps, eps_mode)
    call = described(x, layers, None if to_rgb_low is None else alpha, *options)
    if call is not None and (run := _again.find(call, chosen)) is not None:
        out: Tensor = run(x, *layers, call[_TENSORS - 1], *options)
        return out
    x = _autocast.lowered(x)
    conv_up, conv, to_rgb, to_rgb_low = (beside(x, layer) for layer in layers)
    _check_layers(x, conv_up, conv, to_rgb, to_rgb_low)
    _checks.epilogue(negative_slope, pixel_norm, eps, eps_mode)
    a = None if to_rgb_low is None else _checks.alpha(alpha, x)
    args = x, conv_up, conv, to_rgb, to_rgb_low, a, *options
    if chosen == "reference" or needs_reference():
        return reference.generator_stage(
            x, conv_up, conv, to_rgb, to_rgb_low, 1.0 if a is None else a, negative_slope=negative_slope,
            pixel_norm=pixel_norm, eps=eps, eps_mode=eps_mode,
        )  # fmt: skip
    run, final = fused("generator_stage", chosen, *args)
    if final and call is not None and a is call[_TENSORS - 1]:
        _again.learn(call, chosen, run)
    return run(*args)


_TENSORS = 10  # x, weights and biases of four layers, alpha
_again = Again("generator_stage", tensors=_TENSORS)


def described(
    x: Tensor, layers: tuple[Scaled | None, ...], alpha: float | Tensor | None, *options: Any
) -> tuple[Any, ...] | None:
    """A call of an op of several layers for `Again`: its tensors, its scalars, and whether a gradient is wanted.

    None where it is not to be remembered: what is no layer, an alpha that is to be refused, a float that may be another
    one each time.
    """
    if any(layer is not None and type(layer) is not Scaled for layer in layers):
        return None
    if alpha is not None and (not isinstance(alpha, Tensor) or alpha.requires_grad):
        return None
    parts = [layer or (None,) * 4 for layer in layers]
    tensors = x, *(t for part in parts for t in part[:2]), alpha
    return *tensors, *(s for part in parts for s in part[2:]), *options, wants_grad(*tensors)


def _check_layers(x: Tensor, conv_up: Scaled, conv: Scaled, to_rgb: Scaled | None, to_rgb_low: Scaled | None) -> None:
    _checks.tensor("x", x, (4,))
    _checks.pixels("x", x)
    features = check_layer("conv_up", conv_up, x, "x", 3)
    check_layer("conv", conv, features, "conv_up's output", 3, outputs=features.shape[1])
    if to_rgb is not None:
        image = check_layer("to_rgb", to_rgb, features, "conv's output", 1)
        if to_rgb_low is not None:
            check_layer("to_rgb_low", to_rgb_low, x, "x", 1, outputs=image.shape[1])
    elif to_rgb_low is not None:
        raise ValueError("to_rgb_low: expected None, since without to_rgb there is no image, got a layer")


def fused(op: str, backend: str, x: Tensor, *others: Any) -> tuple[Callable[..., Tensor], bool]:
    """(the function that runs a composed op of Scaled layers on these arguments, as one kernel or in parts; whether
    that stands for such calls)."""
    layers = [arg for arg in others if isinstance(arg, Scaled)]
    parts = functools.partial(registry.PARTS[op], backend=backend or None)
    if _register.needs_dispatcher(x):
        return parts, False
    if wants_grad(x, *(t for layer in layers for t in layer[:2])):
        return parts, True
    run, final = registry.fused(op, backend or None, x.device.type, (x, *others))
    return run or parts, final


def beside(x: Tensor, layer: Any) -> Any:
    """A layer with its parameters as `_autocast.parameter` has them; what is no layer as it is."""
    if not isinstance(layer, Scaled):
        return layer
    weight, bias = _autocast.parameter(layer.weight, x), _autocast.parameter(layer.bias, x)
    unchanged = weight is layer.weight and bias is layer.bias
    return layer if unchanged else layer._replace(weight=weight, bias=bias)


def convolve(x: Tensor, layer: Scaled, **options: Any) -> Tensor:
    weight, bias, weight_scale, bias_scale = layer
    return scaled_conv2d(x, weight, bias, weight_scale=weight_scale, bias_scale=bias_scale, **options)


def wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors)


def check_layer(
    name: str, layer: Scaled, x: Tensor, x_name: str, k: int, outputs: int | None = None, source: str = "x"
) -> Tensor:
    """Errors name the layer's field, its input as `x_name`, and `source`, the op's argument whose dtype that input has.

    Returns an empty tensor like the layer's output.
    """
    if not isinstance(layer, Scaled):
        raise TypeError(f"{name}: expected an ops.Scaled, got {type(layer).__name__}")
    _checks.conv_weight(f"{name}.weight", layer.weight, x, x_name, (k,), source)
    c = layer.weight.shape[0]
    if outputs is not None and c != outputs:
        raise ValueError(f"{name}.weight: expected {outputs} output channels, got {c}")
    _checks.bias(f"{name}.bias", layer.bias, c, x, source)
    _checks.finite(**{f"{name}.weight_scale": layer.weight_scale, f"{name}.bias_scale": layer.bias_scale})
    return x.new_empty(0, c, 1, 1)


def _in_parts(
    x: Tensor, conv_up: Scaled, conv: Scaled, to_rgb: Scaled | None, to_rgb_low: Scaled | None, alpha: Tensor | None,
    slope: float | None, norm: str, eps: float, eps_mode: str, backend: str | None,
) -> Tensor:  # fmt: skip
    options = {"negative_slope": slope, "pixel_norm": norm, "eps": eps, "eps_mode": eps_mode, "backend": backend}
    y = convolve(x, conv_up, resample="up", **options)
    y = convolve(y, conv, **options)
    if to_rgb is not None and to_rgb_low is not None and alpha is not None:
        y = to_rgb_fade_in(
            x,
            y,
            *to_rgb_low[:2],
            *to_rgb[:2],
            alpha,
            weight_scale_low=to_rgb_low.weight_scale,
            weight_scale_high=to_rgb.weight_scale,
            bias_scale_low=to_rgb_low.bias_scale,
            bias_scale_high=to_rgb.bias_scale,
            backend=backend,
        )
    elif to_rgb is not None:
        y = convolve(y, to_rgb, backend=backend)
    return layout.conform(y, x)  # one channel between the layers has lost the format


registry.PARTS["generator_stage"] = _in_parts
