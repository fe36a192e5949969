"""The ProGAN networks of gan-lab 0.4.2 in structure, names and numerics.

conv(x * wscale) with the bias in the inner layer; blocks are nn.Sequential of nn.Sequential; in D mean -> bias ->
activation. Level and alpha are class attributes of the common base: every network of the process shares them.
"""

import copy
import math
from abc import ABC

import torch
import torch.nn.functional as F
from torch import nn

FMAP_SAMPLES = 3


def shared(name):
    """An attribute whose value lives on the base class."""

    def read(self):
        return getattr(self.cls_base, f"_{name}")

    def write(self, value):
        setattr(self.cls_base, f"_{name}", value)

    return property(read, write)


class ProGAN(nn.Module, ABC):
    widths = (16, 16, 8, 8)  # of the levels from 4x4; the published class computes them from two constants
    _alpha_tol = 1e-8

    @classmethod
    def reset_state(cls):
        cls._alpha, cls._curr_res, cls._prev_res, cls._scale_stage = 1, 4, None, 1
        cls._fmap, cls._fmap_prev = cls.widths[0], None
        cls._scale_inc_metadata_updated = cls._fade_in_phase = False

    curr_res, prev_res, final_res = shared("curr_res"), shared("prev_res"), shared("final_res")
    scale_stage, fmap, fmap_prev = shared("scale_stage"), shared("fmap"), shared("fmap_prev")
    fade_in_phase, scale_inc_metadata_updated = shared("fade_in_phase"), shared("scale_inc_metadata_updated")

    def __init__(self, final_res):
        super().__init__()
        self.cls_base = type(self).__base__
        self.final_res = final_res

    @property
    def alpha(self):
        return self.cls_base._alpha

    @alpha.setter
    def alpha(self, value):
        if not 0.0 <= value < 1.0 + self._alpha_tol:
            raise ValueError("alpha is outside of [0, 1]")
        if value > 1.0 - self._alpha_tol:
            value, self.fade_in_phase = 1, False
        self.cls_base._alpha = value

    def next_level(self):
        """The first of two networks that grow moves the state that both share."""
        if self.scale_inc_metadata_updated:
            self.scale_inc_metadata_updated = False
            return
        self.prev_res, self.curr_res = self.curr_res, 2 * self.curr_res
        self.scale_stage += 1
        self.fmap_prev, self.fmap = self.fmap, self.widths[self.scale_stage - 1]
        self.scale_inc_metadata_updated = self.fade_in_phase = True


class Lambda(nn.Module):
    def __init__(self, func, **kwargs):
        super().__init__()
        self.func, self.kwargs = func, kwargs

    def forward(self, x):
        return self.func(x, **self.kwargs)


class PixelNorm2d(nn.Module):
    def forward(self, x, eps=1e-8):
        return x * (x.square().mean(1, keepdim=True) + eps).rsqrt()


class NormalizeLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = PixelNorm2d()

    def forward(self, x):
        return self.norm(x)


