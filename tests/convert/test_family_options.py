"""What a family's networks may lack, what its files do not say, and where they have what: as its own program does."""

from __future__ import annotations

import copy

import pytest
import torch
from convert.test_families import (
    THEIRS,
    WITHOUT_D,
    files,
    fresh_classes,
    pair,
    read,
    saved,
    theirs_and_ours,
)
from pggan_fast.benchmarks.peers import akanimax, gan_lab, gan_zoo, genforce

from pggan_fast import convert, networks
from pggan_fast.convert.check import compare

__all__ = ["fresh_classes"]  # a fixture of every test


def lesser(name):
    """The networks of a family without what its options may leave out, and what its files say beside them."""
    torch.manual_seed(0)
    widths, beside = (16, 12, 8), {}
    if name == "akanimax":
        g, d = (
            akanimax.Generator(4, 3, 10, False, widths=widths),
            akanimax.Discriminator(4, 3, 10, False, widths=widths),
        )
        beside = {"conf": {"use_eql": False}}
    elif name == "gan_lab":
        gan_lab.ProGAN.widths = (16, *widths[1:])
        gan_lab.ProGAN.reset_state()
        g, d = gan_lab.ProGenerator(16, 16, use_pixelnorm=False), gan_lab.ProDiscriminator(16, mbstd_group_size=-1)
        for model in (g, d, g, d):
            model.increase_scale()
    elif name == "genforce":
        g, d = (genforce.PGGANGenerator(16, 10, widths=widths),
                genforce.PGGANDiscriminator(16, minibatch_std_group_size=0, widths=widths))  # fmt: skip
    else:
        g, d = gan_zoo.GNet(10, 16), gan_zoo.DNet(16)
        for model in (g, g, d, d):
            model.addScale(model.scalesDepth[-1] - 4)
    for p in (*g.parameters(), *d.parameters()):
        p.data = torch.randn(p.shape, dtype=torch.float64)
    return g.double(), d.double(), beside


@pytest.mark.parametrize("name", ["akanimax", "gan_lab", "genforce", "gan_zoo"])
@torch.no_grad()
def test_networks_with_less_are_the_same_function(name, tmp_path):
    g, d, beside = lesser(name)
    states = {"G": copy.deepcopy(g.state_dict()), "D": copy.deepcopy(d.state_dict())}
    value = {kind: {**beside, "state_dict": state} for kind, state in states.items()}
    conversion = convert.read(saved(tmp_path / "x.pth", value))
    made = conversion.networks()
    theirs, ours = theirs_and_ours(name, g, made.G, 2, 0.25)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7 if name == "genforce" else 1e-9)
    image = torch.randn(16, 3, 16, 16, dtype=torch.float64)
    theirs = THEIRS[name].score(d, image, 2, 0.25).view(-1)
    torch.testing.assert_close(made.D(image, alpha=0.25)[0], theirs, rtol=1e-9, atol=1e-9)
    for kind, net in made.present().items():
        assert max(a.error for a in compare(kind, conversion.layouts[kind], net)) < 1e-10
    if name != "akanimax":  # whose conf is not written
        convert.write(tmp_path / "back.pth", made, name)
        back = torch.load(tmp_path / "back.pth", weights_only=True)
        for kind, state in states.items():
            (key,) = convert.FAMILIES[name].keys[kind]
            for part, t in state.items():
                torch.testing.assert_close(back[key][part].view_as(t), t, rtol=1e-12, atol=0)


# What a file does not say, in the words that its lines begin with: of a lone G and D
UNSAID = {
    "akanimax": (["no conf beside"], ["no conf beside"]),
    "gan_lab": (
        ["equalised learning rate", "normalize_z on", "to_rgb.4x4: the file has none"],
        ["equalised learning rate", "groups of 4", "where 4 does not divide", "from_rgb.4x4: the file has none"],
    ),
    "gan_zoo": (["no config beside", "no tanh"], ["no config beside", "minibatch stddev: where 4"]),
    "genforce": (["no D beside it", "final_tanh"], ["groups of 16", "fused_scale off"]),
    "nashory": (["to_rgb.4x4: the file has none", "scales are their expectation", "flag_leaky on"], []),
    "rosinality": ([], []),
    "wsconv": ([], []),
}


@pytest.mark.parametrize("name", THEIRS)
def test_what_the_file_does_not_say_is_told(name, tmp_path):
    made, own = pair(name, 2), files(name, *pair(name, 2))
    conversion = read(saved(tmp_path / "whole.pth", own), name)
    whole = conversion.layouts
    assumed = {kind: layout.assumed for kind, layout in whole.items()}
    assert conversion.networks().source == {"file": "whole.pth", "family": name, "assumed": assumed}
    for kind, net, begins in zip("GD", made, UNSAID[name], strict=True):
        if kind == "D" and name in WITHOUT_D:
            continue
        layout = read(saved(tmp_path / "x.pth", net.state_dict()), name).layouts[kind]
        *told, multiples = layout.assumed if name not in ("gan_lab", "genforce") else (*layout.assumed, "")
        assert "of the file's, as our run-time scales" in multiples or not multiples
        assert [text[: len(begin)] for text, begin in zip(told, begins, strict=True)] == begins
        beside = {"akanimax": "no conf", "genforce": "no D beside"}.get(name)  # which the program's own file has
        assert whole[kind].assumed == [text for text in layout.assumed if not beside or beside not in text]


def test_gan_zoos_alpha_is_told(tmp_path):
    g, d = pair("gan_zoo", 1)
    value = {**files("gan_zoo", g, d), "config": {"alpha": 0.25, "leakyReluLeak": 0.2}}
    layouts = convert.read(saved(tmp_path / "x.pth", value)).layouts
    assert layouts["G"].assumed[0] == "the file's config.alpha is 0.25: our alpha is one less that"
    assert not [text for text in layouts["D"].assumed if "alpha" in text or "config" in text]
    value["config"]["perChannelNormalization"] = False
    assert "perChannelNormalization is off" in convert.read(saved(tmp_path / "x.pth", value)).refused["G"]


@pytest.mark.parametrize("name", ["gan_lab", "nashory"])
def test_without_an_older_rgb_layer_all_lower_levels_are_absent(name, tmp_path):
    g, _ = pair(name, 2)
    if name == "nashory":
        g.flush_network()
    state = {key: t for key, t in g.state_dict().items() if not key.startswith("prev")}
    assert read(saved(tmp_path / "x.pth", state), name).layouts["G"].absent == ["to_rgb.4x4", "to_rgb.8x8"]


# Where a program's own file has the running average of G
AVERAGES = {"akanimax": ("shadow_generator", "state_dict"), "gan_lab": ("gen_model_lagged_state_dict",),
            "gan_zoo": ("avgG",), "genforce": ("generator_smooth",)}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_a_running_average_has_its_programs_key(name, tmp_path):
    made = read(saved(tmp_path / "x.pth", pair(name, 0)[0].state_dict()), name).networks()
    both = networks.Networks(G=made.G, G_ema=made.G)
    convert.write(tmp_path / "back.pth", both, name, nominal_scale=name == "nashory")
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    for key in AVERAGES.get(name, ("generator_ema",)):
        state = state[key]
    assert all(isinstance(t, torch.Tensor) for t in state.values())
    assert read(tmp_path / "back.pth", name).networks().present().keys() == {"G", "G_ema"}
