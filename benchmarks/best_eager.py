"""The best that plain PyTorch does without new kernels, as a provider: what a user who knows the tricks would write.

Activations are channels_last, the bias is the convolution's own, a resampling 3x3 convolution is one 4x4 convolution of
stride 2 (exact; see backends/aten/conv.py), cuDNN picks its algorithms by measuring. Everything is differentiated by
torch itself.

It is best by construction, not by measuring: the same tricks at every size. A 4x4 kernel is summed from the 3x3 one in
every call, which costs by the weights alone, while the products that it saves go by the pixels: on a CPU plain
eager is up to several times as fast on small maps (one image below about 32x32), and best_eager about twice as fast at
64x64 and above.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast import nn, reference


def improved(module: torch.nn.Module) -> torch.nn.Module:
    """`module`, made on backend "reference", its convolutions replaced in place; parameters stay where they are."""
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
    for layer in module.modules():
        if isinstance(layer, nn.ScaledConv2d):
            layer.forward = functools.partial(_convolve, layer)  # type: ignore[method-assign]
    return module


def _convolve(layer: nn.ScaledConv2d, x: Tensor) -> Tensor:
    weight = layer.weight * layer.weight_scale
    bias = None if layer.bias is None else layer.bias * layer.bias_scale
    if layer.resample == "up":
        y = F.conv_transpose2d(x, _summed(weight.flip(2, 3)).transpose(0, 1), bias, stride=2, padding=1)
    elif layer.resample == "down":
        y = F.conv2d(x, _summed(weight) * 0.25, bias, stride=2, padding=1)
    else:
        y = F.conv2d(x, weight, bias, padding=layer.weight.shape[2] // 2)
    if layer.negative_slope is not None:
        y = F.leaky_relu(y, layer.negative_slope)
    return y if layer.pixel_norm == "none" else reference.pixel_norm(y, layer.eps)


def _summed(weight: Tensor) -> Tensor:
    """The full convolution of 3x3 kernels with a 2x2 box: [C, Cin, 4, 4]."""
    return 4.0 * F.avg_pool2d(weight, 2, stride=1, padding=1)  # one pass over the weight, not one for each of the box
