"""The networks' ends by the backend "cuda", without gradients: features between layers stay on the chip if they fit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pggan_fast.backends import cuda, cuda_layer, layout
from pggan_fast.backends.native import DTYPES, NO_LAYER, NORMS, unsupported_image_channels
from pggan_fast.backends.registry import implement, unmeasured


def _codes(*tensors: Tensor | None) -> list[int]:
    return [0 if t is None else DTYPES[t.dtype] for t in tensors]


def _parameters(layer: Any) -> tuple[Tensor | None, Tensor | None]:
    weight, bias, *_ = layer or NO_LAYER
    return layout.contiguous(weight), layout.contiguous(bias)


def _epilogue(slope: float | None, norm: str, eps: float, eps_mode: str) -> tuple[Any, ...]:
    return 1.0 if slope is None else slope, NORMS[norm], eps, eps_mode == "inside"


# The generator's block


def _whole(
    x: Tensor, packed_up: Tensor, packed: Tensor, y: Tensor | None, image: Tensor | None, conv_up: Any, conv: Any,
    to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, *epilogue: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments of generator_stage in csrc/bind/arguments.h."""
    n, cin, h, w = x.shape
    biases = [layout.contiguous(layer.bias) for layer in (conv_up, conv)]
    rgb = *_parameters(to_rgb), *_parameters(to_rgb_low)
    image_channels = 0 if to_rgb is None else to_rgb.weight.shape[0]
    return (
        x, packed_up, biases[0], packed, biases[1], *rgb, alpha, y, image, DTYPES[x.dtype], *_codes(*biases, *rgb),
        n, 2 * h, 2 * w, cin, conv.weight.shape[0], image_channels,
        image is not None and layout.is_channels_last(image),
        cuda_layer.ieee(x, 3), conv_up.bias_scale, conv.bias_scale, *_epilogue(*epilogue),
        *(to_rgb or NO_LAYER)[2:], *(to_rgb_low or NO_LAYER)[2:],
    )  # fmt: skip


