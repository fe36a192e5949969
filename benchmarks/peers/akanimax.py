"""The networks of akanimax/pro_gan_pytorch (PyPI: pro-gan-pth 3.4) in structure, names and numerics.

Scale on the weight; the blocks call their layers from their forward. `networks`, `generate` and `score` are common to
all families here: depth 0 is 4x4, and alpha 1 is only the new level.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class EqualizedConv2d(nn.Conv2d):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = math.sqrt(2 / (self.in_channels * math.prod(self.kernel_size)))

    def forward(self, x):
        return torch.conv2d(
            x, self.weight * self.scale, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class EqualizedConvTranspose2d(nn.ConvTranspose2d):
    """fan_in is the number of channels alone. The published forward asks a method of torch's own, whose signature has
    changed since, for the padding of the output: `as_published` does so too."""

    as_published = False

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = math.sqrt(2 / self.in_channels)

    def forward(self, x, output_size=None):
        if self.as_published:
            self._output_padding(x, output_size, self.stride, self.padding, self.kernel_size)
        return torch.conv_transpose2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class PixelwiseNorm(nn.Module):
    @staticmethod
    def forward(x, alpha=1e-8):
        return x / (x.square().mean(1, keepdim=True) + alpha).sqrt()


class MinibatchStdDev(nn.Module):
    def __init__(self, group_size=4):
        super().__init__()
        self.group_size = group_size

    def forward(self, x, alpha=1e-8):
        group = min(self.group_size, len(x))
        y = x.reshape(group, -1, *x.shape[1:])
        y = ((y - y.mean(0, keepdim=True)).square().mean(0) + alpha).sqrt().mean((1, 2, 3), keepdim=True)
        return torch.cat((x, y.repeat(group, 1, *x.shape[2:])), 1)


def layer(cin, cout, size, equalized, padding=0):
    return (EqualizedConv2d if equalized else nn.Conv2d)(cin, cout, size, padding=padding)


class GenInitialBlock(nn.Module):
    def __init__(self, cin, cout, use_eql):
        super().__init__()
        self.use_eql = use_eql
        self.conv_1 = (EqualizedConvTranspose2d if use_eql else nn.ConvTranspose2d)(cin, cout, 4)
        self.conv_2 = layer(cout, cout, 3, use_eql, 1)
        self.pixNorm = PixelwiseNorm()
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x):
        y = self.lrelu(self.conv_1(self.pixNorm(x[:, :, None, None])))
        return self.pixNorm(self.lrelu(self.conv_2(y)))


class GenGeneralConvBlock(nn.Module):
    def __init__(self, cin, cout, use_eql):
        super().__init__()
        self.use_eql = use_eql
        self.conv_1 = layer(cin, cout, 3, use_eql, 1)
        self.conv_2 = layer(cout, cout, 3, use_eql, 1)
        self.pixNorm = PixelwiseNorm()
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x):
        y = F.interpolate(x, scale_factor=2)
        for conv in (self.conv_1, self.conv_2):
            y = self.pixNorm(self.lrelu(conv(y)))
        return y


class DisGeneralConvBlock(nn.Module):
    def __init__(self, cin, cout, use_eql):
        super().__init__()
        self.use_eql = use_eql
        self.conv_1 = layer(cin, cin, 3, use_eql, 1)
        self.conv_2 = layer(cin, cout, 3, use_eql, 1)
        self.downSampler = nn.AvgPool2d(2)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x):
        return self.downSampler(self.lrelu(self.conv_2(self.lrelu(self.conv_1(x)))))


class DisFinalBlock(nn.Module):
    """With `num_classes` the projection head, which lets the score through the activation once more."""

    def __init__(self, cin, cout, use_eql, num_classes=None):
        super().__init__()
        self.use_eql = use_eql
        self.conv_1 = layer(cin + 1, cin, 3, use_eql, 1)
        self.conv_2 = layer(cin, cout, 4, use_eql)
        self.conv_3 = layer(cout, 1, 1, use_eql)
        if num_classes is not None:
            self.label_embedder = nn.Embedding(num_classes, cout, max_norm=1)
        self.batch_discriminator = MinibatchStdDev()
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x, labels=None):
        y = self.lrelu(self.conv_2(self.lrelu(self.conv_1(self.batch_discriminator(x)))))
        if labels is None:
            return self.conv_3(y).view(-1)
        projected = (y[:, :, 0, 0] * self.label_embedder(labels)).sum(-1)
        return self.lrelu(self.conv_3(y)).view(-1) + projected


class Generator(nn.Module):
    """depth counts from 2, which is 4x4."""

    def __init__(self, depth, num_channels=3, latent_size=512, use_eql=True, *, widths):
        super().__init__()
        self.depth, self.num_channels, self.latent_size, self.use_eql = depth, num_channels, latent_size, use_eql
        blocks = [GenGeneralConvBlock(widths[k], widths[k + 1], use_eql) for k in range(depth - 2)]
        self.layers = nn.ModuleList([GenInitialBlock(latent_size, widths[0], use_eql), *blocks])
        self.rgb_converters = nn.ModuleList(layer(widths[k], num_channels, 1, use_eql) for k in range(depth - 1))

    def forward(self, x, depth=None, alpha=1.0):
        depth = depth or self.depth
        assert depth <= self.depth, f"depth {depth} of {self.depth}"
        if depth == 2:
            return self.rgb_converters[0](self.layers[0](x))
        for block in self.layers[: depth - 2]:
            x = block(x)
        low = F.interpolate(self.rgb_converters[depth - 3](x), scale_factor=2)
        high = self.rgb_converters[depth - 2](self.layers[depth - 2](x))
        return alpha * high + (1 - alpha) * low


class Discriminator(nn.Module):
    """Blocks and from_rgb stand from the highest level down."""

    def __init__(self, depth, num_channels=3, latent_size=512, use_eql=True, num_classes=None, *, widths):
        super().__init__()
        self.depth, self.num_channels, self.latent_size, self.use_eql = depth, num_channels, latent_size, use_eql
        self.num_classes, self.conditional = num_classes, num_classes is not None
        blocks = [DisGeneralConvBlock(widths[k + 1], widths[k], use_eql) for k in reversed(range(depth - 2))]
        self.layers = nn.ModuleList([*blocks, DisFinalBlock(widths[0], latent_size, use_eql, num_classes)])
        self.from_rgb = nn.ModuleList(
            nn.Sequential(layer(num_channels, widths[k], 1, use_eql), nn.LeakyReLU(0.2))
            for k in reversed(range(depth - 1))
        )

    def forward(self, x, depth, alpha, labels=None):
        assert depth <= self.depth, f"depth {depth} of {self.depth}"
        if depth == 2:
            y = self.from_rgb[-1](x)
        else:
            low = self.from_rgb[2 - depth](F.avg_pool2d(x, 2))
            high = self.layers[1 - depth](self.from_rgb[1 - depth](x))
            y = alpha * high + (1 - alpha) * low
            for block in self.layers[2 - depth : -1]:
                y = block(y)
        return self.layers[-1](y, labels) if self.conditional else self.layers[-1](y)


def networks(depth, widths, latent):
    return Generator(depth + 2, latent_size=latent, widths=widths), Discriminator(
        depth + 2, latent_size=latent, widths=widths
    )


def generate(model, z, depth, alpha):
    return model(z, depth + 2, alpha)


def score(model, x, depth, alpha):
    return model(x, depth + 2, alpha)
