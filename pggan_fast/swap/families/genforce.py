"""genforce/genforce: PGGANGenerator and PGGANDiscriminator.

Each layer of G normalises its input; here each normalises its output, which the next layer and the image see: the same
network. Kernels that resample (`fused_scale`) are 3x3 kernels summed over half-pixel shifts, which is resampling
before or after the 3x3 kernel, turned by 180 degrees where it is transposed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pggan_fast.swap.chain import chain
from pggan_fast.swap.families import network, plan
from pggan_fast.swap.fused import Forward
from pggan_fast.swap.steps import Conv, Norm, NotAsRecorded, Pool, Ref, Step, Up, View


class Turned(Ref):
    """A transposed convolution's kernel as the convolution's, [out, in, k, k]."""

    def __call__(self) -> Tensor:
        return super().__call__().transpose(0, 1).flip(2, 3)


class Generator(network.Network[plan.Generator]):
    pattern = "generator of genforce"
    any_level = True

    def read(self, m: Any) -> None:
        levels, to_rgb = [], []
        for k in range(_levels(m)):
            first, second = (self._layer(getattr(m, f"layer{2 * k + i}")) for i in range(2))
            norm, *show = self._layer(getattr(m, f"output{k}"))
            same = isinstance(norm, Norm) and norm == first[0] == second[0]
            network.expect(same, "layers that do not begin with one and the same pixel norm")
            levels.append(chain([*(first if k == 0 else first[1:]), *second, norm]))
            to_rgb.append(chain(show))
        self.net = plan.Generator(levels, to_rgb)
        self.norm = chain(self.steps(m.layer0.pixel_norm, 2))

    def _layer(self, layer: Any) -> list[Step]:
        if not layer.use_conv2d_transpose:
            return list(self.steps(layer))
        conv = Conv(Turned(layer, "weight"), network.number(layer.wscale), _bias(layer))
        return [*self.steps(layer.pixel_norm), Up(), conv, *self.steps(layer.activate)]

    def run(self, z: Tensor, label: Any = None, lod: Any = None, **unused: Any) -> dict[str, Any]:
        m: Any = self.module
        level, alpha, times = _place(m, lod)
        z = self.norm(network.latent(z, m.z_space_dim))
        if m.label_size:
            if not isinstance(label, Tensor) or label.shape != (z.shape[0], m.label_size):
                raise NotAsRecorded("another label")
            z = torch.cat((z, label), dim=1)
        image = self.net(z[:, :, None, None], level, alpha)
        for _ in range(times):
            image = m.upsample(image)
        return {"z": z, "label": label, "image": m.final_activate(image)}

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        label = torch.randn(n, m.label_size, dtype=like.dtype, device=like.device) if m.label_size else None
        return network.random_latent(like, n, m.z_space_dim), label, _lod(m, level, alpha)


class Discriminator(network.Network[plan.Discriminator]):
    pattern = "discriminator of genforce"
    any_level = True

    def read(self, m: Any) -> None:
        top = _levels(m) - 1
        conv, dense, head = (getattr(m, f"layer{2 * top + i}") for i in range(3))
        blocks = [chain([*self._layer(conv), View(), *self.steps(dense, 2), *self.steps(head, 2)])]
        pairs = [[getattr(m, f"layer{2 * k + i}") for i in range(2)] for k in reversed(range(top))]
        blocks += [chain([*self._layer(a), *self._layer(b)]) for a, b in pairs]
        self.net = plan.Discriminator([self.chain(getattr(m, f"input{k}")) for k in reversed(range(top + 1))], blocks)

    def _layer(self, layer: Any) -> list[Step]:
        if not layer.use_stride:
            return list(self.steps(layer))
        conv = Conv(Ref(layer, "weight"), network.number(layer.wscale), _bias(layer))
        return [*self.steps(layer.mbstd), conv, Pool(), *self.steps(layer.activate)]

    def run(self, image: Tensor, lod: Any = None, **unused: Any) -> Tensor:
        m: Any = self.module
        _place(m, lod)  # its own forward refuses what is too large here,
        level, alpha, times = _place(m, None)  # but then reads the buffer whatever it was given
        top = len(self.net.blocks)
        image = network.image(image, top - 1, top)
        for _ in range(times):
            image = m.downsample(image)
        return self.net(image, level, alpha)

    def arguments(self, like: Tensor, n: int, level: int, alpha: float | None) -> tuple[Any, ...]:
        m: Any = self.module
        return (network.random_image(like, n, m.image_channels, self.top),)

    def state(self, level: int, alpha: float | None) -> AbstractContextManager[Any]:
        m: Any = self.module
        return network.attribute(m, "lod", torch.full_like(m.lod, _lod(m, level, alpha)))


def _lod(m: Any, level: int, alpha: float | None) -> float:
    return _levels(m) - 1 - level + (0.0 if alpha is None else 1.0 - alpha)


def _levels(m: Any) -> int:
    return int(m.final_res_log2 - m.init_res_log2 + 1)


def _bias(layer: Any) -> Ref | None:
    return None if layer.bias is None else Ref(layer, "bias")


def _place(m: Any, lod: Any) -> tuple[int, float | None, int]:
    """The level that a level of detail shows, its weight, and how often the image is resampled."""
    lod = m.lod.cpu().tolist() if lod is None else lod
    if not isinstance(lod, (int, float)) or not 0 <= lod < _levels(m):
        raise NotAsRecorded(f"lod {lod}")
    times = int(lod)
    if lod == times:
        return _levels(m) - 1 - times, None, times
    if times == _levels(m) - 1:
        raise NotAsRecorded(f"lod {lod}")
    return _levels(m) - 1 - times, 1.0 - (lod - times), times


def match(m: torch.nn.Module) -> Forward | None:
    if network.has(m, "lod", "layer0", "output0", "final_res_log2", "z_space_dim", "final_activate"):
        return Generator(m)
    if network.has(m, "lod", "layer0", "input0", "final_res_log2", "downsample"):
        return Discriminator(m)
    return None