def _to_rgb(
    x: Tensor, packed: Tensor, low: Tensor | None, image: Tensor, conv: Any, to_rgb: Any, alpha: Tensor | None,
    *epilogue: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments of conv_to_rgb in csrc/bind/arguments.h."""
    n, cin, h, w = x.shape
    bias, rgb = layout.contiguous(conv.bias), _parameters(to_rgb)
    return (
        x, packed, bias, *rgb, low, alpha, image, DTYPES[x.dtype], *_codes(bias, *rgb), n, h, w, cin,
        conv.weight.shape[0], to_rgb.weight.shape[0], layout.is_channels_last(image), cuda_layer.ieee(x, 3),
        conv.bias_scale, *_epilogue(*epilogue), to_rgb.weight_scale, to_rgb.bias_scale,
    )  # fmt: skip


def _fits_whole(x: Tensor, *layers: Any) -> bool:
    return not x.numel() or cuda.launch("generator_stage_rows", *_whole(x, x, x, None, None, *layers)) > 0


def _unsupported_stage(
    x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, *epilogue: Any
) -> str | None:
    c, (h, w) = conv.weight.shape[0], x.shape[2:]
    if (reason := cuda_layer.unsupported_channels(x, c)) is not None:
        return reason
    if to_rgb is not None and (reason := unsupported_image_channels(to_rgb.weight.shape[0])) is not None:
        return reason
    if _fits_whole(x, conv_up, conv, to_rgb, to_rgb_low, alpha, *epilogue):
        return None
    if to_rgb is None:
        return "the weights of both convolutions and a tile take more shared memory than the device has"
    if (reason := cuda_layer.unsupported_product(x, c, 3, "up")) is not None:
        return reason
    features = x.new_empty(0, c, 2 * h, 2 * w)  # of which only the sizes count
    if cuda.launch("conv_to_rgb_rows", *_to_rgb(features, x, None, x, conv, to_rgb, alpha, *epilogue)):
        return None
    return "the weights and a tile take more shared memory than the device has"


@implement("cuda", "generator_stage", supports=_unsupported_stage, rule=unmeasured)
def generator_stage(
    x: Tensor, conv_up: Any, conv: Any, to_rgb: Any, to_rgb_low: Any, alpha: Tensor | None, *epilogue: Any
) -> Tensor:
    """In one launch. Where that does not fit, an image takes conv_up, toRGB of x while fading, and conv_to_rgb."""
    n, _, h, w = x.shape
    c, rgb = conv.weight.shape[0], 0 if to_rgb is None else to_rgb.weight.shape[0]
    out = layout.empty((n, rgb or c, 2 * h, 2 * w), x, not rgb or layout.is_channels_last(x))
    packed = cuda_layer.packed(conv.weight, x, conv.weight_scale, "none", False)
    dense = layout.dense(x, True)
    if _fits_whole(x, conv_up, conv, to_rgb, to_rgb_low, alpha, *epilogue):
        packed_up = cuda_layer.packed(conv_up.weight, x, conv_up.weight_scale, "up", False)
        results = (None, out) if rgb else (out, None)
        layers = conv_up, conv, to_rgb, to_rgb_low
        cuda.launch("generator_stage", *_whole(dense, packed_up, packed, *results, *layers, alpha, *epilogue))
        return layout.conform(out, x)
    features = _layer(dense, conv_up, "up", *epilogue)
    low = None
    if to_rgb_low is not None:
        low = layout.dense(_layer(dense, to_rgb_low, "none", None, "none", 0.0, "inside"), layout.is_channels_last(out))
    cuda.launch("conv_to_rgb", *_to_rgb(features, packed, low, out, conv, to_rgb, alpha, *epilogue))
    return layout.conform(out, x)


def _layer(x: Tensor, layer: Any, resample: str, *epilogue: Any) -> Tensor:
    y = cuda_layer.convolve(
        x, layer.weight, layer.weight_scale, resample, False, (layer.bias, layer.bias_scale, *epilogue)
    )[0]
    return layout.dense(y, True)


# The discriminator's first two layers


def _from_rgb(
    image: Tensor, packed: Tensor, y: Tensor, from_rgb: Any, conv: Any, slope: float | None
) -> tuple[Any, ...]:
    """The arguments of conv_from_rgb in csrc/bind/arguments.h."""
    n, image_channels, h, w = image.shape
    rgb, bias = _parameters(from_rgb), layout.contiguous(conv.bias)
    c, cin, _, _ = conv.weight.shape
    activation = 1.0 if slope is None else slope
    return (
        image, *rgb, packed, bias, y, DTYPES[image.dtype], *_codes(*rgb, bias), n, h, w, image_channels, cin, c,
        layout.is_channels_last(image), cuda_layer.ieee(image, 3), from_rgb.weight_scale, from_rgb.bias_scale,
        activation, conv.bias_scale, *_epilogue(slope, "none", 0.0, "inside"),
    )  # fmt: skip


def _unsupported_stem(image: Tensor, from_rgb: Any, conv: Any, slope: float | None) -> str | None:
    c, cin, _, _ = conv.weight.shape
    if (reason := unsupported_image_channels(image.shape[1])) is not None:
        return reason
    if (reason := cuda_layer.unsupported_channels(image, max(c, cin))) is not None:
        return reason
    arguments = _from_rgb(image, image, image, from_rgb, conv, slope)
    if image.numel() and not cuda.launch("conv_from_rgb_rows", *arguments):
        return "the weights and a tile take more shared memory than the device has"
    return None


@implement("cuda", "discriminator_stem", supports=_unsupported_stem, rule=unmeasured)
def discriminator_stem(image: Tensor, from_rgb: Any, conv: Any, slope: float | None) -> Tensor:
    n, _, h, w = image.shape
    y = layout.empty((n, conv.weight.shape[0], h, w), image, True)
    packed = cuda_layer.packed(conv.weight, image, conv.weight_scale, "none", False)
    dense = layout.dense(image, layout.is_channels_last(image))
    cuda.launch("conv_from_rgb", *_from_rgb(dense, packed, y, from_rgb, conv, slope))
    return layout.conform(y, image)
