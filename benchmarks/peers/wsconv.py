"""The networks of the WSConv2d tutorial (aladdinpersson/Machine-Learning-Collection) in structure, names and numerics.

Scale on the input; the first transposed convolution is plain; `initial_rgb` is registered twice; tanh inside the fade,
and none at 4x4; the deviation of D is that of the whole batch, unbiased, without eps.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class WSConv2d(nn.Module):
    def __init__(self, cin, cout, kernel_size=3, stride=1, padding=1, gain=2):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel_size, stride, padding)
        self.scale = (gain / (cin * kernel_size**2)) ** 0.5
        self.bias = self.conv.bias
        self.conv.bias = None
        nn.init.normal_(self.conv.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        return self.conv(self.scale * x) + self.bias.view(1, -1, 1, 1)


class PixelNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.epsilon = 1e-8

    def forward(self, x):
        return x / ((x**2).mean(1, keepdim=True) + self.epsilon).sqrt()


class ConvBlock(nn.Module):
    def __init__(self, cin, cout, use_pixelnorm=True):
        super().__init__()
        self.use_pn = use_pixelnorm
        self.conv1, self.conv2 = WSConv2d(cin, cout), WSConv2d(cout, cout)
        self.leaky = nn.LeakyReLU(0.2)
        self.pn = PixelNorm()

    def forward(self, x):
        for conv in (self.conv1, self.conv2):
            x = self.leaky(conv(x))
            if self.use_pn:
                x = self.pn(x)
        return x


def rgb(cin, cout):
    return WSConv2d(cin, cout, 1, 1, 0)


class Generator(nn.Module):
    def __init__(self, z_dim, in_channels, img_channels=3, *, widths):
        super().__init__()
        self.initial = nn.Sequential(
            PixelNorm(),
            nn.ConvTranspose2d(z_dim, in_channels, 4, 1, 0),
            nn.LeakyReLU(0.2),
            WSConv2d(in_channels, in_channels),
            nn.LeakyReLU(0.2),
            PixelNorm(),
        )
        self.initial_rgb = rgb(in_channels, img_channels)
        self.prog_blocks = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise(widths))
        self.rgb_layers = nn.ModuleList([self.initial_rgb, *(rgb(width, img_channels) for width in widths[1:])])

    def fade_in(self, alpha, upscaled, generated):
        return torch.tanh(alpha * generated + (1 - alpha) * upscaled)

    def forward(self, x, alpha, steps):
        out = self.initial(x)
        if not steps:
            return self.initial_rgb(out)
        for block in self.prog_blocks[:steps]:
            upscaled = F.interpolate(out, scale_factor=2, mode="nearest")
            out = block(upscaled)
        return self.fade_in(alpha, self.rgb_layers[steps - 1](upscaled), self.rgb_layers[steps](out))


class Discriminator(nn.Module):
    def __init__(self, in_channels, img_channels=3, *, widths):
        super().__init__()
        top = list(reversed(widths))
        self.prog_blocks = nn.ModuleList(ConvBlock(a, b, use_pixelnorm=False) for a, b in pairwise(top))
        self.leaky = nn.LeakyReLU(0.2)
        self.rgb_layers = nn.ModuleList(rgb(img_channels, width) for width in top)
        self.initial_rgb = self.rgb_layers[-1]
        self.avg_pool = nn.AvgPool2d(2, 2)
        self.final_block = nn.Sequential(
            WSConv2d(in_channels + 1, in_channels),
            nn.LeakyReLU(0.2),
            WSConv2d(in_channels, in_channels, 4, 1, 0),
            nn.LeakyReLU(0.2),
            WSConv2d(in_channels, 1, 1, 1, 0),
        )

    def fade_in(self, alpha, downscaled, out):
        return alpha * out + (1 - alpha) * downscaled

    def minibatch_std(self, x):
        return torch.cat([x, x.std(0).mean().expand(len(x), 1, *x.shape[2:])], 1)

    def forward(self, x, alpha, steps):
        first = len(self.prog_blocks) - steps
        out = self.leaky(self.rgb_layers[first](x))
        if steps:
            low = self.leaky(self.rgb_layers[first + 1](self.avg_pool(x)))
            out = self.fade_in(alpha, low, self.avg_pool(self.prog_blocks[first](out)))
        for block in self.prog_blocks[first + 1 :]:
            out = self.avg_pool(block(out))
        return self.final_block(self.minibatch_std(out)).view(len(x), -1)


def networks(depth, widths, latent):
    widths = widths[: depth + 1]
    return Generator(latent, widths[0], widths=widths), Discriminator(widths[0], widths=widths)


def generate(model, z, depth, alpha):
    return model(z[:, :, None, None], alpha, depth)


def score(model, x, depth, alpha):
    return model(x, alpha, depth)
