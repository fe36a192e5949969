"""The discriminator of progressive GANs (official `D_paper`), built on the fused layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.backends import layout
from pggan_fast.models.levels import Levels, block_of, fades, name
from pggan_fast.ops import _checks


class Discriminator(torch.nn.Module):
    """Images of any level to a score, and label logits if label_dim > 0.

    Each block is `conv` (3x3) and `conv_down` (3x3 with 2x2 mean), bias and leaky ReLU 0.2, no norm; the last is
    minibatch stddev, `conv`, `dense` and the linear `head`. While a level fades in, features are blended.

    Args:
        widen_first: `conv` changes the number of feature maps rather than `conv_down` (official).
        downsample: "down" averages before the bias (official), "pool" after the activation (most PyTorch ports).
        stddev_group: samples per minibatch-stddev group; must divide the batch, or exceed it. torch.compile makes one
            graph for all such batches; torch.export too, but with the reference one for a single group (from a batch
            of one, with Dim.AUTO) and another for several (stddev_group * Dim("groups")). 0: no such layer.
        stddev_grouping, stddev_unbiased, stddev_eps: see `ops.minibatch_stddev`.
        fade_from: the lowest level whose fading in shows; below it alpha has no meaning.
        Others: see `Generator`.
    Raises:
        ValueError, TypeError: an argument is off, here or in `forward`; the message names it.
    Source: Karras et al. 2017, tables 2 and 3, section 3.
    """

    _joins = True  # batches in one pass; not with backend "reference", which is what others write

    def __init__(
        self,
        resolution: int = 1024,
        *,
        label_dim: int = 0,
        channels: int = 3,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
        fmaps: Sequence[int] | None = None,
        base_shape: tuple[int, int] = (4, 4),
        negative_slope: float = 0.2,
        widen_first: bool = False,
        downsample: str = "down",
        stddev_group: int = 4,
        stddev_grouping: str = "strided",
        stddev_unbiased: bool = False,
        stddev_eps: float = 1e-8,
        fade_from: int = 8,
        backend: str | None = None,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__()
        _checks.one_of("downsample", downsample, ("down", "pool"))
        _checks.one_of("stddev_grouping", stddev_grouping, ("strided", "adjacent"))
        _checks.counts(1, channels=channels)
        _checks.counts(0, label_dim=label_dim, stddev_group=stddev_group, fade_from=fade_from)
        widths = None if fmaps is None else tuple(fmaps)
        self.levels = Levels(resolution, tuple(base_shape), fmap_base, fmap_decay, fmap_max, widths)
        self.label_dim, self.channels, self.negative_slope = label_dim, channels, negative_slope
        self.widen_first, self.downsample, self.fade_from = widen_first, downsample, fade_from
        self.channels_last = backend != "reference" if channels_last is None else channels_last
        self._joins = backend != "reference"
        self.stddev: nn.MinibatchStdDev | None = None
        if stddev_group:
            self.stddev = nn.MinibatchStdDev(
                stddev_group, grouping=stddev_grouping, unbiased=stddev_unbiased, eps=stddev_eps, backend=backend
            )
        layer: dict[str, Any] = {"negative_slope": negative_slope, "backend": backend}
        self.blocks, self.from_rgb = torch.nn.ModuleDict(), torch.nn.ModuleDict()
        for r in self.levels.resolutions:
            c = self.levels.channels(r)
            self.from_rgb[name(r)] = nn.FromRGB(channels, c, **layer)
            self.blocks[name(r)] = self._last_block(c, layer) if r == 4 else self._block(r, c, layer)

    def _block(self, r: int, c: int, layer: dict[str, Any]) -> torch.nn.ModuleDict:
        lower = self.levels.channels(r // 2)
        middle = lower if self.widen_first else c
        block = torch.nn.ModuleDict()
        block["conv"] = nn.ScaledConv2d(c, middle, **layer)
        block["conv_down"] = nn.ScaledConv2d(middle, lower, resample=self.downsample, **layer)
        return block

    def _last_block(self, c: int, layer: dict[str, Any]) -> torch.nn.ModuleDict:
        height, width = self.levels.base_shape
        units = self.levels.stage_channels(0)
        block = torch.nn.ModuleDict()
        block["conv"] = nn.ScaledConv2d(c + (self.stddev is not None), c, **layer)
        block["dense"] = nn.ScaledLinear(c * height * width, units, **layer)
        block["head"] = nn.ScaledLinear(units, 1 + self.label_dim, gain=1.0, backend=layer["backend"])
        return block

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments that say what is computed, as JSON has them."""
        names = ("label_dim", "channels", "negative_slope", "widen_first", "downsample", "fade_from")
        found = {**self.levels.arguments, **{name: getattr(self, name) for name in names}, "stddev_group": 0}
        if self.stddev is not None:
            of = {"group": "group_size", "grouping": "grouping", "unbiased": "unbiased", "eps": "eps"}
            found |= {f"stddev_{ours}": getattr(self.stddev, theirs) for ours, theirs in of.items()}
        return found

    def forward(self, image: Tensor, *, alpha: float | Tensor = 1.0) -> tuple[Tensor, Tensor | None]:
        """(score [N], label logits [N, label_dim] or None); the level is read off the image's size.

        Args:
            image: [N, channels, H, W] at the size of any level.
            alpha: weight of the newest level, a float or a 0-d tensor; 1 is only the new level. Without meaning at 4x4.
        """
        _checks.tensor("image", image, (4,))
        if image.shape[1] != self.channels:
            raise ValueError(f"image: expected shape [N, {self.channels}, H, W], got {tuple(image.shape)}")
        r = self.levels.of_image(image.shape[2], image.shape[3])
        if self.channels_last:
            image = layout.channels_last(image)
        _checks.network_input("image", image, self.from_rgb[name(r)])
        fading = fades(alpha) and r > 4 and r >= self.fade_from
        x = image
        for level in reversed([v for v in self.levels.resolutions if 4 < v <= r]):
            block = block_of(self.blocks, level)
            x = self._stem(image, r) if level == r else block["conv"](x)
            x = block["conv_down"](x)
            if level == r and fading:
                x = cast(nn.FromRGB, self.from_rgb[name(r // 2)]).fade_in(image, x, alpha)
        if r == 4:
            x = self.from_rgb[name(r)](image)
        block = block_of(self.blocks, 4)
        if self.stddev is not None:
            x = self.stddev(x)
        x = block["conv"](x).flatten(1)  # [N, C * h * w] in NCHW order
        out = block["head"](block["dense"](x))
        return out[:, 0], out[:, 1:] if self.label_dim else None

    def interleaving(self, n: int) -> int:
        """Into how many pieces batches of n are to be cut, so that the first pieces of all, then their second ones, and
        so on, are one batch in which each image scores as in its own; 0 where there is no such order.

        The minibatch stddev is the only layer that looks at several images: a strided group has one of each piece. What
        was put in place of a layer, or looks at what layers do, may look at more.
        """
        if not self._joins or torch.compiler.is_compiling() or not self._is_plain():
            return 0
        if self.stddev is None:
            return 1
        group = self.stddev.group_size
        if n < group or n % group:  # a smaller batch is one group, two of them would be another one
            return 0
        return group if self.stddev.grouping == "strided" else 1

    def _is_plain(self) -> bool:
        layers = [module for module in self.modules() if module is not self and type(module) is not torch.nn.ModuleDict]
        kinds = nn.ScaledConv2d, nn.FromRGB, nn.ScaledLinear, nn.MinibatchStdDev
        return type(self) is Discriminator and "forward" not in vars(self) and nn.plain(*layers, kinds=kinds)

    def _stem(self, image: Tensor, r: int) -> Tensor:
        """fromRGB and the first convolution of level r."""
        from_rgb = cast(nn.FromRGB, self.from_rgb[name(r)])
        conv = cast(nn.ScaledConv2d, block_of(self.blocks, r)["conv"])
        # The op has one slope for both layers, and no norm
        if nn.fusable(from_rgb, conv) and from_rgb.epilogue == conv.epilogue and conv.pixel_norm == "none":
            return ops.discriminator_stem(
                image, from_rgb.scaled, conv.scaled, negative_slope=conv.negative_slope, backend=conv.backend
            )
        features: Tensor = conv(from_rgb(image))
        return features
