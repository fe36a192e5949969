"""The networks of genforce/genforce in structure, names and numerics.

Pixel norm -> (up) -> conv -> leaky ReLU: the norm of a layer stands in the next one, in toRGB too. `lod` 0 is the
highest level, and its fraction the weight of the lower one; it is an argument of G, and a buffer; D reads the buffer.
Images keep the full resolution at every lod.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class PixelNormLayer(nn.Module):
    def __init__(self, epsilon=1e-8):
        super().__init__()
        self.eps = epsilon

    def forward(self, x):
        return x / (x.square().mean(1, keepdim=True) + self.eps).sqrt()


class MiniBatchSTDLayer(nn.Module):
    def __init__(self, group_size=16, epsilon=1e-8):
        super().__init__()
        self.group_size, self.epsilon = group_size, epsilon

    def forward(self, x):
        if self.group_size <= 1:
            return x
        group = min(self.group_size, len(x))
        y = x.view(group, -1, *x.shape[1:])
        y = ((y - y.mean(0, keepdim=True)).square().mean(0) + self.epsilon).sqrt().mean((1, 2, 3), keepdim=True)
        return torch.cat([x, y.repeat(group, 1, *x.shape[2:])], 1)


class UpsamplingLayer(nn.Module):
    def __init__(self, scale_factor=2):
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x):
        return x if self.scale_factor <= 1 else F.interpolate(x, scale_factor=self.scale_factor, mode="nearest")


class DownsamplingLayer(UpsamplingLayer):
    def forward(self, x):
        return x if self.scale_factor <= 1 else F.avg_pool2d(x, self.scale_factor)


def spread(weight):
    """The 3x3 kernel summed over its four half-pixel shifts: 4x4."""
    w = F.pad(weight, (1, 1, 1, 1))
    return w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]


class Weighted(nn.Module):
    """What conv and dense blocks share: weight, wscale, bias, activation."""

    def __init__(self, shape, fan_in, cout, use_wscale, gain, activation):
        super().__init__()
        wscale = gain / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.randn(shape) * (1 if use_wscale else wscale))
        self.wscale = wscale if use_wscale else 1.0
        self.bias = nn.Parameter(torch.zeros(cout))
        self.activate = nn.LeakyReLU(0.2, inplace=True) if activation == "lrelu" else nn.Identity()


class ConvBlock(Weighted):
    """G's: norm first."""

    def __init__(
        self, cin, cout, size=3, padding=1, up=False, fused=False, wscale=True, gain=2**0.5, activation="lrelu"
    ):
        transposed = up and fused
        shape = (cin, cout, size, size) if transposed else (cout, cin, size, size)
        super().__init__(shape, size * size * cin, cout, wscale, gain, activation)
        self.pixel_norm = PixelNormLayer()
        self.upsample = UpsamplingLayer() if up and not fused else nn.Identity()
        self.use_conv2d_transpose, self.stride, self.padding = transposed, 2 if transposed else 1, padding

    def forward(self, x):
        x, weight = self.upsample(self.pixel_norm(x)), self.weight * self.wscale
        if self.use_conv2d_transpose:
            x = F.conv_transpose2d(x, spread(weight), self.bias, stride=2, padding=1)
        else:
            x = F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)
        return self.activate(x)


class DownBlock(Weighted):
    """D's: deviation first, mean last. (The published class is called ConvBlock too.)"""

    def __init__(self, cin, cout, size=3, padding=1, down=False, fused=False, wscale=True, group=0):
        cin += group > 1
        super().__init__((cout, cin, size, size), size * size * cin, cout, wscale, 2**0.5, "lrelu")
        self.mbstd = MiniBatchSTDLayer(group) if group > 1 else nn.Identity()
        self.use_stride = down and fused
        self.downsample = DownsamplingLayer() if down and not fused else nn.Identity()
        self.stride, self.padding = 2 if self.use_stride else 1, padding

    def forward(self, x):
        x, weight = self.mbstd(x), self.weight * self.wscale
        if self.use_stride:
            weight = spread(weight) * 0.25
        x = F.conv2d(x, weight, self.bias, stride=self.stride, padding=self.padding)
        return self.downsample(self.activate(x))


class DenseBlock(Weighted):
    def __init__(self, cin, cout, wscale=True, gain=2**0.5, activation="lrelu"):
        super().__init__((cout, cin), cin, cout, wscale, gain, activation)

    def forward(self, x):
        return self.activate(F.linear(x.view(len(x), -1), self.weight * self.wscale, self.bias))


class Network(nn.Module):
    def __init__(self, resolution, image_channels, label_size, fused_scale, use_wscale):
        super().__init__()
        self.resolution, self.image_channels, self.label_size = resolution, image_channels, label_size
        self.fused_scale, self.use_wscale = fused_scale, use_wscale
        self.init_res, self.init_res_log2, self.final_res_log2 = 4, 2, int(math.log2(resolution))
        self.register_buffer("lod", torch.zeros(()))

    def checked_lod(self, lod):
        lod = self.lod.cpu().tolist() if lod is None else lod
        if lod + self.init_res_log2 > self.final_res_log2:
            raise ValueError(f"lod {lod} is above the maximum, {self.final_res_log2 - self.init_res_log2}")
        return lod