def concat_mbstd_layer(x, group_size=4):
    """Over adjacent samples, unbiased; the whole batch where the group does not divide it; zeros for one sample."""
    n, c, h, w = x.shape
    group = min(n, group_size)
    group = group if n % group == 0 else n
    y = x.new_zeros(n // group, 1)
    if group > 1:
        y = (x.view(-1, group, c * h * w).var(1) + 1e-8).sqrt().mean(1, keepdim=True)
    return torch.cat((x, y.expand(-1, group).reshape(n, 1, 1, 1).expand(n, 1, h, w)), 1)


class Ex(nn.Module):
    """The scaled layers: the inner layer's input is scaled, and its output multiplied by lrmul."""

    def __init__(self, name, layer, gain_sq_base, equalized_lr, lrmul):
        super().__init__()
        self.inner, self.equalized_lr, self.use_lrmul, self.lrmul = name, equalized_lr, lrmul != 1.0, lrmul
        bound = math.sqrt(gain_sq_base / math.prod(layer.weight.shape[1:]))
        self.wscale = bound if equalized_lr else None
        layer.weight.data.normal_(0.0, (1.0 if equalized_lr else bound) / lrmul)
        self.bias = None
        if layer.bias is not None:
            layer.bias.data.zero_()
        self.add_module(name, layer)

    def forward(self, x):
        x = self.get_submodule(self.inner)(x.mul(self.wscale) if self.equalized_lr else x)
        if self.use_lrmul:
            x *= self.lrmul
        return x


class Conv2dEx(Ex):
    def __init__(self, ni, nf, ks, padding=0, gain_sq_base=2.0, equalized_lr=True, lrmul=1.0, include_bias=True):
        layer = nn.Conv2d(ni, nf, ks, padding=padding, bias=include_bias)
        super().__init__("conv2d", layer, gain_sq_base, equalized_lr, lrmul)
        self.ni, self.nf = ni, nf


class LinearEx(Ex):
    def __init__(self, nin_feat, nout_feat, gain_sq_base=2.0, equalized_lr=True, lrmul=1.0):
        super().__init__("linear", nn.Linear(nin_feat, nout_feat), gain_sq_base, equalized_lr, lrmul)


class Conv2dBias(nn.Module):
    def __init__(self, nf, lrmul=1.0):
        super().__init__()
        self.use_lrmul, self.lrmul = lrmul != 1.0, lrmul
        self.bias = nn.Parameter(torch.zeros(1, nf, 1, 1))

    def forward(self, x):
        return x + (self.bias.mul(self.lrmul) if self.use_lrmul else self.bias)


class ProGenerator(ProGAN):
    def __init__(self, final_res, len_latent=512, equalized_lr=True, normalize_z=True, use_pixelnorm=True):
        super().__init__(final_res)
        self.gen_blocks = nn.ModuleList()
        self.upsampler = nn.Upsample(scale_factor=2, mode="nearest")
        self.upsampler_skip_connection = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
        self.nl, self.len_latent, self.num_classes, self.equalized_lr = nn.LeakyReLU(0.2), len_latent, 0, equalized_lr
        self.use_pixelnorm, self.gen_blur_type = use_pixelnorm, None
        flat = Lambda(lambda x: x.view(-1, len_latent))
        self.preprocess_z = nn.Sequential(flat, NormalizeLayer()) if normalize_z else flat
        norms = self.norms()  # one module at two places
        self.gen_blocks.append(
            nn.Sequential(
                LinearEx(len_latent, 16 * len_latent, 2.0 / 16, equalized_lr),
                Lambda(lambda x: x.view(-1, len_latent, 4, 4)),
                *(self.nl, *norms),
                *(Conv2dEx(len_latent, self.fmap, 3, 1, equalized_lr=equalized_lr), self.nl, *norms),
            )
        )
        self.prev_torgb = None
        self.torgb = self.new_torgb()

    def norms(self):
        return [NormalizeLayer()] if self.use_pixelnorm else []

    def layer(self, ni):
        return nn.Sequential(Conv2dEx(ni, self.fmap, 3, 1, equalized_lr=self.equalized_lr), self.nl, *self.norms())

    def new_torgb(self):
        return Conv2dEx(self.fmap, FMAP_SAMPLES, 1, 0, 1.0, self.equalized_lr)

    def increase_scale(self):
        self.next_level()
        self.gen_blocks.append(
            nn.Sequential(nn.Sequential(self.upsampler, *self.layer(self.fmap_prev)), self.layer(self.fmap))
        )
        self.prev_torgb, self.torgb = copy.deepcopy(self.torgb), self.new_torgb()

    def forward(self, x):
        x = self.preprocess_z(x)
        for block in self.gen_blocks[:-1]:
            x = block(x)
        high = self.torgb(self.gen_blocks[-1](x))
        if not self.fade_in_phase:
            return high
        return self.upsampler_skip_connection(self.prev_torgb(x)) * (1.0 - self.alpha) + high * self.alpha


class ProDiscriminator(ProGAN):
    def __init__(self, final_res, equalized_lr=True, mbstd_group_size=4):
        super().__init__(final_res)
        self.disc_blocks = nn.ModuleList()
        self.preprocess_x = Lambda(lambda x: x.view(-1, FMAP_SAMPLES, self.curr_res, self.curr_res))
        self.pooler = nn.AvgPool2d(2, 2)
        self.pooler_skip_connection = lambda x: F.avg_pool2d(x, 2)
        self.nl, self.num_classes, self.equalized_lr = nn.LeakyReLU(0.2), 0, equalized_lr
        self.mbstd_group_size, self.disc_blur_type = mbstd_group_size, None
        self.prev_fromrgb = None
        self.fromrgb = self.new_fromrgb()
        n, common = self.fmap, {"equalized_lr": equalized_lr}
        stddev = [] if mbstd_group_size == -1 else [Lambda(concat_mbstd_layer, group_size=mbstd_group_size)]
        self.disc_blocks.append(
            nn.Sequential(
                *stddev,
                Conv2dEx(n + len(stddev), n, 3, 1, **common),
                self.nl,
                Conv2dEx(n, n, 4, 0, **common),
                self.nl,
                Lambda(lambda x: x.view(-1, n)),
                LinearEx(n, 1, 1.0, equalized_lr),
            )
        )

    def new_fromrgb(self):
        return nn.Sequential(Conv2dEx(FMAP_SAMPLES, self.fmap, 1, 0, 2.0, self.equalized_lr), self.nl)

    def increase_scale(self):
        self.next_level()
        self.prev_fromrgb, self.fromrgb = copy.deepcopy(self.fromrgb), self.new_fromrgb()
        n, m, common = self.fmap, self.fmap_prev, {"equalized_lr": self.equalized_lr}
        down = (Conv2dEx(n, m, 3, 1, include_bias=False, **common), self.pooler, Conv2dBias(m), self.nl)
        block = nn.Sequential(nn.Sequential(Conv2dEx(n, n, 3, 1, **common), self.nl), nn.Sequential(*down))
        self.disc_blocks.insert(0, block)

    def forward(self, x):
        x = self.preprocess_x(x)
        y = self.disc_blocks[0](self.fromrgb(x))
        if self.fade_in_phase:
            y = self.prev_fromrgb(self.pooler_skip_connection(x)) * (1.0 - self.alpha) + y * self.alpha
        for block in self.disc_blocks[1:]:
            y = block(y)
        return y.view(-1)


def networks(depth, widths, latent):
    ProGAN.widths = tuple(widths)
    ProGAN.reset_state()
    g, d = ProGenerator(4 << depth, latent), ProDiscriminator(4 << depth)
    for _ in range(depth):
        g.increase_scale()
        d.increase_scale()
    return g, d


def generate(model, x, depth, alpha):
    model.fade_in_phase = depth > 0
    model.alpha = alpha
    return model(x)


score = generate
