"""The progressive networks of facebookresearch/pytorch_GAN_zoo in structure, names and numerics.

(conv + bias) * scale in place, with the scale in an attribute called `weight`; the parent's forward calls everything.
`alpha` is the weight of the old level, a Python number. D does not blend at 8x8, where only one block exists.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class NormalizationLayer(nn.Module):
    def forward(self, x, epsilon=1e-8):
        return x * (x.square().mean(1, keepdim=True) + epsilon).rsqrt()


class ConstrainedLayer(nn.Module):
    def __init__(self, module, equalized=True, lrMul=1.0, initBiasToZero=True):
        super().__init__()
        self.module, self.equalized = module, equalized
        if initBiasToZero:
            nn.init.zeros_(module.bias)
        if equalized:
            nn.init.normal_(module.weight, 0, 1 / lrMul)
            self.weight = math.sqrt(2 / math.prod(module.weight.shape[1:])) * lrMul

    def forward(self, x):
        x = self.module(x)
        if self.equalized:
            x *= self.weight
        return x


class EqualizedConv2d(ConstrainedLayer):
    def __init__(self, cin, cout, size, padding=0, bias=True, **options):
        super().__init__(nn.Conv2d(cin, cout, size, padding=padding, bias=bias), **options)


class EqualizedLinear(ConstrainedLayer):
    def __init__(self, cin, cout, bias=True, **options):
        super().__init__(nn.Linear(cin, cout, bias=bias), **options)


def upscale(x):
    _, c, h, w = x.shape
    return x.view(-1, c, h, 1, w, 1).expand(-1, c, h, 2, w, 2).contiguous().view(-1, c, 2 * h, 2 * w)


def minibatch_stddev(x, group=4):
    """Over adjacent samples, unbiased; the whole batch where the group does not divide it; zeros for one sample."""
    n, c, h, w = x.shape
    group = min(n, group)
    if n % group:
        group = n
    if group == 1:
        return torch.cat([x, x.new_zeros(n, 1, h, w)], 1)
    y = (x.view(-1, group, c, h, w).var(1) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, y.view(-1, 1).expand(-1, group).reshape(n, 1, 1, 1).expand(n, 1, h, w)], 1)


class GNet(nn.Module):
    def __init__(
        self,
        dimLatent,
        depthScale0,
        leakyReluLeak=0.2,
        normalization=True,
        generationActivation=None,
        dimOutput=3,
        equalizedlR=True,
    ):
        super().__init__()
        self.equalizedlR, self.dimLatent, self.dimOutput = equalizedlR, dimLatent, dimOutput
        self.scalesDepth = [depthScale0]
        self.scaleLayers, self.toRGBLayers = nn.ModuleList(), nn.ModuleList()
        self.formatLayer = EqualizedLinear(dimLatent, 16 * depthScale0, equalized=equalizedlR)
        self.groupScale0 = nn.ModuleList([EqualizedConv2d(depthScale0, depthScale0, 3, 1, equalized=equalizedlR)])
        self.toRGBLayers.append(EqualizedConv2d(depthScale0, dimOutput, 1, equalized=equalizedlR))
        self.alpha = 0
        self.leakyRelu = nn.LeakyReLU(leakyReluLeak)
        self.normalizationLayer = NormalizationLayer() if normalization else None
        self.generationActivation = generationActivation
        self.depthScale0 = depthScale0

    def addScale(self, depth):
        last, eq = self.scalesDepth[-1], {"equalized": self.equalizedlR}
        self.scalesDepth.append(depth)
        self.scaleLayers.append(
            nn.ModuleList([EqualizedConv2d(last, depth, 3, 1, **eq), EqualizedConv2d(depth, depth, 3, 1, **eq)])
        )
        self.toRGBLayers.append(EqualizedConv2d(depth, self.dimOutput, 1, **eq))

    def setNewAlpha(self, alpha):
        if not 0 <= alpha <= 1:
            raise ValueError("alpha must be in [0, 1]")
        self.alpha = alpha

    def forward(self, x):
        if self.normalizationLayer is not None:
            x = self.normalizationLayer(x)
        x = self.leakyRelu(self.formatLayer(x.view(len(x), -1)))
        x = self.normalizationLayer(x.view(len(x), -1, 4, 4))
        for conv in self.groupScale0:
            x = self._normalized(self.leakyRelu(conv(x)))
        for scale, group in enumerate(self.scaleLayers):
            if self.alpha > 0 and scale == len(self.scaleLayers) - 1:
                low = upscale(self.toRGBLayers[-2](x))
            x = upscale(x)
            for conv in group:
                x = self._normalized(self.leakyRelu(conv(x)))
        x = self.toRGBLayers[-1](x)
        if self.alpha > 0:
            x = self.alpha * low + (1.0 - self.alpha) * x
        return x if self.generationActivation is None else self.generationActivation(x)

    def _normalized(self, x):
        return x if self.normalizationLayer is None else self.normalizationLayer(x)


class DNet(nn.Module):
    def __init__(
        self,
        depthScale0,
        leakyReluLeak=0.2,
        sizeDecisionLayer=1,
        miniBatchNormalization=False,
        dimInput=3,
        equalizedlR=True,
    ):
        super().__init__()
        self.equalizedlR, self.dimInput = equalizedlR, dimInput
        eq = {"equalized": equalizedlR}
        self.scalesDepth = [depthScale0]
        self.scaleLayers, self.fromRGBLayers, self.mergeLayers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.decisionLayer = EqualizedLinear(depthScale0, sizeDecisionLayer, **eq)
        self.fromRGBLayers.append(EqualizedConv2d(dimInput, depthScale0, 1, **eq))
        self.miniBatchNormalization = miniBatchNormalization
        entry = depthScale0 + bool(miniBatchNormalization)
        self.groupScaleZero = nn.ModuleList(
            [EqualizedConv2d(entry, depthScale0, 3, 1, **eq), EqualizedLinear(16 * depthScale0, depthScale0, **eq)]
        )
        self.alpha = 0
        self.leakyRelu = nn.LeakyReLU(leakyReluLeak)

    def addScale(self, depth):
        last, eq = self.scalesDepth[-1], {"equalized": self.equalizedlR}
        self.scalesDepth.append(depth)
        self.scaleLayers.append(
            nn.ModuleList([EqualizedConv2d(depth, depth, 3, 1, **eq), EqualizedConv2d(depth, last, 3, 1, **eq)])
        )
        self.fromRGBLayers.append(EqualizedConv2d(self.dimInput, depth, 1, **eq))

    setNewAlpha = GNet.setNewAlpha

    def forward(self, x, getFeature=False):
        if self.alpha > 0 and len(self.fromRGBLayers) > 1:
            low = self.leakyRelu(self.fromRGBLayers[-2](F.avg_pool2d(x, (2, 2))))
        x = self.leakyRelu(self.fromRGBLayers[-1](x))
        blends = self.alpha > 0 and len(self.scaleLayers) > 1
        for group in reversed(self.scaleLayers):
            for conv in group:
                x = self.leakyRelu(conv(x))
            x = F.avg_pool2d(x, (2, 2))
            if blends:
                x, blends = self.alpha * low + (1 - self.alpha) * x, False
        if self.miniBatchNormalization:
            x = minibatch_stddev(x)
        x = self.leakyRelu(self.groupScaleZero[0](x))
        x = self.leakyRelu(self.groupScaleZero[1](x.view(len(x), -1)))
        out = self.decisionLayer(x)
        return (out, x) if getFeature else out


def networks(depth, widths, latent):
    g, d = GNet(latent, widths[0]), DNet(widths[0], miniBatchNormalization=True)
    for width in widths[1 : depth + 1]:
        g.addScale(width)
        d.addScale(width)
    return g, d


def generate(model, z, depth, alpha):
    return _at(model, depth, alpha)(z)


score = generate


def _at(model, depth, alpha):
    """The model with the given weight of the new level; at 4x4 there is no old one."""
    assert depth == len(model.scaleLayers), "this family is at the level that it was grown to"
    model.setNewAlpha(1 - alpha if depth else 0)
    return model
