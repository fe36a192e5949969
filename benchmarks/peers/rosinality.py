"""The networks of rosinality/progressive-gan-pytorch in structure, names and numerics.

A forward pre-hook writes `weight` from `weight_orig`; conv -> pixel norm -> leaky ReLU; toRGB, fromRGB and the last
layer are plain; no activation follows fromRGB; the old image comes from the upsampled features; the deviation that D
appends is that of the 4x4 level's *input image*. alpha outside of [0, 1) shows the new level alone.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class EqualLR:
    """The hook: weight = weight_orig * sqrt(2 / fan_in)."""

    def __init__(self, name):
        self.name = name

    def compute_weight(self, module):
        weight = getattr(module, f"{self.name}_orig")
        return weight * math.sqrt(2 / math.prod(weight.shape[1:]))

    @classmethod
    def apply(cls, module, name):
        hook, weight = cls(name), module._parameters.pop(name)
        module.register_parameter(f"{name}_orig", nn.Parameter(weight.data))
        module.register_forward_pre_hook(hook)
        return hook

    def __call__(self, module, args):
        setattr(module, self.name, self.compute_weight(module))


class PixelNorm(nn.Module):
    def forward(self, x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


class EqualConv2d(nn.Module):
    def __init__(self, *args, **options):
        super().__init__()
        self.conv = nn.Conv2d(*args, **options)
        nn.init.normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        EqualLR.apply(self.conv, "weight")

    def forward(self, x):
        return self.conv(x)


class ConvBlock(nn.Module):
    def __init__(self, cin, cout, size, padding, size2=None, padding2=None, pixel_norm=True):
        super().__init__()
        layers = []
        second = (cout, size2 or size, padding if padding2 is None else padding2)
        for channels, kernel, pad in ((cin, size, padding), second):
            norm = [PixelNorm()] if pixel_norm else []
            layers += [EqualConv2d(channels, cout, kernel, padding=pad), *norm, nn.LeakyReLU(0.2)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return self.conv(x)


class Generator(nn.Module):
    def __init__(self, code_dim=502, n_label=10, *, widths):
        super().__init__()
        self.label_embed = nn.Embedding(n_label, n_label)
        self.code_norm = PixelNorm()
        blocks = [ConvBlock(a, b, 3, 1) for a, b in pairwise(widths)]
        self.progression = nn.ModuleList([ConvBlock(code_dim + n_label, widths[0], 4, 3, 3, 1), *blocks])
        self.to_rgb = nn.ModuleList(nn.Conv2d(width, 3, 1) for width in widths)

    def forward(self, input, label, step=0, alpha=-1):
        out = torch.cat([self.code_norm(input), self.label_embed(label)], 1)[:, :, None, None]
        for i in range(step + 1):
            if i:
                out = upsampled = F.interpolate(out, scale_factor=2)
            out = self.progression[i](out)
        out = self.to_rgb[step](out)
        if step and 0 <= alpha < 1:
            out = (1 - alpha) * self.to_rgb[step - 1](upsampled) + alpha * out
        return out


class Discriminator(nn.Module):
    def __init__(self, n_label=10, *, widths):
        super().__init__()
        top = list(reversed(widths))
        plain = {"pixel_norm": False}
        blocks = [ConvBlock(a, b, 3, 1, **plain) for a, b in pairwise(top)]
        self.progression = nn.ModuleList([*blocks, ConvBlock(top[-1] + 1, top[-1], 3, 1, 4, 0, **plain)])
        self.from_rgb = nn.ModuleList(nn.Conv2d(3, width, 1) for width in top)
        self.n_layer = len(self.progression)
        self.linear = nn.Linear(top[-1], 1 + n_label)

    def forward(self, input, step=0, alpha=-1):
        first = self.n_layer - 1 - step
        out = self.from_rgb[first](input)
        for index in range(first, self.n_layer - 1):
            out = F.avg_pool2d(self.progression[index](out), 2)
            if index == first and 0 <= alpha < 1:
                out = (1 - alpha) * self.from_rgb[index + 1](F.avg_pool2d(input, 2)) + alpha * out
        deviation = input.std(0).mean().expand(len(input), 1, 4, 4)
        out = self.linear(self.progression[-1](torch.cat([out, deviation], 1))[:, :, 0, 0])
        return out[:, 0], out[:, 1:]


def networks(depth, widths, latent):
    """Labels are 2 of the latent's numbers."""
    widths = widths[: depth + 1]
    return Generator(latent - 2, 2, widths=widths), Discriminator(2, widths=widths)


def generate(model, z, depth, alpha):
    n_label = model.label_embed.num_embeddings
    labels = torch.arange(len(z), device=z.device) % n_label
    return model(z[:, n_label:], labels, step=depth, alpha=alpha)


def score(model, x, depth, alpha):
    return torch.cat([out.view(len(x), -1) for out in model(x, step=depth, alpha=alpha)], 1)
