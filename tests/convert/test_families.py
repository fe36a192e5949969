"""Checkpoints of the PyTorch families: the converted network's outputs are the original's, at every level and alpha."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict

import pytest
import torch
from pggan_fast.benchmarks.peers import akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv

from pggan_fast import convert, networks
from pggan_fast.convert import ConversionError
from pggan_fast.convert.check import compare
from pggan_fast.models import Discriminator, Generator

THEIRS = {m.__name__.rpartition(".")[2]: m for m in (akanimax, gan_lab, gan_zoo, genforce, nashory, rosinality, wsconv)}
GROWN = {"gan_zoo", "gan_lab", "nashory"}  # at one level only
WITHOUT_D = {"rosinality", "nashory"}
WIDTHS = dict.fromkeys(THEIRS, (16, 12, 8, 6)) | {"nashory": (16, 16, 16, 16)}
LATENT = dict.fromkeys(THEIRS, 10) | {"gan_lab": 16}
ALPHAS = (1.0, 0.25, 0.0)


@pytest.fixture(autouse=True)
def fresh_classes():
    yield
    gan_lab.ProGAN.reset_state()


def pair(name, depth, dtype=torch.float64, **options):
    """The family's networks with random parameters, biases too."""
    torch.manual_seed(depth)
    made = THEIRS[name].networks(depth, WIDTHS[name], LATENT[name], **options)
    for model in made:
        model.to(dtype)
        for p in model.parameters():
            p.data.normal_()
    if name == "nashory":  # the scales that no file holds
        for m in made[0].modules():
            if isinstance(m, nashory.equalized_conv2d):
                m.scale = torch.tensor(m.conv.weight[0].numel() ** -0.5, dtype=dtype)
    return made


def saved(path, value, zipped=True):
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def files(name, g, d):
    """What the family's own program saves, or what people make of it."""
    return {
        "gan_zoo": lambda: {"netG": g.state_dict(), "netD": d.state_dict(), "avgG": g.state_dict()},
        "akanimax": lambda: {
            "generator": {"conf": {"use_eql": True}, "state_dict": g.state_dict()},
            "discriminator": {"conf": {"use_eql": True}, "state_dict": d.state_dict()},
        },
        "genforce": lambda: {"generator": g.state_dict(), "discriminator": d.state_dict()},
        "gan_lab": lambda: {"gen_model_state_dict": g.state_dict(), "disc_model_state_dict": d.state_dict()},
    }.get(name, lambda: {"generator": g.state_dict(), "discriminator": d.state_dict()})()


def read(path, name):
    return convert.read(path, nominal_scale=name == "nashory")


def levels(name, depth):
    return [depth] if name in GROWN else range(depth + 1)


