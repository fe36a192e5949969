"""Official pickles to our networks: weights come back exactly, and outputs agree with the oracle at every level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convert import pickles
from oracle import models as oracle

from pggan_fast import convert, networks
from pggan_fast.convert.check import compare

SIZES = {"fmap_base": 64, "fmap_max": 12}
CASES = {
    "fused": {},
    "not fused": {"fused": False},
    "labels": {"labels": 3},
    "grayscale": {"channels": 1, "fused": False},
    "4x4": {"resolution": 4},
    "32x32": {"resolution": 32},
    "no wscale": {"wscale": False},
    "float32": {"dtype": "float32"},
}


class Case:
    """States of G, D and Gs, and the pickle that holds them."""

    def __init__(self, resolution=16, fused=True, labels=0, channels=3, wscale=True, dtype="float64", group=4, **more):
        draw = np.random.default_rng(7)
        self.resolution, self.labels, self.channels = resolution, labels, channels
        self.fused, self.group = fused, group
        sizes = {"label_dim": labels, "channels": channels, **SIZES}
        self.states = {
            "G": pickles.g_state(draw, resolution, dtype, latent_dim=12, **sizes),
            "D": pickles.d_state(draw, resolution, dtype, **sizes),
            "G_ema": pickles.g_state(draw, resolution, dtype, latent_dim=12, **sizes),
        }
        kwargs = {"num_channels": channels, "resolution": resolution, "label_size": labels, "use_wscale": wscale,
                  "fused_scale": fused, **SIZES}  # fmt: skip
        with pickles.stand_in("tfutil") as cls:
            g = [
                pickles.tensorflow_network(
                    cls,
                    "G_paper",
                    {**kwargs, **more},
                    pickles.g_variables(self.states[kind], resolution, fused, wscale),
                )
                for kind in ("G", "G_ema")
            ]
            d = pickles.tensorflow_network(
                cls, "D_paper", {**kwargs, "mbstd_group_size": group},
                pickles.d_variables(self.states["D"], resolution, fused, wscale),
            )  # fmt: skip
            self.data = pickles.written((g[0], d, g[1]))

    def at(self, tmp_path):
        path = tmp_path / "network.pkl"
        path.write_bytes(self.data)
        return path


def latents(case, batch=8):
    draw = np.random.default_rng(3)
    z = draw.standard_normal((batch, 12))
    return z, np.eye(case.labels)[draw.integers(case.labels, size=batch)] if case.labels else None


@pytest.mark.parametrize("name", CASES)
def test_weights_and_outputs(name, tmp_path):
    case = Case(**CASES[name])
    conversion = convert.read(case.at(tmp_path))
    made = conversion.networks().present()
    assert list(made) == ["G", "D", "G_ema"]
    for kind, net in made.items():
        state = net.state_dict()
        assert state.keys() == case.states[kind].keys()
        for key, value in case.states[kind].items():
            assert str(state[key].dtype) == f"torch.{value.dtype}"
            np.testing.assert_allclose(state[key].numpy(), value, rtol=1e-12 if name == "no wscale" else 0)
    exact = 1e-10 if name != "float32" else 1e-9
    for kind, layout in conversion.layouts.items():
        agreements = list(compare(kind, layout, made[kind]))
        assert len(agreements) == 2 * len(oracle.levels(case.resolution)) - 1
        assert max(a.error for a in agreements) < exact


@pytest.mark.parametrize("name", CASES)
def test_their_forward_is_the_oracle(name, tmp_path):
    case = Case(**CASES[name])
    layouts = convert.read(case.at(tmp_path)).layouts
    z, labels = latents(case)
    for r in oracle.levels(case.resolution):
        for alpha in (1.0, 0.25, 0.0):
            theirs = layouts["G"].forward(z, labels, resolution=r, alpha=alpha)
            ours = oracle.generator(case.states["G"], z, labels, resolution=r, alpha=alpha)
            np.testing.assert_allclose(theirs, ours, atol=1e-9 * np.abs(ours).max())
            image = np.random.default_rng(5).standard_normal((8, case.channels, r, r))
            down = "down" if case.fused else "pool"
            score, logits = oracle.discriminator(case.states["D"], image, alpha=alpha, downsample=down)
            ours = np.concatenate([score[:, None], logits], axis=1) if case.labels else score[:, None]
            np.testing.assert_allclose(layouts["D"].forward(image, alpha=alpha), ours, atol=1e-9 * np.abs(ours).max())


@pytest.mark.parametrize("group", [0, 1, 2, 16])
def test_groups_of_the_stddev(group, tmp_path):
    case = Case(group=group)
    if group < 2:  # no such layer, so no weights for its map
        states = case.states["D"]
        states["blocks.4x4.conv.weight"] = states["blocks.4x4.conv.weight"][:, :-1]
        with pickles.stand_in("tfutil") as cls:
            kwargs = {"num_channels": 3, "resolution": 16, "mbstd_group_size": group, **SIZES}
            case.data = pickles.written(
                pickles.tensorflow_network(cls, "D_paper", kwargs, pickles.d_variables(states, 16))
            )
    conversion = convert.read(case.at(tmp_path))
    net = conversion.networks().D
    assert (net.stddev is None) == (group < 2)
    assert max(a.error for a in compare("D", conversion.layouts["D"], net)) < 1e-10


@pytest.mark.parametrize(
    ("option", "argument"),
    [
        ({"use_pixelnorm": False}, ("pixel_norm", "none")),
        ({"normalize_latents": False}, ("latent_norm", "none")),
        ({"use_leakyrelu": False}, ("negative_slope", 0.0)),
        ({"pixelnorm_epsilon": 1e-4}, ("eps", 1e-4)),
    ],
)
def test_options_of_g(option, argument, tmp_path):
    conversion = convert.read(Case(**option).at(tmp_path))
    net = conversion.networks().G
    assert net.arguments[argument[0]] == argument[1]
    assert max(a.error for a in compare("G", conversion.layouts["G"], net)) < 1e-10
    default = convert.read(Case().at(tmp_path)).layouts["G"]
    assert max(a.error for a in compare("G", default, net)) > 1e-5  # else the option would not be tested


@pytest.mark.parametrize("python2", [False, True])
@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("wscale", [True, False])
def test_theano(wscale, protocol, python2, tmp_path):
    draw = np.random.default_rng(11)
    sizes = {"fmap_base": 64, "fmap_max": 12}
    states = {
        "G": pickles.g_state(draw, 16, latent_dim=12, **sizes),
        "D": pickles.d_state(draw, 16, **sizes),
        "G_ema": pickles.g_state(draw, 16, latent_dim=12, **sizes),
    }
    spec = {"num_channels": 3, "resolution": 16, "use_wscale": wscale, "use_gdrop": True, "mbstat_avg": "all", **sizes}
    with pickles.stand_in("network") as cls:
        parts = {
            kind: pickles.theano_network(
                cls,
                "D_paper" if kind == "D" else "G_progressive_8",
                spec,
                (pickles.theano_d if kind == "D" else pickles.theano_g)(state, 16, draw, wscale),
            )
            for kind, state in states.items()
        }
        (tmp_path / "x.pkl").write_bytes(pickles.written(tuple(parts.values()), protocol, python2))
    conversion = convert.read(tmp_path / "x.pkl")
    made = conversion.networks().present()
    assert made["D"].arguments["stddev_group"] == 16
    assert made["D"].arguments["downsample"] == "pool"
    for kind, net in made.items():
        for key, value in states[kind].items():
            np.testing.assert_allclose(net.state_dict()[key].numpy(), value, rtol=1e-12)
        assert max(a.error for a in compare(kind, conversion.layouts[kind], net)) < 1e-10
    z = draw.standard_normal((2, 12))
    ours = oracle.generator(states["G"], z, resolution=16, alpha=0.4)
    theirs = conversion.layouts["G"].forward(z, None, resolution=16, alpha=0.4)
    np.testing.assert_allclose(theirs, ours, atol=1e-9 * np.abs(ours).max())


def test_the_file_is_read_back(tmp_path):
    case = Case(labels=2)
    made = convert.read(case.at(tmp_path)).networks()
    networks.save(tmp_path / "out.safetensors", made)
    back = networks.load(tmp_path / "out.safetensors")
    for kind, net in made.present().items():
        other = getattr(back, kind)
        assert other.arguments == net.arguments
        for key, value in net.state_dict().items():
            assert torch.equal(other.state_dict()[key], value)
    assert back.source == {"file": "network.pkl", "family": "official"}


def test_a_wrong_conversion_is_seen(tmp_path):
    conversion = convert.read(Case().at(tmp_path))
    net = conversion.networks().G
    with torch.no_grad():
        net.blocks["8x8"]["conv_up"].weight.copy_(net.blocks["8x8"]["conv_up"].weight.flip(2, 3))
    agreements = {(a.resolution, a.alpha): a for a in compare("G", conversion.layouts["G"], net)}
    assert agreements[4, 1.0].passed
    assert not agreements[8, 1.0].passed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "expected version 2, got 1"),
        ({"build_func_name": "G_style"}, "expected G_paper or D_paper, got G_style"),
        ({"static_kwargs": {"resolution": 24}}, "resolution: expected a power of two >= 4, got 24"),
        ({"static_kwargs": {"resolution": 16, "use_wscale": 3}}, "use_wscale: expected a bool, got 3"),
        ({"static_kwargs": {"resolution": 16, "fmap_decay": 1e6}}, "fmap_decay: expected a number in [0, 32]"),
        ({"static_kwargs": {"resolution": 16, "fmap_max": float("nan")}}, "fmap_max: expected a int, got nan"),
        ({"static_kwargs": {"resolution": 16, "fmap_base": 1 << 31, "fmap_max": 1 << 31}}, "G_ema: "),
        ({"variables": None}, "variables: expected a list"),
        ({"variables": [("lod", 1)]}, "lod: expected an array, got int"),
        (
            {"variables": []},
            "4x4/Conv/weight and 15 more are missing from its 0 tensors",
        ),
    ],
)
def test_states_of_another_kind_are_one_line(change, said, tmp_path):
    with pickles.stand_in("tfutil") as cls:
        net = pickles.tensorflow_network(cls, "G_paper", {"resolution": 16}, [])
        net.state |= change
        (tmp_path / "x.pkl").write_bytes(pickles.written(net))
    with pytest.raises(convert.ConversionError) as caught:
        convert.read(tmp_path / "x.pkl").networks()
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'x.pkl'}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_tensors_of_another_shape_are_named(tmp_path):
    case = Case()
    with pickles.stand_in("tfutil") as cls:
        variables = dict(pickles.g_variables(case.states["G"], 16))
        variables["8x8/Conv1/weight"] = variables["8x8/Conv1/weight"][:, :, :-1]
        kwargs = {"num_channels": 3, "resolution": 16, **SIZES}
        case.data = pickles.written(pickles.tensorflow_network(cls, "G_paper", kwargs, list(variables.items())))
    with pytest.raises(convert.ConversionError, match=r"8x8/Conv1/weight: shape \(3, 3, 11, 12\) does not fit"):
        convert.read(case.at(tmp_path)).networks()


def test_numbers_of_numpy_and_whole_floats_are_numbers(tmp_path):
    case = Case()
    with pickles.stand_in("tfutil") as cls:
        kwargs = {"num_channels": np.int64(3), "resolution": np.float32(16), "fmap_base": 64.0, "dtype": "float16"}
        kwargs |= {"fmap_max": np.int32(12), "use_wscale": np.bool_(True), "structure": "linear", "colour": 1}
        variables = pickles.g_variables(case.states["G"], 16)
        case.data = pickles.written(pickles.tensorflow_network(cls, "G_paper", kwargs, variables))
    layout = convert.read(case.at(tmp_path)).layouts["G_ema"]
    assert [text.split(":")[0] for text in layout.assumed] == [
        "static_kwargs colour", "its activations were float16; ours have the dtype of the weights"
    ]  # fmt: skip
    assert max(a.error for a in compare("G_ema", layout, layout.network("G_ema"))) < 1e-10


def test_a_lod_is_told(tmp_path):
    case = Case()
    with pickles.stand_in("tfutil") as cls:
        variables = [("lod", np.float32(1.25)), *pickles.g_variables(case.states["G"], 16)[1:]]
        kwargs = {"num_channels": 3, "resolution": 16, **SIZES}
        case.data = pickles.written(pickles.tensorflow_network(cls, "G_paper", kwargs, variables))
    assert convert.read(case.at(tmp_path)).layouts["G_ema"].assumed == [
        "the file's lod is 1.25: it shows 8x8, alpha 0.75"
    ]


def test_a_variable_too_many_is_named(tmp_path):
    case = Case()
    with pickles.stand_in("tfutil") as cls:
        variables = [*pickles.g_variables(case.states["G"], 16), ("8x8/Noise/weight", np.ones(3))]
        kwargs = {"num_channels": 3, "resolution": 16, **SIZES}
        case.data = pickles.written(pickles.tensorflow_network(cls, "G_paper", kwargs, variables))
    with pytest.raises(convert.ConversionError, match="up to 16x16, which has no 8x8/Noise/weight; of another"):
        convert.read(case.at(tmp_path)).networks()
