"""The layers of PGGAN ports in their many spellings, written anew."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 0.37


def drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


class OnWeight(nn.Module):
    """E1."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.weight, self.bias, self.scale, self.pad = drawn(o, i, k, k), drawn(o), SCALE, k // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.pad)


class OnInput(nn.Module):
    """E2."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, padding=k // 2, bias=False)
        self.bias = drawn(o)
        self.scale: float | Tensor = SCALE

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.scale) + self.bias.view(1, self.bias.shape[0], 1, 1)


class OnInputByTensor(OnInput):
    """E2, the scale a plain tensor that no state_dict has."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__(i, o, k)
        self.scale = torch.tensor(SCALE)


class OnInputAndAll(nn.Module):
    """E2b."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(i, o, k, padding="same")
        self.wscale, self.lrmul = SCALE, 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d(x.mul(self.wscale)) * self.lrmul


class OnOutput(nn.Module):
    """E3, the scale a buffer and the bias expanded."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, padding=k // 2, bias=False)
        self.b = drawn(o)
        self.register_buffer("scale", torch.tensor(SCALE))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x * self.scale
        return x + self.b[None, :, None, None].expand_as(x)


class OnOutputAndBias(nn.Module):
    """E4: a number called weight, in place."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.module, self.weight = nn.Conv2d(i, o, k, padding=k // 2), SCALE

    def forward(self, x: Tensor) -> Tensor:
        x = self.module(x)
        x *= self.weight
        return x


class Equaliser:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, inputs: object) -> None:
        weight = getattr(module, f"{self.name}_orig")
        fan = weight.data.size(1) * weight.data[0][0].numel()
        setattr(module, self.name, weight * math.sqrt(2 / fan))


def equalise(module: nn.Module, name: str = "weight", hook: Callable[[str], object] = Equaliser) -> nn.Module:
    weight = getattr(module, name)
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", nn.Parameter(weight.data))
    module.register_forward_pre_hook(hook(name))  # type: ignore[arg-type]
    return module


class Hooked(nn.Module):
    """E5."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.conv = equalise(nn.Conv2d(i, o, k, padding=k // 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Weight(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.c, self.weight = 1 / math.sqrt(math.prod(shape[1:])), drawn(*shape)

    def forward(self) -> Tensor:
        return self.weight * self.c


class OfWeightModule(nn.Module):
    """E6."""

    def __init__(self, i: int, o: int, k: int = 3) -> None:
        super().__init__()
        self.weight, self.bias, self.pad = Weight(o, i, k, k), drawn(o), k // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), bias=self.bias, padding=self.pad)


def plain(i: int, o: int, k: int = 3) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2)


CONVS: dict[str, Callable[..., nn.Module]] = {
    "E1": OnWeight,
    "E2": OnInput,
    "E2t": OnInputByTensor,
    "E2b": OnInputAndAll,
    "E3": OnOutput,
    "E4": OnOutputAndBias,
    "E5": Hooked,
    "E6": OfWeightModule,
    "plain": plain,
}


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# Pixel norms: (formula, eps, eps_mode).
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], float, str]] = {
    "rsqrt": (lambda x: x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8), 1e-8, "inside"),
    "sqrt": (lambda x: x / torch.sqrt(torch.mean(x.pow(2), 1, keepdim=True) + 1e-8), 1e-8, "inside"),
    "pow": (lambda x: x / (torch.mean(x * x, -3, True) + 1e-8) ** 0.5, 1e-8, "inside"),
    "negative pow": (lambda x: x * (x.square().mean(dim=1, keepdim=True) + 1e-6).pow(-0.5), 1e-6, "inside"),
    "in the mean": (lambda x: x / (x**2 + 1e-8).mean(1, keepdim=True).sqrt(), 1e-8, "inside"),
    "1e-7": (lambda x: x * torch.rsqrt((x**2).mean(dim=1, keepdim=True) + 10e-8), 1e-7, "inside"),
    "outside": (lambda x: x / (torch.sqrt(torch.mean(x**2, dim=1, keepdim=True)) + 1e-6), 1e-6, "outside"),
    "inverse": (lambda x: x * (1.0 / (x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt()), 1e-8, "inside"),
    "unsqueezed": (lambda x: x / (x.pow(2).mean(1) + 1e-8).sqrt().unsqueeze(1), 1e-8, "inside"),
    "sum": (lambda x: x / ((x * x).sum(1, keepdim=True) / x.shape[1] + 1e-8).sqrt(), 1e-8, "inside"),
    "expanded": (lambda x: x.div((x.pow(2).mean(1, keepdim=True) + 1e-8).sqrt().expand_as(x)), 1e-8, "inside"),
    "vector norm": (
        lambda x: x / (torch.norm(x, p=2, dim=1, keepdim=True) / math.sqrt(x.shape[1]) + 1e-5),
        1e-5,
        "outside",
    ),
}