def theirs_and_ours(name, g, made, depth, alpha):
    z = torch.randn(8, LATENT[name], dtype=torch.float64)
    theirs = THEIRS[name].generate(g, z, depth, alpha)
    if name == "rosinality":
        n = g.label_embed.num_embeddings
        labels = torch.eye(n, dtype=torch.float64)[torch.arange(8) % n]
        ours = made(z[:, n:], labels, resolution=4 << depth, alpha=alpha)
    else:
        ours = made(z, resolution=4 << depth, alpha=alpha)
    return (torch.nn.functional.avg_pool2d(theirs, theirs.shape[2] // ours.shape[2]), ours)


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_g_is_the_same_function(name, depth, tmp_path):
    g, d = pair(name, depth)
    made = read(saved(tmp_path / "x.pth", files(name, g, d)), name).networks().G
    for k in levels(name, depth):
        for alpha in ALPHAS if k else (1.0,):
            theirs, ours = theirs_and_ours(name, g, made, k, alpha)
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7 if name == "genforce" else 1e-9)


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("name", sorted(THEIRS.keys() - WITHOUT_D))
@torch.no_grad()
def test_d_is_the_same_function(name, depth, tmp_path):
    g, d = pair(name, depth)
    made = read(saved(tmp_path / "x.pth", files(name, g, d)), name).networks().D
    n = 16 if name == "genforce" else 8
    for k in levels(name, depth):
        for alpha in ALPHAS if k else (1.0,):
            image = torch.randn(n, 3, 4 << k, 4 << k, dtype=torch.float64)
            full = image
            if name == "genforce":  # images keep the full size
                full = image.repeat_interleave(d.resolution >> (k + 2), 2).repeat_interleave(d.resolution >> (k + 2), 3)
            theirs = THEIRS[name].score(d, full, k, alpha).view(n, -1)
            torch.testing.assert_close(made(image, alpha=alpha)[0][:, None], theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", THEIRS)
def test_the_numpy_forward_agrees(name, tmp_path):
    g, d = pair(name, 2)
    conversion = read(saved(tmp_path / "x.pth", files(name, g, d)), name)
    assert set(conversion.refused) == ({"D"} if name in WITHOUT_D else set())
    for kind, net in conversion.networks().present().items():
        found = list(compare(kind, conversion.layouts[kind], net))
        assert len(found) >= (2 if name in GROWN else 5)
        assert max(a.error for a in found) < 1e-10


@pytest.mark.parametrize("name", THEIRS)
def test_a_wrong_conversion_is_seen(name, tmp_path):
    g, d = pair(name, 2)
    conversion = read(saved(tmp_path / "x.pth", files(name, g, d)), name)
    for kind, net in conversion.networks().present().items():
        for key in ("blocks.4x4.dense.weight", "blocks.16x16.conv.bias"):
            broken = copy.deepcopy(net)
            broken.get_parameter(key).data.mul_(1.01)
            assert not all(a.passed for a in compare(kind, conversion.layouts[kind], broken))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", THEIRS)
def test_both_formats_and_lone_networks(name, zipped, tmp_path):
    g, d = pair(name, 1, torch.float32)
    both = read(saved(tmp_path / "x.pth", files(name, g, d), zipped), name).networks()
    lone = read(
        saved(tmp_path / "y.pth", {"module." + k: t for k, t in g.state_dict().items()}, zipped), name
    ).networks()
    for key, t in both.G.state_dict().items():
        assert t.dtype == torch.float32
        assert torch.equal(lone.G.state_dict()[key], t)
    if name in WITHOUT_D:
        with pytest.raises(ConversionError, match="its minibatch statistic"):
            read(saved(tmp_path / "z.pth", d.state_dict()), name)
    else:
        lone = read(saved(tmp_path / "z.pth", d.state_dict()), name).networks()
        assert lone.G is None
        for key, t in both.D.state_dict().items():
            assert torch.equal(lone.D.state_dict()[key], t)


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("name", THEIRS)
def test_the_way_back(name, depth, tmp_path):
    """Keys and values are those of the family, so its own class takes them, and computes the same."""
    g, d = pair(name, depth)
    if name == "nashory" and depth:
        g.flush_network()  # what lies in a fading network has other keys
    made = read(saved(tmp_path / "x.pth", files(name, g, d)), name).networks()
    convert.write(tmp_path / "back.pth", made, name, nominal_scale=name == "nashory")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    family = convert.FAMILIES[name]
    for kind, model in (("G", g), ("D", d)):
        if getattr(made, kind) is None:
            continue
        state, place = back, files(name, g, d)
        for key in family.keys[kind]:
            state, place = state[key], place[key]
        assert state.keys() == place.keys()
        if name == "gan_lab" and depth == 0:
            assert not [key for key in state if key.startswith("prev")]
        reloaded = copy.deepcopy(model)
        for p in reloaded.parameters():
            p.data.zero_()
        reloaded.load_state_dict(state)
        if name == "rosinality":  # its embedding is in the weights
            for alpha in ALPHAS:
                z = torch.randn(4, LATENT[name], dtype=torch.float64)
                a, b = (THEIRS[name].generate(m, z, depth, alpha) for m in (model, reloaded))
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
            continue
        for key, t in model.state_dict().items():
            torch.testing.assert_close(state[key].view_as(t), t, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("akanimax", {}, "has a pixel norm after the first layer (first_norm True); akanimax's networks have no"),
        ("gan_zoo", {}, "has a bias for each channel of the first layer (unit_bias False); gan_zoo's"),
        (
            "rosinality",
            {"latent_norm": "z", "pixel_norm": "before_act"},
            "label_dim is 0; rosinality's networks have a label or more",
        ),
        ("genforce", {}, "(latent_norm joined); genforce's networks have a pixel norm of the latent and one of the"),
        (
            "wsconv",
            {"first_norm": False},
            "without tanh (tanh_from None); wsconv's keys would be read as tanh on",
        ),
        (
            "rosinality",
            {"label_dim": 2},
            "rosinality's networks have a pixel norm of the latent (latent_norm z)",
        ),
        ("akanimax", {"first_norm": False, "label_dim": 2}, "G: has labels (2); akanimax's networks have none"),
        ("nashory", {}, "no file holds its layers' scales"),
        ("nashory", {"base_shape": (4, 6)}, "begins with 4x6 pixels, nashory's networks with 4x4"),
    ],
)
def test_what_a_family_cannot_be_is_refused(name, options, said, tmp_path):
    g = Generator(8, latent_dim=10, fmap_base=64, fmap_max=16, **options)
    with pytest.raises(ConversionError) as caught:
        convert.write(tmp_path / "x.pth", networks.Networks(G=g), name)
    assert said in str(caught.value)
    assert not (tmp_path / "x.pth").exists()


def test_d_of_another_order_is_refused(tmp_path):
    made = networks.Networks(D=Discriminator(8, fmap_base=64, fmap_max=16))
    with pytest.raises(ConversionError, match="akanimax's networks have a 2x2 mean after the activation"):
        convert.write(tmp_path / "x.pth", made, "akanimax")
    with pytest.raises(ConversionError, match="rosinality: D: its minibatch statistic"):
        convert.write(tmp_path / "x.pth", made, "rosinality")


@pytest.mark.parametrize("zipped", [True, False])
def test_rosinalitys_whole_module(zipped, tmp_path, monkeypatch):
    """Its program pickles the module; the class is named `model.Generator` there, and is not imported here."""
    import sys

    g, _ = pair("rosinality", 2)
    THEIRS["rosinality"].generate(
        g, torch.randn(2, 10, dtype=torch.float64), 2, 0.5
    )  # leaves weights beside weight_orig
    for m in g.modules():
        if "weight" in vars(m):
            del m.weight  # a non-leaf tensor cannot be pickled twice
    module = types.ModuleType("model")
    for cls in (
        rosinality.Generator,
        rosinality.ConvBlock,
        rosinality.EqualConv2d,
        rosinality.PixelNorm,
        rosinality.EqualLR,
    ):
        setattr(module, cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", "model")
    monkeypatch.setitem(sys.modules, "model", module)
    saved(tmp_path / "x.model", g, zipped)
    state = read(saved(tmp_path / "y.pth", g.state_dict()), "rosinality").networks().G.state_dict()
    monkeypatch.undo()
    assert "model" not in sys.modules
    made = convert.read(tmp_path / "x.model").networks().G
    for key, t in state.items():
        assert torch.equal(made.state_dict()[key], t)
    assert "model" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False])
