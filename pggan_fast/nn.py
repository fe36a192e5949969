"""Layers over `pggan_fast.ops`: parameters are raw N(0, 1) values, scaled at run time (equalised learning rate).

What a layer takes, the dtype of what it gives and what it raises are those of the op that it names. Constructors raise
ValueError or TypeError for arguments of which no layer can be made.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from pggan_fast import ops, reference
from pggan_fast.backends import forced, layout
from pggan_fast.ops import _checks
from pggan_fast.ops._autograd import needs_reference

__all__ = ["FadeIn", "FromRGB", "LatentToMap", "MinibatchStdDev", "PixelNorm", "ScaledConv2d", "ScaledLinear", "ToRGB"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _options(layer: torch.nn.Module, *names: str) -> str:
    """Attributes as `print` shows them; the backend where one is named."""
    shown = names if layer.backend is None else (*names, "backend")
    return ", ".join(f"{name}={getattr(layer, name)!r}" for name in shown)


class _Scaled(torch.nn.Module):
    """weight ~ N(0, 1) of `shape`, multiplied by gain / sqrt(fan_in) at run time; bias zeros, by bias_scale."""

    bias: torch.nn.Parameter | None
    _fused: tuple[str, ...] = ()  # attributes that say what follows the product in the same op

    def __init__(
        self, shape: tuple[int, ...], bias_size: int, gain: float, bias_scale: float, backend: str | None
    ) -> None:
        super().__init__()
        _checks.finite(gain=gain, bias_scale=bias_scale)
        forced.check(backend)
        self.weight = torch.nn.Parameter(torch.randn(shape))
        self.register_parameter("bias", torch.nn.Parameter(torch.zeros(bias_size)) if bias_size else None)
        self.weight_scale = gain / math.sqrt(math.prod(shape[1:]))
        self.bias_scale = bias_scale
        self.backend = backend

    @property
    def scaled(self) -> ops.Scaled:
        """The parameters with their scales."""
        return ops.Scaled(self.weight, self.bias, self.weight_scale, self.bias_scale)

    def extra_repr(self) -> str:
        text = f"{tuple(self.weight.shape)}, weight_scale={self.weight_scale:.4g}, bias={self.bias is not None}"
        options = _options(self, *self._fused)
        return f"{text}, {options}" if options else text


class ScaledConv2d(_Scaled):
    """`ops.scaled_conv2d` with parameters: [N, in_channels, H, W] -> [N, out_channels, H', W'].

    weight [out, in, k, k], bias [out]. The weight is multiplied by gain / sqrt(in * k * k) at run time
    (section 4.1 of the paper; the official gain is sqrt(2), and 1 for toRGB). Other arguments: `ops.scaled_conv2d`.
    """

    _fused = ("resample", "negative_slope", "pixel_norm")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        bias: bool = True,
        gain: float = math.sqrt(2.0),
        bias_scale: float = 1.0,
        resample: str = "none",
        negative_slope: float | None = None,
        pixel_norm: str = "none",
        eps: float = 1e-8,
        eps_mode: str = "inside",
        backend: str | None = None,
    ) -> None:
        _checks.counts(1, in_channels=in_channels, out_channels=out_channels)
        if kernel_size not in (1, 3):
            raise ValueError(f"kernel_size: expected 1 or 3, got {kernel_size!r}")
        _checks.one_of("resample", resample, ("none", "up", "down", "pool"))
        _checks.epilogue(negative_slope, pixel_norm, eps, eps_mode)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        super().__init__(shape, out_channels if bias else 0, gain, bias_scale, backend)
        self.resample, self.negative_slope = resample, negative_slope
        self.pixel_norm, self.eps, self.eps_mode = pixel_norm, eps, eps_mode

    def forward(self, x: Tensor) -> Tensor:
        return ops.scaled_conv2d(
            x,
            self.weight,
            self.bias,
            weight_scale=self.weight_scale,
            bias_scale=self.bias_scale,
            resample=self.resample,
            negative_slope=self.negative_slope,
            pixel_norm=self.pixel_norm,
            eps=self.eps,
            eps_mode=self.eps_mode,
            backend=self.backend,
        )

    @property
    def linear(self) -> bool:
        """Whether nothing but the bias follows the convolution."""
        return self.negative_slope is None and self.pixel_norm == "none"

    @property
    def epilogue(self) -> dict[str, Any]:
        """What follows the convolution, as arguments of ops that compute several layers."""
        return {
            "negative_slope": self.negative_slope,
            "pixel_norm": self.pixel_norm,
            "eps": self.eps,
            "eps_mode": self.eps_mode,
        }


def fusable(*layers: torch.nn.Module) -> bool:
    """Whether one op without gradients may run in place of these layers, which all name the same backend.

    Where PyTorch traces or transforms, the parts run: torch.jit.trace records with gradients and checks itself without.
    """
    if torch.is_grad_enabled() or needs_reference() or not plain(*layers):
        return False
    return len({layer.backend for layer in layers}) == 1


def plain(*layers: torch.nn.Module, kinds: tuple[type, ...] | None = None) -> bool:
    """Whether calling these layers is computing what their classes do, `kinds` or else those of scaled convolutions: no
    hooks (their own or those of all modules), no forward method put in place of their own, no other class."""
    return (
        all(type(layer) in (kinds or (ScaledConv2d, ToRGB, FromRGB)) for layer in layers)
        and not any(getattr(layer, hooks) for layer in layers for hooks in _HOOKS)
        and not any("forward" in vars(layer) for layer in layers)
        and not any(getattr(torch_module, f"_global{hooks}") for hooks in _HOOKS)
    )


class ScaledLinear(_Scaled):
    """`ops.scaled_linear` with parameters: [N, in_features] -> [N, out_features]; weight [out, in], bias [out].

    The weight is multiplied by gain / sqrt(in) at run time. Source: Karras et al. 2017, section 4.1.
    """

    _fused = ("negative_slope", "pixel_norm")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        gain: float = math.sqrt(2.0),
        bias_scale: float = 1.0,
        negative_slope: float | None = None,
        pixel_norm: str = "none",
        eps: float = 1e-8,
        backend: str | None = None,
    ) -> None:
        _checks.counts(1, in_features=in_features, out_features=out_features)
        _checks.epilogue(negative_slope, pixel_norm, eps, "inside")
        super().__init__((out_features, in_features), out_features if bias else 0, gain, bias_scale, backend)
        self.negative_slope, self.pixel_norm, self.eps = negative_slope, pixel_norm, eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.scaled_linear(
            x,
            self.weight,
            self.bias,
            weight_scale=self.weight_scale,
            bias_scale=self.bias_scale,
            negative_slope=self.negative_slope,
            pixel_norm=self.pixel_norm,
            eps=self.eps,
            backend=self.backend,
        )


class LatentToMap(_Scaled):
    """G's first layer: dense [N, in_features] -> view [N, C, H, W], bias, leaky ReLU, pixel norm.

    weight [C * H * W, in_features], bias [C] (per channel: official), or [C * H * W] with `unit_bias` (some ports).
    gain sqrt(2) / 4 as the official code has it. With `channels_last` the map leaves in that format. By `ops.bias_act`
    after a product in x's dtype (autocast's under autocast). Source: Karras et al. 2017, table 2.
    """

    _fused = ("shape", "negative_slope", "pixel_norm", "channels_last")

    def __init__(
        self,
        in_features: int,
        channels: int,
        shape: tuple[int, ...] = (4, 4),
        *,
        gain: float = math.sqrt(2.0) / 4.0,
        negative_slope: float = 0.2,
        pixel_norm: str = "after_act",
        eps: float = 1e-8,
        unit_bias: bool = False,
        channels_last: bool = True,
        backend: str | None = None,
    ) -> None:
        _checks.counts(1, in_features=in_features, channels=channels)
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape: expected height and width >= 1, got {shape!r}")
        _checks.epilogue(negative_slope, pixel_norm, eps, "inside")
        units = channels * shape[0] * shape[1]
        super().__init__((units, in_features), units if unit_bias else channels, gain, 1.0, backend)
        self.shape, self.unit_bias = (channels, *shape), unit_bias
        self.negative_slope, self.pixel_norm, self.eps = negative_slope, pixel_norm, eps
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        inner, outer = (self.bias, None) if self.unit_bias else (None, self.bias)
        u = ops.scaled_linear(x, self.weight, inner, weight_scale=self.weight_scale, backend=self.backend)
        u = u.view(-1, *self.shape)
        if self.channels_last:
            u = layout.channels_last(u)
        return ops.bias_act(
            u,
            outer,
            negative_slope=self.negative_slope,
            pixel_norm=self.pixel_norm,
            eps=self.eps,
            backend=self.backend,
        )


class PixelNorm(torch.nn.Module):
    """`ops.pixel_norm`: x * rsqrt(mean_c(x^2) + eps), x [N, C, H, W] or [N, C].

    Source: Karras et al. 2017, section 4.2.
    """

    def __init__(self, eps: float = 1e-8, *, backend: str | None = None) -> None:
        super().__init__()
        self.eps, self.backend = eps, backend

    def forward(self, x: Tensor) -> Tensor:
        return ops.pixel_norm(x, self.eps, backend=self.backend)

    def extra_repr(self) -> str:
        return _options(self, "eps")


class FadeIn(torch.nn.Module):
    """`ops.fade_in`: (1 - alpha) * low + alpha * high [N, C, H, W], low of that size or of half, repeated 2x2.

    Source: Karras et al. 2017, figure 2.
    """

    def __init__(self, *, backend: str | None = None) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, low: Tensor, high: Tensor, alpha: float | Tensor) -> Tensor:
        return ops.fade_in(low, high, alpha, backend=self.backend)

    def extra_repr(self) -> str:
        return _options(self)


class MinibatchStdDev(torch.nn.Module):
    """`ops.minibatch_stddev`: [N, C, H, W] -> [N, C + 1, H, W]. Source: Karras et al. 2017, section 3."""

    def __init__(
        self,
        group_size: int = 4,
        *,
        grouping: str = "strided",
        unbiased: bool = False,
        eps: float = 1e-8,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.group_size, self.grouping, self.unbiased = group_size, grouping, unbiased
        self.eps, self.backend = eps, backend

    def forward(self, x: Tensor) -> Tensor:
        return ops.minibatch_stddev(
            x, self.group_size, grouping=self.grouping, unbiased=self.unbiased, eps=self.eps, backend=self.backend
        )

    def extra_repr(self) -> str:
        return _options(self, "group_size", "grouping", "unbiased", "eps")


class ToRGB(ScaledConv2d):
    """`ops.scaled_conv2d`, linear and 1x1: features [N, in_channels, H, W] to images [N, channels, H, W].

    gain 1 is the official one; no tanh, no norm. Source: Karras et al. 2017, table 2.
    """

    def __init__(self, in_channels: int, channels: int = 3, *, gain: float = 1.0, backend: str | None = None) -> None:
        super().__init__(in_channels, channels, 1, gain=gain, backend=backend)

    def fade_in(self, x: Tensor, low: ToRGB, x_low: Tensor, alpha: float | Tensor) -> Tensor:
        """This layer's image of x [N, C, H, W] blended with `low`'s image of x_low [N, C_low, H / 2, W / 2].

        One op, unless a layer has hooks or was changed: then each is called, and its image blended.
        """
        if not (plain(self, low) and self.linear and low.linear):
            return ops.fade_in(low(x_low), self(x), alpha, backend=self.backend)
        return ops.to_rgb_fade_in(
            x_low,
            x,
            low.weight,
            low.bias,
            self.weight,
            self.bias,
            alpha,
            weight_scale_low=low.weight_scale,
            weight_scale_high=self.weight_scale,
            bias_scale_low=low.bias_scale,
            bias_scale_high=self.bias_scale,
            backend=self.backend,
        )


class FromRGB(ScaledConv2d):
    """`ops.scaled_conv2d`, 1x1 with leaky ReLU: images [N, channels, H, W] to features [N, out_channels, H, W].

    Source: Karras et al. 2017, table 2.
    """

    def __init__(
        self, channels: int, out_channels: int, *, negative_slope: float = 0.2, backend: str | None = None
    ) -> None:
        super().__init__(channels, out_channels, 1, negative_slope=negative_slope, backend=backend)

    def fade_in(self, image: Tensor, high: Tensor, alpha: float | Tensor) -> Tensor:
        """This (older, lower) layer's features of the halved image [N, K, 2H, 2W] blended with the new block's `high`
        [N, C, H, W].

        One op, unless the layer has hooks or was changed: then it is called, and its features blended.
        """
        if not plain(self) or self.negative_slope is None or self.pixel_norm != "none":
            low = self(reference.down2(image))
            return ops.fade_in(low, high, alpha, backend=self.backend)
        return ops.from_rgb_fade_in(
            image,
            high,
            self.weight,
            self.bias,
            alpha,
            weight_scale=self.weight_scale,
            bias_scale=self.bias_scale,
            negative_slope=self.negative_slope,
            backend=self.backend,
        )
