"""What all families share: a generator and a discriminator as chains, one per level, and how they run.

An adapter reads its family's network into one of these, and turns the arguments of a call into a level and a weight.
Level 0 is 4x4. `alpha` is the weight of the newer level; None shows that alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast import ops, reference
from pggan_fast.backends import layout
from pggan_fast.ops._autograd import needs_reference
from pggan_fast.swap.chain import Chain, ConvUnit
from pggan_fast.swap.fused import chain_channels_last, inside, outside
from pggan_fast.swap.steps import Stddev

Alpha = float | Tensor | None
Pair = tuple[ConvUnit, ConvUnit]


@dataclass(frozen=True)
class Generator:
    """levels[0]: a latent to features of 4x4; levels[k]: features of level k - 1 to those of k. to_rgb[k]: features of
    level k to an image; None where the network no longer shows that level."""

    levels: Sequence[Chain]
    to_rgb: Sequence[Chain | None]
    blocks: Sequence[Pair | None] = field(init=False)  # the levels that are one `ops.generator_stage`
    linear: Sequence[ConvUnit | None] = field(init=False)  # of to_rgb those that are one linear convolution

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", [_block(level) for level in self.levels])
        object.__setattr__(self, "linear", [_linear(show) for show in self.to_rgb])

    @property
    def chains(self) -> Sequence[Chain]:
        return self.levels

    def __call__(self, z: Tensor, level: int, alpha: Alpha = None) -> Tensor:
        """Images [N, K, H, W] of a level."""
        x = z
        for k in range(level):
            x = self._features(k, x)
        return outside(self._image(level, x, alpha), keep=chain_channels_last(self.levels[level]))

    def _features(self, k: int, x: Tensor) -> Tensor:
        block = self.blocks[k]
        return self.levels[k](x) if block is None or not _sampling() else _stage(x, block)

    def _image(self, k: int, x: Tensor, alpha: Alpha) -> Tensor:
        """What level k shows, x being the features of the one below."""
        block, high = self.blocks[k], self.linear[k]
        low = None if alpha is None else self.linear[k - 1]
        in_one = high is not None and (alpha is None or (low is not None and _exact(alpha, x)))
        if in_one and block is not None and _sampling():
            return _stage(x, block, high, low, alpha)
        y = self.levels[k](x)
        if alpha is None:
            return _present(self.to_rgb[k])(y)
        if not in_one or high is None or low is None:
            return fade(_present(self.to_rgb[k - 1])(x), _present(self.to_rgb[k])(y), alpha)
        a, b = low.conv.scaled, high.conv.scaled
        return ops.to_rgb_fade_in(
            x,
            y,
            a.weight,
            a.bias,
            b.weight,
            b.bias,
            alpha,
            weight_scale_low=a.weight_scale,
            weight_scale_high=b.weight_scale,
            bias_scale_low=a.bias_scale,
            bias_scale_high=b.bias_scale,
        )


@dataclass(frozen=True)
class Discriminator:
    """from_rgb[k]: images of level k to features; blocks[k]: features of level k to those of k - 1; blocks[0] goes from
    4x4 to what the adapter makes scores of. None where the network no longer has such a layer."""

    from_rgb: Sequence[Chain | None]
    blocks: Sequence[Chain]
    stems: Sequence[Pair | None] = field(init=False)  # those that are one `ops.discriminator_stem`

    def __post_init__(self) -> None:
        pairs = zip(self.from_rgb, self.blocks, strict=True)
        object.__setattr__(self, "stems", [_stem(*pair) for pair in pairs])

    @property
    def chains(self) -> Sequence[Chain]:
        return self.blocks

    def __call__(self, image: Tensor, level: int, alpha: Alpha = None) -> Tensor:
        return self.blocks[0](self.features(image, level, alpha))

    def features(self, image: Tensor, level: int, alpha: Alpha = None) -> Tensor:
        """4x4 features of images of a level."""
        image = inside(image)
        if level == 0:
            return _present(self.from_rgb[0])(image)
        x = self._top(image, level)
        if alpha is not None:
            x = self._blended(image, level - 1, x, alpha)
        for k in reversed(range(1, level)):
            x = self.blocks[k](x)
        return x

    def _top(self, image: Tensor, k: int) -> Tensor:
        stem = self.stems[k]
        if stem is None or not _sampling():
            return self.blocks[k](_present(self.from_rgb[k])(image))
        first, conv = stem
        x = ops.discriminator_stem(image, first.conv.scaled, conv.conv.scaled, negative_slope=conv.epilogue.slope)
        for unit in self.blocks[k].units[1:]:
            x = unit(x)
        return x

    def _blended(self, image: Tensor, k: int, high: Tensor, alpha: float | Tensor) -> Tensor:
        """The older level's features of the halved image, and `high`."""
        chain = _present(self.from_rgb[k])
        unit = _only(chain)
        if unit is None or unit.conv.kernel != 1 or unit.epilogue.norm != "none" or not _exact(alpha, high):
            return fade(chain(layout.conform(reference.down2(image), image)), high, alpha)
        layer, slope = unit.conv.scaled, unit.epilogue.slope
        return ops.from_rgb_fade_in(
            image,
            high,
            layer.weight,
            layer.bias,
            alpha,
            weight_scale=layer.weight_scale,
            bias_scale=layer.bias_scale,
            negative_slope=1.0 if slope is None else slope,  # 1 is linear
        )