@torch.no_grad()
def test_gan_zoos_configuration(zipped, tmp_path, monkeypatch):
    """An object of a class of theirs, whose options change the function."""
    import sys

    g = gan_zoo.GNet(10, 16, leakyReluLeak=0.1, equalizedlR=False)
    d = gan_zoo.DNet(16, leakyReluLeak=0.1, equalizedlR=False, sizeDecisionLayer=4)
    for model in (g, d):
        model.addScale(8)
        model.double()
        for p in model.parameters():
            p.data.normal_()
    module, config = (
        types.ModuleType("models.utils.config"),
        type("BaseConfig", (), {"__module__": "models.utils.config"}),
    )
    module.BaseConfig, about = config, config()
    vars(about).update(
        leakyReluLeak=0.1, equalizedlR=False, perChannelNormalization=True, alpha=0, depthOtherScales=[8]
    )
    for parent in ("models", "models.utils"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, "models.utils.config", module)
    path = saved(tmp_path / "x.pt", {"config": about, "netG": g.state_dict(), "netD": d.state_dict()}, zipped)
    monkeypatch.undo()
    made = convert.read(path).networks()
    z = torch.randn(4, 10, dtype=torch.float64)
    torch.testing.assert_close(made.G(z), g(z), rtol=1e-9, atol=1e-9)
    image = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    score, logits = made.D(image)
    torch.testing.assert_close(torch.cat([score[:, None], logits], 1), d(image), rtol=1e-9, atol=1e-9)


def test_nashory_needs_to_be_asked_for(tmp_path):
    g, _ = pair("nashory", 1)
    path = saved(tmp_path / "x.pth.tar", {"resl": 3.0, "state_dict": g.state_dict(), "optimizer": {"state": {}}})
    with pytest.raises(ConversionError, match=r"no file holds its layers' scales.*--nominal-scale"):
        convert.read(path)
    layout = convert.read(path, nominal_scale=True).layouts["G"]
    assert any("the run's own are lost" in text for text in layout.assumed)