def viewed_up(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h, 1, w, 1).expand(-1, -1, -1, 2, -1, 2).contiguous().view(n, c, 2 * h, 2 * w)


UPS: dict[str, Callable[[Tensor], Tensor]] = {
    "Upsample": nn.Upsample(scale_factor=2, mode="nearest"),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "size": lambda x: F.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3])),
    "exact": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    "view": viewed_up,
    "repeat": lambda x: x[:, :, :, None, :, None].repeat(1, 1, 1, 2, 1, 2).flatten(4).flatten(2, 3),
}
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "AvgPool2d": nn.AvgPool2d(2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, kernel_size=2, stride=2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False),
    "area": lambda x: F.interpolate(x, scale_factor=0.5, mode="area"),
    "view": lambda x: x.reshape(x.shape[0], x.shape[1], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean(dim=(3, 5)),
}


def grouped(x: Tensor, group: int, strided: bool, unbiased: bool, eps: float) -> Tensor:
    """Minibatch statistics by views."""
    n, c, h, w = x.shape
    g = min(group, n)
    y = x.view(g, n // g, c, h, w) if strided else x.view(n // g, g, c, h, w).transpose(0, 1)
    s = torch.sqrt(y.var(0, unbiased=unbiased) + eps).mean(dim=(1, 2, 3), keepdim=True)
    s = s.repeat(g, 1, h, w) if strided else s.repeat_interleave(g, 0).expand(n, 1, h, w)
    return torch.cat([x, s], dim=1)


def by_hand(x: Tensor) -> Tensor:
    g = min(4, x.shape[0])
    y = x.reshape(g, -1, *x.shape[1:])
    y = y - y.mean(dim=0, keepdim=True)
    y = (y.square().mean(dim=0) + 1e-8).sqrt()
    y = y.mean(dim=[1, 2, 3], keepdim=True)
    return torch.cat([x, y.repeat(g, 1, x.shape[2], x.shape[3])], 1)


def whole(x: Tensor) -> Tensor:
    s = torch.std(x, dim=0).mean().repeat(x.shape[0], 1, x.shape[2], x.shape[3])
    return torch.cat([x, s], dim=1)


# (formula, group, grouping, unbiased, eps)
STDDEVS: dict[str, tuple[Callable[[Tensor], Tensor], int | None, str, bool, float]] = {
    "official": (by_hand, 4, "strided", False, 1e-8),
    "strided, unbiased": (lambda x: grouped(x, 4, True, True, 1e-6), 4, "strided", True, 1e-6),
    "adjacent": (lambda x: grouped(x, 4, False, False, 1e-8), 4, "adjacent", False, 1e-8),
    "adjacent, unbiased": (lambda x: grouped(x, 4, False, True, 1e-8), 4, "adjacent", True, 1e-8),
    "groups of 16": (lambda x: grouped(x, 16, True, False, 1e-8), 16, "strided", False, 1e-8),
    "whole batch": (whole, None, "strided", True, 0.0),
}


class Block(nn.Module):
    """Of a generator, or with `down` of a discriminator; the functional kind."""

    def __init__(self, i: int = 5, o: int = 6, form: str = "E2", down: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = CONVS[form](i, o), CONVS[form](o, o)
        self.act, self.down = nn.LeakyReLU(0.2), down

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            return F.avg_pool2d(self.act(self.conv2(self.act(self.conv1(x)))), 2)
        norm = NORMS["sqrt"][0]
        x = norm(self.act(self.conv1(UPS["interpolate"](x))))
        return norm(self.act(self.conv2(x)))


class Pair(nn.Module):
    """No chain: blended levels, two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.low = Block(5, 6), nn.Sequential(OnInput(5, 6, 1), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor, alpha: float) -> Tensor:
        return alpha * self.block(x) + (1 - alpha) * UPS["view"](self.low(x))


def critic(form: str = "E1") -> nn.Sequential:
    """Of images [N, 3, 8, 8]."""
    return nn.Sequential(
        CONVS[form](3, 5, 1),
        nn.LeakyReLU(0.2),
        Block(5, 6, form, down=True),
        Does(by_hand),
        CONVS[form](7, 6),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(6, 6, 4),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(6, 1),
    )