class AdjacentStddev(Stddev):
    """Unbiased statistics over neighbouring samples; over the whole batch where the group does not divide it, and zeros
    of a single sample."""

    def __call__(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        group = min(n, self.group or n)
        if n % group:
            group = n
        if group == 1:
            return layout.conform(F.pad(x, (0, 0, 0, 0, 0, 1)), x)
        return ops.minibatch_stddev(x, group, grouping="adjacent", unbiased=True, eps=self.eps)


def fade(low: Tensor, high: Tensor, alpha: float | Tensor) -> Tensor:
    """The blend of two images or features, `low` perhaps of half the size."""
    if _exact(alpha, high):
        return ops.fade_in(low, high, alpha)
    if low.shape[2:] != high.shape[2:]:
        low = reference.up2(low)
    return low * (1 - alpha) + high * alpha


def _exact(alpha: Alpha, x: Tensor) -> bool:
    """Whether the fused blends weigh as a product by hand does: they clamp the weight, round it to float32 and do not
    differentiate it."""
    return isinstance(alpha, (int, float)) and 0.0 <= alpha <= 1.0 and x.dtype != torch.float64


def _sampling() -> bool:
    """Whether whole blocks may run as one op: as in pggan_fast's own networks."""
    return not torch.is_grad_enabled() and not needs_reference()


def _present(chain: Chain | None) -> Chain:
    if chain is None:
        raise ValueError("the network does not have this level")
    return chain


def _only(chain: Chain | None) -> ConvUnit | None:
    """The one convolution that the chain is, at the size of its input."""
    unit = chain.units[0] if chain is not None and len(chain.units) == 1 else None
    return unit if isinstance(unit, ConvUnit) and unit.resample == "none" else None


def _linear(chain: Chain | None) -> ConvUnit | None:
    unit = _only(chain)
    return unit if unit is not None and unit.conv.kernel == 1 and not unit.epilogue else None


def _block(chain: Chain) -> Pair | None:
    if len(chain.units) != 2 or not all(isinstance(u, ConvUnit) and u.conv.kernel == 3 for u in chain.units):
        return None
    up, conv = chain.units
    return (up, conv) if (up.resample, conv.resample) == ("up", "none") and up.epilogue == conv.epilogue else None


def _stem(from_rgb: Chain | None, block: Chain) -> Pair | None:
    first, conv = _only(from_rgb), block.units[0] if block.units else None
    if first is None or not isinstance(conv, ConvUnit) or (first.conv.kernel, conv.conv.kernel) != (1, 3):
        return None
    same = first.epilogue == conv.epilogue and conv.epilogue.norm == "none" and conv.resample == "none"
    return (first, conv) if same else None


def _stage(
    x: Tensor, block: Pair, high: ConvUnit | None = None, low: ConvUnit | None = None, alpha: Alpha = None
) -> Tensor:
    up, conv = block
    return ops.generator_stage(
        x,
        up.conv.scaled,
        conv.conv.scaled,
        None if high is None else high.conv.scaled,
        None if low is None else low.conv.scaled,
        1.0 if alpha is None else alpha,
        **conv.epilogue.options,
    )