@pytest.mark.parametrize("flags", [{"norm_latent": False}, {"pixelwise": False}, {"wn": False}])
@torch.no_grad()
def test_nashorys_flags(flags, tmp_path):
    g, _ = pair("nashory", 2, **flags)
    made = convert.read(saved(tmp_path / "x.pth", g.state_dict()), nominal_scale="wn" not in flags).networks().G
    theirs, ours = theirs_and_ours("nashory", g, made, 2, 0.25)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_nashorys_blocks_are_those_of_every_level(tmp_path):
    g, _ = pair("nashory", 2)
    g.flush_network()
    state = {key.replace("4x4_8x8", "16x16_32x32"): t for key, t in g.state_dict().items()}
    with pytest.raises(ConversionError, match=r"blocks of the levels \[16, 32\], expected those from 8 on"):
        read(saved(tmp_path / "x.pth", state), "nashory")


def test_nashorys_batch_norm_is_refused(tmp_path):
    g, _ = pair("nashory", 1, bn=True)
    with pytest.raises(ConversionError, match="it has batch norm"):
        convert.read(saved(tmp_path / "x.pth", g.state_dict()), nominal_scale=True)


@torch.no_grad()
def test_genforces_labels(tmp_path):
    g, d = pair("genforce", 1, label_size=3)
    value = {**files("genforce", g, d), "generator_smooth": g.state_dict()}
    made = convert.read(saved(tmp_path / "x.pth", value)).networks()
    assert made.G_ema.label_dim == 3
    z, labels = torch.randn(16, 10, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[torch.arange(16) % 3]
    torch.testing.assert_close(made.G(z, labels), g(z, labels)["image"], rtol=1e-9, atol=1e-9)
    image = torch.randn(16, 3, 8, 8, dtype=torch.float64)
    score, logits = made.D(image)
    torch.testing.assert_close(torch.cat([score[:, None], logits], 1), d(image), rtol=1e-9, atol=1e-9)


def test_akanimaxs_projection_is_refused(tmp_path):
    d = akanimax.Discriminator(3, latent_size=10, num_classes=4, widths=(16, 8))
    with pytest.raises(ConversionError, match="projection onto an embedding"):
        convert.read(saved(tmp_path / "x.pth", d.state_dict()))


def test_gan_labs_other_widths_are_refused(tmp_path):
    gan_lab.ProGAN.widths = (12, 12)
    gan_lab.ProGAN.reset_state()
    g = gan_lab.ProGenerator(4, 16)
    with pytest.raises(ConversionError, match="its first layer has 16 feature maps and the 4x4 level 12"):
        convert.read(saved(tmp_path / "x.pth", g.state_dict()))


def test_wsconvs_twins_that_differ_are_refused(tmp_path):
    g, _ = pair("wsconv", 1)
    state = OrderedDict(g.state_dict(), **{"initial_rgb.bias": torch.ones(3, dtype=torch.float64)})
    with pytest.raises(ConversionError, match="should be one tensor, and differ"):
        convert.read(saved(tmp_path / "x.pth", state))


def test_files_of_no_family_or_of_two(tmp_path):
    with pytest.raises(ConversionError, match=r"it has conv1\.weight; expected a state dict with a key such"):
        convert.read(saved(tmp_path / "x.pth", {"conv1.weight": torch.ones(2)}))
    two = {"a": pair("akanimax", 1)[0].state_dict(), "b": pair("genforce", 1)[0].state_dict()}
    with pytest.raises(ConversionError, match="networks of two families"):
        convert.read(saved(tmp_path / "x.pth", two))
    path = saved(tmp_path / "x.pth", pair("akanimax", 1)[0].state_dict())
    with pytest.raises(ConversionError, match="expected networks of genforce, got those of akanimax"):
        convert.read(path, "genforce")


@pytest.mark.parametrize("name", THEIRS)
def test_a_missing_and_a_foreign_tensor_are_named(name, tmp_path):
    state = pair(name, 1)[0].state_dict()
    last = [key for key in state if key.endswith("bias")][-1]
    with pytest.raises(ConversionError, match="is missing") as caught:
        read(saved(tmp_path / "x.pth", {k: t for k, t in state.items() if k != last}), name).networks()
    assert str(caught.value).count("G: ") == 1
    with pytest.raises(ConversionError, match=r"up to 8x8, which has no noise\.strength; of another network"):
        read(saved(tmp_path / "x.pth", {**state, "noise.strength": torch.ones(1)}), name).networks()
