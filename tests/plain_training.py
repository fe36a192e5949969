"""A progressive GAN's training in plain PyTorch, written from the paper for tests: nothing of the package but the
networks' parameters, the images' order and the random numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pggan_fast.data.sampler import Sampler

SLOPE, EPS = 0.2, 1e-8
P = dict[str, Tensor]


def norm(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(1, keepdim=True) + EPS)


def conv(x: Tensor, p: P, name: str, gain: float = math.sqrt(2)) -> Tensor:
    w, b = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.conv2d(x, w * (gain / math.sqrt(w[0].numel())), b, padding=w.shape[2] // 2)


def dense(x: Tensor, p: P, name: str, gain: float = math.sqrt(2)) -> Tensor:
    w = p[f"{name}.weight"]
    return F.linear(x, w * (gain / math.sqrt(w.shape[1])), p[f"{name}.bias"])


def act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def generate(p: P, z: Tensor, resolution: int, alpha: float) -> Tensor:
    """4x4 and 8x8 only."""
    w = p["blocks.4x4.dense.weight"]
    x = F.linear(norm(z), w * (math.sqrt(2) / 4 / math.sqrt(w.shape[1]))).view(len(z), -1, 4, 4)
    x = norm(act(x + p["blocks.4x4.dense.bias"].view(1, -1, 1, 1)))
    x = norm(act(conv(x, p, "blocks.4x4.conv")))
    low = conv(x, p, "to_rgb.4x4", 1.0)
    if resolution == 4:
        return low
    x = norm(act(conv(double(x), p, "blocks.8x8.conv_up")))
    x = norm(act(conv(x, p, "blocks.8x8.conv")))
    return (1 - alpha) * double(low) + alpha * conv(x, p, "to_rgb.8x8", 1.0)


def judge(p: P, image: Tensor, alpha: float, group: int = 4) -> Tensor:
    if image.shape[2] == 8:
        x = act(conv(image, p, "from_rgb.8x8"))
        x = act(conv(x, p, "blocks.8x8.conv"))
        w = p["blocks.8x8.conv_down.weight"]
        x = F.conv2d(x, w * (math.sqrt(2) / math.sqrt(w[0].numel())), padding=1)
        x = act(F.avg_pool2d(x, 2) + p["blocks.8x8.conv_down.bias"].view(1, -1, 1, 1))
        x = (1 - alpha) * act(conv(F.avg_pool2d(image, 2), p, "from_rgb.4x4")) + alpha * x
    else:
        x = act(conv(image, p, "from_rgb.4x4"))
    n = len(x)
    y = x.view(group, n // group, *x.shape[1:])
    s = ((y - y.mean(0)).square().mean(0) + EPS).sqrt().mean((1, 2, 3))  # [n / group]
    x = torch.cat([x, s.repeat(group).view(n, 1, 1, 1).expand(-1, -1, 4, 4)], 1)
    x = act(conv(x, p, "blocks.4x4.conv")).flatten(1)
    return dense(act(dense(x, p, "blocks.4x4.dense")), p, "blocks.4x4.head", 1.0)[:, 0]


class Adam:
    """betas (0, 0.99), eps 1e-8."""

    def __init__(self, p: P) -> None:
        self.p = p
        self.forget()

    def forget(self) -> None:
        self.v: P = {}
        self.t: dict[str, int] = {}

    def step(self, gradients: dict[str, Tensor | None], lr: float) -> None:
        for name, g in gradients.items():
            if g is None:
                continue
            self.t[name] = self.t.get(name, 0) + 1
            self.v[name] = 0.99 * self.v.get(name, torch.zeros_like(g)) + 0.01 * g * g
            v = self.v[name] / (1 - 0.99 ** self.t[name])
            self.p[name] = (self.p[name] - lr * g / (v.sqrt() + 1e-8)).detach()


def gradients(loss: Tensor, p: P) -> dict[str, Tensor | None]:
    return dict(zip(p, torch.autograd.grad(loss, list(p.values()), allow_unused=True), strict=True))


def train(
    G: P, D: P, pixels: Tensor, *, latent_dim: int, seed: int, batch: int, repeats: int, phase: int, total: int,
    lr: dict[int, float], beta: float,
) -> Iterator[dict[str, object]]:  # fmt: skip
    """Iterations of `repeats` pairs of steps, from 4x4 to 8x8: after each, all that has changed."""
    order, draw = Sampler(len(pixels), seed=seed), torch.Generator().manual_seed(seed)
    ema, adam_g, adam_d, seen, before = dict(G), Adam(G), Adam(D), 0, None
    while seen < total:
        fade = min(max(seen - phase, 0) / phase, 1.0)
        resolution, alpha = (8, fade) if fade > 0 else (4, 1.0)
        now = "4x4" if fade == 0 else "fade" if fade < 1 else "8x8"
        if now != before:
            adam_g.forget()
            adam_d.forget()
        before, losses = now, []
        for _ in range(repeats):
            reals = pixels[torch.from_numpy(order.at(0, batch)[0])].double()
            order.advance(batch)
            if resolution == 4:
                reals = torch.from_numpy(np.rint(F.avg_pool2d(reals, 2).numpy()))
            reals = (reals / 127.5 - 1).float()
            if alpha < 1:
                reals = (1 - alpha) * double(F.avg_pool2d(reals, 2)) + alpha * reals
            z = torch.randn(batch, latent_dim, generator=draw)
            u = torch.rand(batch, 1, 1, 1, generator=draw)
            d = {k: v.requires_grad_() for k, v in adam_d.p.items()}
            fakes = generate(adam_g.p, z, resolution, alpha).detach()
            mixed = (reals + (fakes - reals) * u).requires_grad_()
            (g,) = torch.autograd.grad(judge(d, mixed, alpha).sum(), mixed, create_graph=True)
            real, fake = judge(d, reals, alpha), judge(d, fakes, alpha)
            penalty = 10 * (g.square().sum((1, 2, 3)).sqrt() - 1).square()
            loss_d = (fake - real + penalty + 0.001 * real.square()).mean()
            adam_d.step(gradients(loss_d, d), lr[resolution])
            ema = {k: beta * ema[k] + (1 - beta) * adam_g.p[k].detach() for k in ema}
            seen += batch
            z = torch.randn(batch, latent_dim, generator=draw)
            p = {k: v.detach().requires_grad_() for k, v in adam_g.p.items()}
            loss_g = -judge(
                {k: v.detach() for k, v in adam_d.p.items()}, generate(p, z, resolution, alpha), alpha
            ).mean()
            adam_g.step(gradients(loss_g, p), lr[resolution])
            losses += [float(loss_d.detach()), float(loss_g.detach())]
        yield {"seen": seen, "G": dict(adam_g.p), "D": dict(adam_d.p), "G_ema": dict(ema), "losses": losses}
