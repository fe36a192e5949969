"""What published progressive GANs can be made with, grown to and called with, fused; and their near relatives."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pggan_fast.benchmarks.peers import akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv
from torch import Tensor

import pggan_fast

WIDTHS, LATENT = (12, 8, 6, 4), 10
Call = Callable[[torch.nn.Module, Tensor], Any]


def grown(model: Any) -> Any:
    for width in WIDTHS[1:3]:
        model.addScale(width)
    return model


def flushed(**flags: bool) -> list[Any]:
    networks = nashory.networks(2, WIDTHS, LATENT, **flags)
    for model in networks:
        model.flush_network()
    return list(networks)


def lab(**options: Any) -> list[Any]:
    gan_lab.ProGAN.widths = WIDTHS
    gan_lab.ProGAN.reset_state()
    options_d = {k: v for k, v in options.items() if k in ("equalized_lr", "mbstd_group_size")}
    options_g = {k: v for k, v in options.items() if k != "mbstd_group_size"}
    networks = [gan_lab.ProGenerator(16, LATENT, **options_g), gan_lab.ProDiscriminator(16, **options_d)]
    for _ in range(2):
        for model in networks:
            model.increase_scale()
    return networks


def fading(model: Any, x: Tensor, alpha: float = 0.3) -> Any:
    return gan_lab.generate(model, x, 2, alpha)


def labelled(model: Any, x: Tensor) -> Any:
    return model(x, torch.linspace(-1, 1, 2 * len(x), dtype=x.dtype).view(-1, 2), lod=0.7)


MADE: dict[str, tuple[Callable[[], Any], Call, int]] = {
    "akanimax plain layers": (
        lambda: akanimax.Generator(4, latent_size=LATENT, use_eql=False, widths=WIDTHS),
        lambda m, x: m(x, 4, 0.3),
        8,
    ),
    "akanimax D plain layers": (
        lambda: akanimax.Discriminator(4, latent_size=LATENT, use_eql=False, widths=WIDTHS),
        lambda m, x: m(x, 4, 0.3),
        8,
    ),
    "akanimax projection": (
        lambda: akanimax.Discriminator(4, latent_size=LATENT, num_classes=3, widths=WIDTHS),
        lambda m, x: m(x, 4, 0.3, torch.arange(len(x)) % 3),
        8,
    ),
    "zoo plain layers": (lambda: grown(gan_zoo.GNet(LATENT, 12, equalizedlR=False)), lambda m, x: m(x), 3),
    "zoo tanh": (lambda: grown(gan_zoo.GNet(LATENT, 12, generationActivation=torch.nn.Tanh())), lambda m, x: m(x), 3),
    "zoo features": (lambda: grown(gan_zoo.DNet(12)), lambda m, x: torch.cat(m(x, getFeature=True), 1), 3),
    "zoo batch of 6": (lambda: gan_zoo.networks(2, WIDTHS, LATENT)[1], lambda m, x: gan_zoo.score(m, x, 2, 0.3), 6),
    "zoo batch of 1": (lambda: gan_zoo.networks(2, WIDTHS, LATENT)[1], lambda m, x: gan_zoo.score(m, x, 2, 0.3), 1),
    "rosinality stable": (
        lambda: rosinality.networks(2, WIDTHS, LATENT)[0],
        lambda m, x: rosinality.generate(m, x, 2, -1),
        4,
    ),
    "nashory stable": (lambda: flushed()[0], lambda m, x: m(x), 4),
    "nashory D stable": (lambda: flushed()[1], lambda m, x: m(x), 4),
    "nashory batch norm": (lambda: flushed(bn=True)[0], lambda m, x: m(x), 4),
    "nashory D batch norm": (lambda: nashory.networks(2, WIDTHS, LATENT, bn=True)[1], lambda m, x: m(x), 4),
    "nashory relu": (lambda: flushed(leaky=False, pixelwise=False)[0], lambda m, x: m(x), 4),
    "nashory tanh": (lambda: nashory.networks(2, WIDTHS, LATENT, tanh=True, norm_latent=False)[0], fading, 4),
    "nashory plain layers": (lambda: nashory.networks(2, WIDTHS, LATENT, wn=False)[1], lambda m, x: m(x), 4),
    "gan-lab plain layers": (lambda: lab(equalized_lr=False)[0], fading, 4),
    "gan-lab without norms": (lambda: lab(normalize_z=False, use_pixelnorm=False)[0], fading, 4),
    "gan-lab without deviations": (lambda: lab(mbstd_group_size=-1)[1], fading, 4),
    "gan-lab batch of 6": (lambda: lab()[1], fading, 6),
    "genforce fused scale": (lambda: genforce.networks(2, WIDTHS, LATENT, fused_scale=True)[0], labelled, 4),
    "genforce D fused scale": (lambda: genforce.networks(2, WIDTHS, LATENT, fused_scale=True)[1], lambda m, x: m(x), 4),
    "genforce labels": (lambda: genforce.networks(2, WIDTHS, LATENT, label_size=2)[0], labelled, 4),
    "genforce tanh": (
        lambda: genforce.PGGANGenerator(16, LATENT, final_tanh=True, use_wscale=False, widths=WIDTHS),
        labelled,
        4,
    ),
}


def example(model: torch.nn.Module, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A latent where the network makes images, else images of 16x16."""
    makes = any(
        hasattr(model, name) for name in ("rgb_converters", "toRGBLayers", "to_rgb", "gen_blocks", "z_space_dim")
    )
    if makes or hasattr(getattr(model, "model", None), "first_block"):
        return torch.randn(n, LATENT, dtype=dtype)
    return torch.randn(n, 3, 16, 16, dtype=dtype)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    for p in model.double().parameters():
        p.data.normal_()
    return model


