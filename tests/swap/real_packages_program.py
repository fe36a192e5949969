"""Fuses the networks of an installed package, compares them with their own forwards: `python FILE PACKAGE FOLDER`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pggan_fast.benchmarks.peers import installed
from torch import Tensor

import pggan_fast

ALPHAS = (0.0, 0.3, 1.0)
LATENT = 10
Case = tuple[str, torch.nn.Module, Tensor, Callable[[torch.nn.Module, Tensor], Tensor]]


def pro_gan_pth(folder: Path) -> Iterator[Case]:
    """3.4: the networks of the published code, with fewer feature maps. Own forwards of G need the method of torch that
    their first layer calls as it once was."""
    sys.path.insert(0, str(folder))
    convolution = torch.nn.ConvTranspose2d._output_padding
    networks, custom_layers = installed.pro_gan_pth()
    repaired = custom_layers.EqualizedConvTranspose2d._output_padding
    custom_layers.EqualizedConvTranspose2d._output_padding = convolution  # as it was published
    widths = (12, 8, 6, 4)
    networks.nf = lambda stage, **options: widths[stage - 1]
    generator = networks.Generator(5, latent_size=LATENT).double()
    with pytest.raises(TypeError, match="_output_padding"):
        generator(torch.randn(2, LATENT).double())
    fused = copy.deepcopy(generator)
    assert_whole(pggan_fast.fuse(fused))
    assert fused(torch.randn(2, LATENT).double()).shape == (2, 3, 32, 32)  # repaired
    custom_layers.EqualizedConvTranspose2d._output_padding = repaired
    for options in ({}, {"use_eql": False}, {"num_classes": 3}):
        plain = {k: v for k, v in options.items() if k != "num_classes"}
        generator = networks.Generator(5, latent_size=LATENT, **plain)
        discriminator = networks.Discriminator(5, latent_size=LATENT, **options)
        labels = (torch.arange(8) % 3,) if "num_classes" in options else ()
        for depth in range(2, 6):
            for alpha in ALPHAS if depth > 2 else (1.0,):
                name = f"{options} depth {depth} alpha {alpha}"
                yield f"G {name}", generator, torch.randn(4, LATENT), lambda m, x, d=depth, a=alpha: m(x, d, a)
                images = torch.randn(8, 3, 1 << depth, 1 << depth)
                yield f"D {name}", discriminator, images, lambda m, x, d=depth, a=alpha, y=labels: m(x, d, a, *y)


def gan_lab(folder: Path) -> Iterator[Case]:
    """0.4.2"""
    sys.path.insert(0, str(folder))
    architectures, base = installed.gan_lab()
    base.ProGAN.get_fmap = lambda self, scale_stage: (12, 8, 6, 4)[scale_stage - 1]
    for options in ({}, {"equalized_lr": False}):
        for level in range(4):
            base.ProGAN.reset_state()
            base.ProGAN._fmap = 12
            generator = architectures.ProGenerator(4 << level, LATENT, **options)
            discriminator = architectures.ProDiscriminator(4 << level, **options)
            for _ in range(level):
                generator.increase_scale()
                discriminator.increase_scale()
            for alpha in ALPHAS if level else (1.0,):
                name = f"{options} level {level} alpha {alpha}"

                def call(m: Any, x: Tensor, level: int = level, alpha: float = alpha) -> Tensor:
                    m.fade_in_phase = level > 0
                    m.alpha = alpha
                    return m(x)

                yield f"G {name}", generator, torch.randn(4, LATENT), call
                for n in (1, 6, 8):
                    yield f"D {name} batch {n}", discriminator, torch.randn(n, 3, 4 << level, 4 << level), call


def assert_whole(report: pggan_fast.FuseReport) -> None:
    assert [row.name for row in report.replaced] == [""], str(report)


def derivatives(call: Callable[..., Tensor], model: torch.nn.Module, x: Tensor) -> list[Tensor | None]:
    x = x.clone().requires_grad_()
    y = call(model, x)
    parameters = list(model.parameters())
    first = torch.autograd.grad(y.square().sum(), [x, *parameters], allow_unused=True, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), parameters, allow_unused=True)
    return [y, *first, *second]


def compare(name: str, model: torch.nn.Module, fused: torch.nn.Module, x: Tensor, call: Callable[..., Tensor]) -> None:
    pairs = zip(derivatives(call, model, x), derivatives(call, fused, x), strict=True)
    for i, (a, b) in enumerate(pairs):
        size = [float(t.detach().abs().max()) if t is not None else 0.0 for t in (a, b)]
        if a is None or b is None:
            assert size == [0.0, 0.0], f"{name}: derivative {i}"
            continue
        error = float((a - b).detach().abs().max())
        assert error <= 1e-9 * max(*size, 1e-3), f"{name}: derivative {i} differs by {error:.1e}"


def main(package: str, folder: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    fused: dict[torch.nn.Module, torch.nn.Module] = {}
    count = 0
    for name, model, x, call in {"pro-gan-pth": pro_gan_pth, "gan-lab": gan_lab}[package](folder):
        if model not in fused:
            for p in model.double().parameters():
                p.data.normal_()
            fused[model] = copy.deepcopy(model)
            assert_whole(pggan_fast.fuse(fused[model], probe=len(fused) <= 2))
            vars(fused[model])["forward"].strict = True
        compare(name, model, fused[model], x.double(), call)
        count += 1
    print(f"{package}: {count} calls of {len(fused)} networks agree")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
