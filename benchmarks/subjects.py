"""What can be measured by itself: ops, layers, blocks and networks, as modules with the shapes of their inputs.

One entry of SUBJECTS is a module and its shapes at a resolution; its channels are those that the networks have there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.models import Discriminator, Generator
from pggan_fast.models.generator import block_features

Shapes = tuple[tuple[int, ...], ...]
ALPHA = 0.3  # of fades: no special value
SLOPE, NORM = 0.2, "after_act"


@dataclass(frozen=True)
class Widths:
    """Of the networks; the defaults are the official ones."""

    fmap_base: int = 8192
    fmap_max: int = 512
    latent: int = 512

    def channels(self, resolution: int) -> int:
        return min(2 * self.fmap_base // resolution, self.fmap_max)


@dataclass(frozen=True)
class Subject:
    """`make(resolution, widths, backend, channels_last)` is a module of `shapes(resolution, batch, widths)`."""

    kind: str  # "op", "layer", "block", "network"
    text: str
    make: Callable[[int, Widths, str | None, bool | None], torch.nn.Module]
    shapes: Callable[[int, int, Widths], Shapes]
    resolutions: tuple[int, int] = (4, 1024)  # least and most
    output: str = "output"

    def reason(self, resolution: int) -> str | None:
        """Why there is no such thing at this resolution."""
        least, most = self.resolutions
        if least <= resolution <= most:
            return None
        return f"there is none at {resolution}x{resolution}, only {'at' if least == most else 'from'} {least}x{least}"


class _BiasAct(torch.nn.Module):
    def __init__(self, channels: int, backend: str | None) -> None:
        super().__init__()
        self.bias, self.backend = torch.nn.Parameter(torch.zeros(channels)), backend

    def forward(self, x: Tensor) -> Tensor:
        return ops.bias_act(x, self.bias, negative_slope=SLOPE, backend=self.backend)


class _FadeIn(nn.FadeIn):
    def forward(self, low: Tensor, high: Tensor, alpha: float | Tensor = ALPHA) -> Tensor:
        return super().forward(low, high, alpha)


class _GBlock(torch.nn.Module):
    """A level of G as the network computes it: as one op where nothing wants gradients."""

    def __init__(self, up: nn.ScaledConv2d, conv: nn.ScaledConv2d) -> None:
        super().__init__()
        self.block = torch.nn.ModuleDict({"conv_up": up, "conv": conv})

    def forward(self, x: Tensor) -> Tensor:
        return block_features(self.block, x)


class _Score(torch.nn.Module):
    """D without its label logits."""

    def __init__(self, D: Discriminator) -> None:
        super().__init__()
        self.D = D

    def forward(self, image: Tensor) -> Tensor:
        score: Tensor = self.D(image)[0]
        return score


def _conv(
    cin: int, c: int, backend: str | None, resample: str = "none", norm: str = NORM, k: int = 3
) -> nn.ScaledConv2d:
    return nn.ScaledConv2d(cin, c, k, resample=resample, negative_slope=SLOPE, pixel_norm=norm, backend=backend)


def _up(r: int, w: Widths, backend: str | None, _: bool | None = None) -> nn.ScaledConv2d:
    return _conv(w.channels(r // 2), w.channels(r), backend, "up")


def _same(r: int, w: Widths, backend: str | None, _: bool | None = None) -> nn.ScaledConv2d:
    return _conv(w.channels(r), w.channels(r), backend)


def _down(r: int, w: Widths, backend: str | None, _: bool | None = None) -> nn.ScaledConv2d:
    return _conv(w.channels(r), w.channels(r // 2), backend, "down", "none")


def _dense(r: int, w: Widths, backend: str | None, channels_last: bool | None) -> nn.LatentToMap:
    last = backend != "reference" if channels_last is None else channels_last
    return nn.LatentToMap(w.latent, w.channels(4), channels_last=last, backend=backend)


def _generator(r: int, w: Widths, backend: str | None, channels_last: bool | None) -> Generator:
    return Generator(
        r,
        latent_dim=w.latent,
        fmap_base=w.fmap_base,
        fmap_max=w.fmap_max,
        backend=backend,
        channels_last=channels_last,
    )


def discriminator(r: int, w: Widths, backend: str | None, channels_last: bool | None) -> Discriminator:
    return Discriminator(r, fmap_base=w.fmap_base, fmap_max=w.fmap_max, backend=backend, channels_last=channels_last)


def _map(r: int, n: int, w: Widths) -> Shapes:
    return ((n, w.channels(r), r, r),)


def _half_map(r: int, n: int, w: Widths) -> Shapes:
    return _map(r // 2, n, w)


def _image(r: int, n: int, w: Widths) -> Shapes:
    return ((n, 3, r, r),)


def _two_images(r: int, n: int, w: Widths) -> Shapes:
    return (n, 3, r // 2, r // 2), (n, 3, r, r)


def _latent(r: int, n: int, w: Widths) -> Shapes:
    return ((n, w.latent),)


# fmt: off
SUBJECTS: dict[str, Subject] = {
    "pixel_norm": Subject("op", "pixel norm", lambda r, w, b, _: nn.PixelNorm(backend=b), _map),
    "bias_act": Subject("op", "bias and leaky ReLU", lambda r, w, b, _: _BiasAct(w.channels(r), b), _map),
    "fade_in": Subject("op", "two images blended", lambda r, w, b, _: _FadeIn(backend=b), _two_images, (8, 1024)),
    "minibatch_stddev": Subject("op", "minibatch deviation", lambda r, w, b, _: nn.MinibatchStdDev(backend=b), _map),
    "up": Subject("layer", "G's first convolution of a level: nearest x2, 3x3, bias, leaky ReLU, pixel norm",
                  _up, _half_map, (8, 1024)),
    "conv": Subject("layer", "G's second: 3x3, bias, leaky ReLU, pixel norm", _same, _map),
    "down": Subject("layer", "D's second convolution of a level: 3x3, 2x2 mean, bias, leaky ReLU",
                    _down, _map, (8, 1024)),
    "to_rgb": Subject("layer", "1x1 to 3 channels", lambda r, w, b, _: nn.ToRGB(w.channels(r), backend=b), _map),
    "from_rgb": Subject("layer", "1x1 from 3 channels, leaky ReLU",
                        lambda r, w, b, _: nn.FromRGB(3, w.channels(r), backend=b), _image),
    "dense": Subject("layer", "G's first layer: latents to 4x4 maps, bias, leaky ReLU, pixel norm",
                     _dense, _latent, (4, 4)),
    "G.block": Subject("block", "a level of G: up, conv",
                       lambda r, w, b, _: _GBlock(_up(r, w, b), _same(r, w, b)), _half_map, (8, 1024)),
    "D.block": Subject("block", "a level of D: 3x3, leaky ReLU, down",
                       lambda r, w, b, _: torch.nn.Sequential(
                           _conv(w.channels(r), w.channels(r), b, norm="none"), _down(r, w, b)),
                       _map, (8, 1024)),
    "G": Subject("network", "the generator", _generator, _latent, output="image"),
    "D": Subject("network", "the discriminator",
                 lambda r, w, b, last: _Score(discriminator(r, w, b, last)), _image, output="score"),
}
# fmt: on
