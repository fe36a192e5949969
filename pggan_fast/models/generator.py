"""The generator of progressive GANs (official `G_paper`), built on the fused layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.models.levels import Levels, block_of, fades, name
from pggan_fast.ops import _autocast, _checks


class Generator(torch.nn.Module):
    """Latents to images, 4x4 up to `resolution`.

    Order in every layer: convolution, bias, leaky ReLU 0.2, pixel norm. Each block is `conv_up` (nearest x2 and 3x3
    convolution) and `conv` (3x3); `to_rgb` is linear. While a level fades in, RGB images are blended.

    Args:
        resolution: full (nominal) resolution, a power of two >= 4.
        latent_dim, label_dim: sizes of z and of the labels.
        channels: image channels.
        fmap_base, fmap_decay, fmap_max: the level of resolution 2^k has
            min(fmap_base / 2^((k - 1) * fmap_decay), fmap_max) feature maps.
        fmaps: instead, D's dense units and then the feature maps of each level.
        base_shape: height and width of the first level; level k has base_shape * 2^k.
        eps: the pixel norms' epsilon.
        latent_norm: "joined" (official) pixel-normalises [z, labels] as one vector, "z" only z, "both" one after the
            other, "none" neither.
        negative_slope: the leaky ReLUs'; 0 is ReLU.
        pixel_norm: of all layers, "after_act" (official), "before_act" or "none".
        first_norm: False leaves out the norm after the dense layer alone.
        unit_bias: the dense layer has a bias per unit rather than per channel.
        tanh_from: the lowest level whose images pass tanh; None is no level (official).
        backend: None chooses, see `pggan_fast.backends`; "reference" is plain PyTorch. "cuda" convolves at most 64
            channels, so it is named layer by layer: csrc/cuda/README.md shows how.
        channels_last: the memory format inside; None: channels_last unless backend is "reference".
    Raises:
        ValueError, TypeError: an argument is off, here or in `forward`; the message names it.
    Source: Karras et al. 2017, tables 2 and 3.
    """

    def __init__(
        self,
        resolution: int = 1024,
        *,
        latent_dim: int = 512,
        label_dim: int = 0,
        channels: int = 3,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
        fmaps: Sequence[int] | None = None,
        base_shape: tuple[int, int] = (4, 4),
        eps: float = 1e-8,
        latent_norm: str = "joined",
        negative_slope: float = 0.2,
        pixel_norm: str = "after_act",
        first_norm: bool = True,
        unit_bias: bool = False,
        tanh_from: int | None = None,
        backend: str | None = None,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__()
        _checks.counts(1, latent_dim=latent_dim, channels=channels)
        _checks.counts(0, label_dim=label_dim)
        _checks.one_of("latent_norm", latent_norm, ("joined", "z", "both", "none"))
        widths = None if fmaps is None else tuple(fmaps)
        self.levels = Levels(resolution, tuple(base_shape), fmap_base, fmap_decay, fmap_max, widths)
        self.latent_dim, self.label_dim, self.channels = latent_dim, label_dim, channels
        self.eps, self.latent_norm, self.negative_slope, self.pixel_norm = eps, latent_norm, negative_slope, pixel_norm
        self.first_norm, self.unit_bias, self.backend = first_norm, unit_bias, backend
        if tanh_from is not None and tanh_from not in self.levels.resolutions:
            raise ValueError(f"tanh_from: expected None or one of {self.levels.resolutions}, got {tanh_from!r}")
        self.tanh_from = tanh_from
        if channels_last is None:
            channels_last = backend != "reference"
        self.blocks, self.to_rgb = torch.nn.ModuleDict(), torch.nn.ModuleDict()
        for r in self.levels.resolutions:
            c = self.levels.channels(r)
            block = torch.nn.ModuleDict()
            if r == 4:
                block["dense"] = self._first_layer(c, channels_last)
            else:
                block["conv_up"] = self._layer(self.levels.channels(r // 2), c, "up")
            block["conv"] = self._layer(c, c, "none")
            self.blocks[name(r)] = block
            self.to_rgb[name(r)] = nn.ToRGB(c, channels, backend=backend)

    def _first_layer(self, cout: int, channels_last: bool) -> nn.LatentToMap:
        return nn.LatentToMap(
            self.latent_dim + self.label_dim,
            cout,
            self.levels.base_shape,
            negative_slope=self.negative_slope,
            pixel_norm=self.pixel_norm if self.first_norm else "none",
            eps=self.eps,
            unit_bias=self.unit_bias,
            channels_last=channels_last,
            backend=self.backend,
        )

    def _layer(self, cin: int, cout: int, resample: str) -> nn.ScaledConv2d:
        return nn.ScaledConv2d(
            cin,
            cout,
            resample=resample,
            negative_slope=self.negative_slope,
            pixel_norm=self.pixel_norm,
            eps=self.eps,
            backend=self.backend,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments that say what is computed, as JSON has them."""
        names = ("eps", "latent_norm", "negative_slope", "pixel_norm", "first_norm", "unit_bias", "tanh_from")
        sizes = {"latent_dim": self.latent_dim, "label_dim": self.label_dim, "channels": self.channels}
        return {**self.levels.arguments, **sizes, **{name: getattr(self, name) for name in names}}

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
    ) -> Tensor:
        """Images [N, channels, H, W] in about [-1, 1] at `resolution` (default: full), in the inner memory format.

        Args:
            z: [N, latent_dim]; labels: [N, label_dim], needed exactly when label_dim > 0.
            alpha: weight of the newest level, a float or a 0-d tensor; 1 is only the new level. Without meaning at 4.
        """
        r = self.levels.checked(self.levels.resolution if resolution is None else resolution)
        _checks.tensor("z", z, (2,))
        _checks.network_input("z", z, block_of(self.blocks, 4)["dense"])
        x = self._joined(z, labels)
        for level in self.levels.resolutions:
            if level == r:
                break
            x = block_features(block_of(self.blocks, level), x)
        image = self._image(r, x, alpha)
        return image if self.tanh_from is None or r < self.tanh_from else torch.tanh(image)

    def _image(self, level: int, x: Tensor, alpha: float | Tensor) -> Tensor:
        """What the level shows, x being the features of the one below."""
        block, to_rgb, low = block_of(self.blocks, level), cast(nn.ToRGB, self.to_rgb[name(level)]), None
        if fades(alpha) and level > 4:
            low = cast(nn.ToRGB, self.to_rgb[name(level // 2)])
        if level > 4 and _one_op(block, to_rgb, *([] if low is None else [low])):
            return _stage(block, x, to_rgb.scaled, None if low is None else low.scaled, alpha)
        y = block_features(block, x)
        return to_rgb(y) if low is None else to_rgb.fade_in(y, low, x, alpha)

    def _joined(self, z: Tensor, labels: Tensor | None) -> Tensor:
        self.check_inputs(z, labels)
        if self.latent_norm in ("z", "both"):
            z = ops.pixel_norm(z, self.eps, backend=self.backend)
        if labels is not None:
            with _autocast.off(z):
                z = torch.cat([z, labels.to(z.dtype)], dim=1)
        return ops.pixel_norm(z, self.eps, backend=self.backend) if self.latent_norm in ("joined", "both") else z

    def check_inputs(self, z: Tensor, labels: Tensor | None = None) -> None:
        """Raise TypeError or ValueError where `forward` does not take z and labels; the message says what it takes."""
        _checks.tensor("z", z, (2,))
        if z.shape[1] != self.latent_dim:
            raise ValueError(f"z: expected shape [N, {self.latent_dim}], got {tuple(z.shape)}")
        if labels is not None and not isinstance(labels, Tensor):
            raise TypeError(f"labels: expected a tensor, got {type(labels).__name__}")
        if (labels is None) != (self.label_dim == 0):
            expected = f"shape [N, {self.label_dim}]" if self.label_dim else "None, as label_dim is 0"
            raise ValueError(f"labels: expected {expected}, got {None if labels is None else tuple(labels.shape)}")
        if labels is not None and labels.shape != (z.shape[0], self.label_dim):
            raise ValueError(f"labels: expected shape {(z.shape[0], self.label_dim)}, got {tuple(labels.shape)}")


def block_features(block: torch.nn.ModuleDict, x: Tensor) -> Tensor:
    """What a level makes of the features below it (the first: of latents)."""
    if "conv_up" in block and _one_op(block):
        return _stage(block, x)
    for layer in block.values():
        x = layer(x)
    return x


def _one_op(block: torch.nn.ModuleDict, *shows: nn.ToRGB) -> bool:
    """Whether `_stage` may compute the block: two convolutions, whose epilogue it has once, and linear images."""
    if len(block) != 2 or not nn.fusable(*block.values(), *shows):
        return False
    conv_up, conv = cast(nn.ScaledConv2d, block["conv_up"]), cast(nn.ScaledConv2d, block["conv"])
    return conv_up.epilogue == conv.epilogue and all(layer.linear for layer in shows)


def _stage(
    block: torch.nn.ModuleDict,
    x: Tensor,
    to_rgb: ops.Scaled | None = None,
    to_rgb_low: ops.Scaled | None = None,
    alpha: float | Tensor = 1.0,
) -> Tensor:
    """A block, and what shows it, as one op."""
    conv_up, conv = cast(nn.ScaledConv2d, block["conv_up"]), cast(nn.ScaledConv2d, block["conv"])
    return ops.generator_stage(
        x,
        conv_up.scaled,
        conv.scaled,
        to_rgb,
        to_rgb_low,
        alpha,
        **conv.epilogue,
        backend=conv.backend,
    )