def whole(report: Any) -> bool:
    return any(row.replaced and row.name == "" for row in report.rows)


def tensor(y: Any) -> Tensor:
    return y["image"] if isinstance(y, dict) else y


def derivatives(call: Call, model: torch.nn.Module, x: Tensor) -> list[Tensor | None]:
    x = x.clone().requires_grad_()
    y = tensor(call(model, x))
    direction = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    first = torch.autograd.grad((y * direction).sum(), [x, *model.parameters()], allow_unused=True, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), list(model.parameters()), allow_unused=True)
    return [y, *first, *(torch.zeros(()) if g is None else g for g in second)]


def check(call: Call, model: torch.nn.Module, twin: torch.nn.Module, x: Tensor) -> None:
    for a, b in zip(derivatives(call, model, x), derivatives(call, twin, x), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert float((a - b).detach().abs().max()) <= 1e-9 * max(float(a.detach().abs().max()), 1e-3)


@pytest.mark.parametrize("name", MADE)
def test_every_make_is_fused_whole(name: str) -> None:
    make, call, n = MADE[name]
    model = randomised(make())
    twin = copy.deepcopy(model)
    assert whole(pggan_fast.fuse(twin, probe=name.startswith("nashory")))
    vars(twin)["forward"].strict = True
    check(call, model, twin, example(model, n))


# Growth: who makes the networks at 8x8, what makes them larger, and how the larger ones are called


def grow_zoo(model: Any) -> None:
    model.addScale(6)


def grow_nashory(model: Any) -> None:
    model.flush_network()
    model.grow_network(4)


GROWING = {
    "gan_zoo": (gan_zoo, grow_zoo),
    "nashory": (nashory, grow_nashory),
    "gan_lab": (gan_lab, lambda model: model.increase_scale()),
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("role", [0, 1])
def test_growth_is_noticed_and_fused_again(name: str, role: int) -> None:
    family, grow = GROWING[name]
    model = family.networks(1, WIDTHS, LATENT)[role]
    pggan_fast.fuse(model)
    grow(model)
    randomised(model)
    call = family.generate if role == 0 else family.score
    x = torch.randn(4, LATENT).double() if role == 0 else torch.randn(4, 3, 16, 16).double()
    forward = vars(model).pop("forward")
    expected = call(model, x, 2, 0.3)
    vars(model)["forward"] = forward
    with pytest.warns(UserWarning, match="changed after fuse"):
        assert torch.equal(call(model, x, 2, 0.3), expected)
    assert whole(pggan_fast.fuse(model))
    vars(model)["forward"].strict = True
    torch.testing.assert_close(call(model, x, 2, 0.3), expected, rtol=1e-9, atol=1e-9)


def test_the_weight_of_a_level_is_read_at_every_call() -> None:
    """It is no change of the network: no warning."""
    model = randomised(gan_zoo.networks(2, WIDTHS, LATENT)[0])
    twin = copy.deepcopy(model)
    pggan_fast.fuse(twin)
    vars(twin)["forward"].strict = True
    z = torch.randn(3, LATENT).double()
    for alpha in (0.9, 0.5, 0, 1):
        model.setNewAlpha(alpha)
        twin.setNewAlpha(alpha)
        torch.testing.assert_close(twin(z), model(z), rtol=1e-9, atol=1e-9)


def test_networks_of_gan_lab_share_their_level() -> None:
    """The state is the class's: what one sets, the other sees, fused or not."""
    model = randomised(gan_lab.networks(2, WIDTHS, LATENT)[0])
    twin = copy.deepcopy(model)
    pggan_fast.fuse(twin)
    model.fade_in_phase = True
    model.alpha = 0.3
    z = torch.randn(3, LATENT).double()
    torch.testing.assert_close(twin(z), model(z), rtol=1e-9, atol=1e-9)
    model.alpha = 1.0
    torch.testing.assert_close(twin(z), model(z), rtol=1e-9, atol=1e-9)


# The first layer of pro-gan-pth 3.4 does not run on today's torch


def test_fusing_repairs_the_transposed_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomised(akanimax.networks(2, WIDTHS, LATENT)[0])
    z = torch.randn(3, LATENT).double()
    expected = model(z, 4, 0.3)
    monkeypatch.setattr(akanimax.EqualizedConvTranspose2d, "as_published", True)
    with pytest.raises(TypeError, match="num_spatial_dims"):
        model(z, 4, 0.3)
    report = pggan_fast.fuse(model)
    assert whole(report)
    (row,) = report.replaced
    assert row.error is not None
    assert row.error < 1e-9
    torch.testing.assert_close(model(z, 4, 0.3), expected, rtol=1e-9, atol=1e-9)
    pggan_fast.unfuse(model)
    with pytest.raises(TypeError, match="num_spatial_dims"):
        model(z, 4, 0.3)


# Weights of a level that the fused blends do not take


@pytest.mark.parametrize("alpha", [-0.5, 1.5])
def test_weights_outside_of_0_and_1_are_not_clamped(alpha: float) -> None:
    for family in (akanimax, wsconv):
        model = randomised(family.networks(2, WIDTHS, LATENT)[0]).float()
        twin = copy.deepcopy(model)
        pggan_fast.fuse(twin, probe=False)
        z = torch.randn(3, LATENT)
        expected = family.generate(model, z, 2, alpha)
        torch.testing.assert_close(family.generate(twin, z, 2, alpha), expected, rtol=1e-4, atol=1e-4)


def test_a_tensor_of_a_weight_is_differentiated() -> None:
    model = randomised(akanimax.networks(2, WIDTHS, LATENT)[1])
    twin = copy.deepcopy(model)
    pggan_fast.fuse(twin, probe=False)
    x = torch.randn(4, 3, 16, 16).double()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    gradients = [torch.autograd.grad(m(x, 4, alpha).sum(), alpha)[0] for m in (model, twin)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


# Copies, layouts, dtypes


ALL = {"akanimax": akanimax, "gan_lab": gan_lab, "gan_zoo": gan_zoo, "genforce": genforce}
ALL |= {"nashory": nashory, "rosinality": rosinality, "wsconv": wsconv}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("role", [0, 1])
def test_a_copy_has_its_own_parameters(name: str, role: int) -> None:
    family = ALL[name]
    model = randomised(family.networks(2, WIDTHS, LATENT)[role])
    pggan_fast.fuse(model, probe=False)
    twin = copy.deepcopy(model)
    call = family.generate if role == 0 else family.score
    size = getattr(model, "resolution", 16)
    x = torch.randn(4, LATENT).double() if role == 0 else torch.randn(4, 3, size, size).double()
    vars(twin)["forward"].strict = True
    expected = call(model, x, 2, 0.3)
    assert torch.equal(call(twin, x, 2, 0.3), expected)
    for p in twin.parameters():
        p.data.mul_(1.5)
    assert torch.equal(call(model, x, 2, 0.3), expected)
    assert not torch.equal(call(twin, x, 2, 0.3), expected)


@pytest.mark.parametrize("name", ["akanimax", "gan_zoo", "rosinality", "wsconv"])
def test_pickling(name: str) -> None:
    family = ALL[name]
    model = randomised(family.networks(2, WIDTHS, LATENT)[0])
    pggan_fast.fuse(model, probe=False)
    twin = pickle.loads(pickle.dumps(model))
    vars(twin)["forward"].strict = True
    z = torch.randn(4, LATENT).double()
    assert torch.equal(family.generate(twin, z, 2, 0.3), family.generate(model, z, 2, 0.3))


@pytest.mark.parametrize("name", ALL)
def test_strides_and_dtypes_are_the_original_s(name: str) -> None:
    family = ALL[name]
    model = randomised(family.networks(2, WIDTHS, LATENT)[0]).float()
    z = torch.randn(4, LATENT)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = model.to(memory_format=memory_format)
        twin = copy.deepcopy(model)
        pggan_fast.fuse(twin, probe=False)
        vars(twin)["forward"].strict = True
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
                y, expected = family.generate(twin, z, 2, 0.3), family.generate(model, z, 2, 0.3)
            assert y.dtype == expected.dtype
            assert y.stride() == expected.stride()


# What only looks like one of them


class WithoutTanh(wsconv.Generator):
    def fade_in(self, alpha: float, upscaled: Tensor, generated: Tensor) -> Tensor:
        return alpha * generated + (1 - alpha) * upscaled


class BlendsTheOtherWay(akanimax.Generator):
    def forward(self, x: Tensor, depth: int | None = None, alpha: float = 1.0) -> Tensor:
        return super().forward(x, depth, 1 - alpha)


class SquaredScore(gan_zoo.DNet):
    def forward(self, x: Tensor, getFeature: bool = False) -> Any:
        return super().forward(x, getFeature).square()


class ReadsTheArgument(genforce.PGGANDiscriminator):
    def forward(self, image: Tensor, lod: Any = None, **unused: Any) -> Tensor:
        return super().forward(image.flip(3), lod)


class OtherDeviation(rosinality.Discriminator):
    def forward(self, input: Tensor, step: int = 0, alpha: float = -1) -> Any:
        return super().forward(input + 1e-6 * input.square(), step, alpha)


RELATIVES: dict[str, tuple[Callable[[], Any], Call]] = {
    "without tanh": (lambda: WithoutTanh(LATENT, 12, widths=WIDTHS), lambda m, x: m(x[:, :, None, None], 0.3, 2)),
    "blends the other way": (
        lambda: BlendsTheOtherWay(4, latent_size=LATENT, widths=WIDTHS),
        lambda m, x: m(x, 4, 0.3),
    ),
    "squared score": (lambda: grown(SquaredScore(12, miniBatchNormalization=True)), lambda m, x: m(x)),
    "mirrored image": (lambda: ReadsTheArgument(16, widths=WIDTHS), lambda m, x: m(x)),
    "one millionth": (lambda: OtherDeviation(2, widths=WIDTHS[:3]), lambda m, x: torch.cat(m(x, 2, 0.3)[1:], 1)),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_are_found_out(name: str) -> None:
    make, call = RELATIVES[name]
    model = randomised(make())
    x = torch.randn(4, LATENT).double() if name in ("without tanh", "blends the other way") else None
    x = torch.randn(4, 3, 16, 16).double() if x is None else x
    expected = call(model, x)
    report = pggan_fast.fuse(model)
    assert not whole(report)
    assert any(row.name == "" and row.reason.startswith("undone: ") for row in report.left), str(report)
    torch.testing.assert_close(call(model, x), expected, rtol=1e-9, atol=1e-9)


def test_what_only_has_the_names_is_reported() -> None:
    """Read as what it is not it raises something: that is a reason, and its parts are fused."""
    model = wsconv.networks(2, WIDTHS, LATENT)[0]
    twin = copy.deepcopy(model)
    twin.initial = torch.nn.Identity()
    report = pggan_fast.fuse(twin)
    (row,) = [row for row in report.left if row.name == ""][:1]
    assert "generator with WSConv2d? StopIteration" in row.reason
    assert any(row.name == "prog_blocks.0" for row in report.replaced)


def test_hooks_inside_go_on_running() -> None:
    model = randomised(akanimax.networks(2, WIDTHS, LATENT)[0])
    seen: list[Any] = []
    model.layers[1].conv_1.register_forward_hook(lambda m, args, out: seen.append(out))
    report = pggan_fast.fuse(model)
    assert not whole(report)
    assert any("has hooks" in row.reason for row in report.left)
    model(torch.randn(2, LATENT).double(), 4, 0.3)
    assert len(seen) == 1