class PGGANGenerator(Network):
    def __init__(
        self,
        resolution,
        z_space_dim=512,
        image_channels=3,
        final_tanh=False,
        label_size=0,
        fused_scale=False,
        use_wscale=True,
        *,
        widths,
    ):
        super().__init__(resolution, image_channels, label_size, fused_scale, use_wscale)
        self.z_space_dim, self.final_tanh, self.num_layers = z_space_dim, final_tanh, 2 * (self.final_res_log2 - 1)
        common = {"wscale": use_wscale}
        for k in range(self.final_res_log2 - 1):
            if k:
                layer = ConvBlock(widths[k - 1], widths[k], up=True, fused=fused_scale, **common)
            else:
                layer = ConvBlock(z_space_dim + label_size, widths[0], 4, 3, **common)
            self.add_module(f"layer{2 * k}", layer)
            self.add_module(f"layer{2 * k + 1}", ConvBlock(widths[k], widths[k], **common))
            linear = ConvBlock(widths[k], image_channels, 1, 0, gain=1.0, activation="linear", **common)
            self.add_module(f"output{k}", linear)
        self.upsample = UpsamplingLayer()
        self.final_activate = nn.Tanh() if final_tanh else nn.Identity()

    def forward(self, z, label=None, lod=None, **unused):
        if z.ndim != 2 or z.shape[1] != self.z_space_dim:
            raise ValueError(f"z: {tuple(z.shape)}, not [N, {self.z_space_dim}]")
        z = self.layer0.pixel_norm(z)
        if self.label_size:
            if label is None:
                raise ValueError("a label is needed")
            z = torch.cat((z, label), 1)
        lod, x = self.checked_lod(lod), z[:, :, None, None]
        for k in range(self.final_res_log2 - 1):
            level = self.final_res_log2 - 2 - k
            if lod < level + 1:
                x = getattr(self, f"layer{2 * k + 1}")(getattr(self, f"layer{2 * k}")(x))
            if level - 1 < lod <= level:
                image = getattr(self, f"output{k}")(x)
            elif level < lod < level + 1:
                alpha = math.ceil(lod) - lod
                image = getattr(self, f"output{k}")(x) * alpha + self.upsample(image) * (1 - alpha)
            elif lod >= level + 1:
                image = self.upsample(image)
        return {"z": z, "label": label, "image": self.final_activate(image)}


class PGGANDiscriminator(Network):
    def __init__(
        self,
        resolution,
        image_channels=3,
        label_size=0,
        fused_scale=False,
        use_wscale=True,
        minibatch_std_group_size=16,
        *,
        widths,
    ):
        super().__init__(resolution, image_channels, label_size, fused_scale, use_wscale)
        self.minibatch_std_group_size, common = minibatch_std_group_size, {"wscale": use_wscale}
        top = self.final_res_log2 - 2
        for k in range(top + 1):
            c = widths[top - k]
            self.add_module(f"input{k}", DownBlock(image_channels, c, 1, 0, **common))
            if k < top:
                layers = (
                    DownBlock(c, c, **common),
                    DownBlock(c, widths[top - k - 1], down=True, fused=fused_scale, **common),
                )
            else:
                layers = (DownBlock(c, c, group=minibatch_std_group_size, **common), DenseBlock(16 * c, c, **common))
            for i, layer in enumerate(layers):
                self.add_module(f"layer{2 * k + i}", layer)
        self.add_module(f"layer{2 * top + 2}", DenseBlock(c, 1 + label_size, use_wscale, 1.0, "linear"))
        self.downsample = DownsamplingLayer()

    def forward(self, image, lod=None, **unused):
        if image.ndim != 4 or tuple(image.shape[1:]) != (self.image_channels, self.resolution, self.resolution):
            raise ValueError(f"image: {tuple(image.shape)}")
        self.checked_lod(lod)
        lod, top = self.lod.cpu().tolist(), self.final_res_log2 - 2
        for k in range(top + 1):
            if k <= lod < k + 1:
                x = getattr(self, f"input{k}")(image)
            elif k - 1 < lod < k:
                alpha = lod - math.floor(lod)
                x = getattr(self, f"input{k}")(image) * alpha + x * (1 - alpha)
            if lod < k + 1:
                x = getattr(self, f"layer{2 * k + 1}")(getattr(self, f"layer{2 * k}")(x))
            if lod > k:
                image = self.downsample(image)
        return getattr(self, f"layer{2 * top + 2}")(x)


def networks(depth, widths, latent, **options):
    resolution = 4 << max(depth, 1)
    return (
        PGGANGenerator(resolution, latent, widths=widths, **options),
        PGGANDiscriminator(resolution, widths=widths, **options),
    )


def generate(model, z, depth, alpha):
    return model(z, lod=_lod(model, depth, alpha))["image"]


def score(model, x, depth, alpha):
    model.lod.fill_(_lod(model, depth, alpha))
    return model(x)


def _lod(model, depth, alpha):
    return model.final_res_log2 - 2 - depth + (1 - alpha if depth else 0)
