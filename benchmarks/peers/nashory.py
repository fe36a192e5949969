"""The networks of nashory/pggan-pytorch in structure, names and numerics.

Scale on the input, a plain 0-d tensor that is the RMS of the run's own random weights (neither Parameter nor buffer);
the networks are nn.Sequential that are rebuilt when they grow: a ConcatTable and a fade while a level comes in, a plain
sequence after `flush_network`. D's deviation is averaged over channels alone: a map with one value per pixel.
"""

from types import SimpleNamespace

import torch
from torch import nn


class ConcatTable(nn.Module):
    def __init__(self, layer1, layer2):
        super().__init__()
        self.layer1, self.layer2 = layer1, layer2

    def forward(self, x):
        return [self.layer1(x), self.layer2(x)]


class Flatten(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


class fadein_layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.alpha = 0.0

    def forward(self, pair):
        return pair[0] * (1.0 - self.alpha) + pair[1] * self.alpha


class minibatch_std_concat_layer(nn.Module):
    def __init__(self, averaging="all"):
        super().__init__()
        self.averaging = averaging

    def forward(self, x):
        deviation = ((x - x.mean(0, keepdim=True)).square().mean(0, keepdim=True) + 1e-8).sqrt()
        return torch.cat([x, deviation.mean(1, keepdim=True).expand(len(x), 1, *x.shape[2:])], 1)


class pixelwise_norm_layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.eps = 1e-8

    def forward(self, x):
        return x / (x.square().mean(1, keepdim=True) + self.eps) ** 0.5


def start(module, layer):
    """Weights of N(0, 1 / fan_in) divided by their RMS, which becomes the scale; a bias of the module's own."""
    nn.init.kaiming_normal_(layer.weight, a=1)
    module.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]))
    module.scale = layer.weight.data.square().mean().sqrt()
    layer.weight.data /= module.scale
    return layer


class equalized_conv2d(nn.Module):
    def __init__(self, c_in, c_out, k_size, stride, pad):
        super().__init__()
        self.conv = start(self, nn.Conv2d(c_in, c_out, k_size, stride, pad, bias=False))

    def forward(self, x):
        y = self.conv(x * self.scale)
        return y + self.bias.view(1, -1, 1, 1).expand_as(y)


class equalized_linear(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.linear = start(self, nn.Linear(c_in, c_out, bias=False))

    def forward(self, x):
        y = self.linear(x * self.scale)
        return y + self.bias.view(1, -1).expand_as(y)


class generalized_drop_out(nn.Module):
    """Multiplicative noise of the given strength (mode "prop"); the networks here have strength 0, the identity."""

    def __init__(self, mode="mul", strength=0.4, axes=(0, 1), normalize=False):
        super().__init__()
        self.mode, self.strength, self.axes, self.normalize, self.gain = mode, strength, list(axes), normalize, None

    def forward(self, x, deterministic=False):
        if deterministic or not self.strength:
            return x
        shape = [size if axis in self.axes else 1 for axis, size in enumerate(x.shape)]
        return x * (torch.randn(shape).to(x) * self.strength * x.shape[1] ** 0.5 + 1)


def conv(config, c_in, c_out, size, pad, *, drop=False, pixel=False, only=False):
    """The modules of one layer, in order."""
    layers = [generalized_drop_out("prop", 0.0)] if drop else []
    layers.append((equalized_conv2d if config.flag_wn else nn.Conv2d)(c_in, c_out, size, 1, pad))
    if not only:
        layers.append(nn.LeakyReLU(0.2) if config.flag_leaky else nn.ReLU())
        layers += [nn.BatchNorm2d(c_out)] if config.flag_bn else []
        layers += [pixelwise_norm_layer()] if pixel else []
    return layers


def width(base, resl):
    """The feature maps of the level of 2^resl pixels."""
    return base >> max(0, resl - 5)


def level_name(a, b):
    return f"intermediate_{2**a}x{2**a}_{2**b}x{2**b}"


def sequence(**modules):
    model = nn.Sequential()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


class Generator(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, n = config, config.ngf
        norm = {"pixel": config.flag_pixelwise}
        first = [pixelwise_norm_layer()] if config.flag_norm_latent else []
        first += [*conv(config, config.nz, n, 4, 3, **norm), *conv(config, n, n, 3, 1, **norm)]
        self.layer_name = None
        self.model = sequence(first_block=nn.Sequential(*first), to_rgb_block=self.to_rgb_block(n))

    def to_rgb_block(self, c_in):
        last = [nn.Tanh()] if self.config.flag_tanh else []
        return nn.Sequential(*conv(self.config, c_in, self.config.nc, 1, 0, only=True), *last)

    def grow_network(self, resl):
        config, norm = self.config, {"pixel": self.config.flag_pixelwise}
        a, b = width(config.ngf, resl - 1), width(config.ngf, resl)
        block = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            *conv(config, a, b, 3, 1, **norm),
            *conv(config, b, b, 3, 1, **norm),
        )
        children = dict(self.model.named_children())
        old = sequence(to_rgb_block=children.pop("to_rgb_block"))
        low = sequence(low_resl_upsample=nn.Upsample(scale_factor=2, mode="nearest"), low_resl_to_rgb=old)
        high = sequence(high_resl_block=block, high_resl_to_rgb=self.to_rgb_block(b))
        self.layer_name = level_name(resl - 1, resl)
        self.model = sequence(**children, concat_block=ConcatTable(low, high), fadein_block=fadein_layer(config))

    def flush_network(self):
        children = dict(self.model.named_children())
        high = children.pop("concat_block").layer2
        del children["fadein_block"]
        block, to_rgb = (
            sequence(**{name: high.get_submodule(name)}) for name in ("high_resl_block", "high_resl_to_rgb")
        )
        self.model = sequence(**children, **{self.layer_name: block}, to_rgb_block=to_rgb)

    def forward(self, x):
        return self.model(x.view(len(x), -1, 1, 1))


class Discriminator(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, n, drop = config, config.ndf, {"drop": True}
        layers = [*conv(config, n + 1, n, 3, 1, **drop), *conv(config, n, n, 4, 0, **drop), Flatten()]
        layers.append((equalized_linear if config.flag_wn else nn.Linear)(n, 1))
        layers += [nn.Sigmoid()] if config.flag_sigmoid else []
        last = nn.Sequential(minibatch_std_concat_layer(), *layers)
        self.layer_name = None
        self.model = sequence(from_rgb_block=self.from_rgb_block(n), last_block=last)

    def from_rgb_block(self, n):
        return nn.Sequential(*conv(self.config, self.config.nc, n, 1, 0, drop=True))

    def grow_network(self, resl):
        config, drop = self.config, {"drop": True}
        a, b = width(config.ndf, resl), width(config.ndf, resl - 1)
        block = [*conv(config, a, a, 3, 1, **drop), *conv(config, a, b, 3, 1, **drop), nn.AvgPool2d(2)]
        children = dict(self.model.named_children())
        old = sequence(from_rgb_block=children.pop("from_rgb_block"))
        low = sequence(low_resl_downsample=nn.AvgPool2d(2), low_resl_from_rgb=old)
        high = sequence(high_resl_from_rgb=self.from_rgb_block(a), high_resl_block=nn.Sequential(*block))
        self.layer_name = level_name(resl, resl - 1)
        self.model = sequence(concat_block=ConcatTable(low, high), fadein_block=fadein_layer(config), **children)

    def flush_network(self):
        children = dict(self.model.named_children())
        high = children.pop("concat_block").layer2
        del children["fadein_block"]
        from_rgb, block = (sequence(**{n: high.get_submodule(n)}) for n in ("high_resl_from_rgb", "high_resl_block"))
        self.model = sequence(from_rgb_block=from_rgb, **{self.layer_name: block}, **children)

    def forward(self, x):
        return self.model(x)


FLAGS = {
    "bn": False,
    "pixelwise": True,
    "wn": True,
    "leaky": True,
    "tanh": False,
    "norm_latent": True,
    "sigmoid": False,
}


def networks(depth, widths, latent, **flags):
    flags = {f"flag_{name}": value for name, value in (FLAGS | flags).items()}
    config = SimpleNamespace(nc=3, nz=latent, ngf=widths[0], ndf=widths[0], **flags)
    g, d = Generator(config), Discriminator(config)
    for resl in range(3, depth + 3):
        for model in (g, d):
            if resl > 3:
                model.flush_network()
            model.grow_network(resl)
    return g, d


def generate(model, x, depth, alpha):
    """alpha "stable" means: call `flush_network` before this."""
    if isinstance(fade := getattr(model.model, "fadein_block", None), fadein_layer):
        fade.alpha = alpha
    return model(x)


score = generate
