"""Network files: what is saved is read back, and nothing else is."""

from __future__ import annotations

import json
import os
import pickle
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pggan_fast import networks
from pggan_fast.models import Discriminator, Generator
from pggan_fast.networks import NetworkFileError, Networks

SIZES = {"fmap_base": 64, "fmap_max": 8}


def some(**source):
    torch.manual_seed(1)
    G = Generator(16, latent_dim=5, label_dim=2, tanh_from=8, fmaps=(4, 8, 6, 5), base_shape=(4, 6))
    return Networks(G, Discriminator(8, stddev_group=2, **SIZES).double(), Generator(4, latent_dim=3).half(), source)


def test_networks_are_read_back(tmp_path):
    before = some(kimg=1.5)
    networks.save(tmp_path / "x.safetensors", before)
    after = networks.load(tmp_path / "x.safetensors")
    assert after.source == {"kimg": 1.5}
    assert after.present().keys() == {"G", "D", "G_ema"}
    for kind, net in before.present().items():
        other = getattr(after, kind)
        assert other.arguments == net.arguments
        assert other.state_dict().keys() == net.state_dict().keys()
        for key, t in net.state_dict().items():
            assert torch.equal(other.state_dict()[key], t)
            assert other.state_dict()[key].dtype == t.dtype
        assert all(p.requires_grad for p in other.parameters())
    z, labels = torch.randn(3, 5), torch.eye(2)[[0, 1, 1]]
    assert torch.equal(after.G(z, labels), before.G(z, labels))
    assert networks.load(tmp_path / "x.safetensors", backend="reference").G.backend == "reference"


def test_the_keys_are_those_of_the_state_dicts(tmp_path):
    networks.save(tmp_path / "x.safetensors", Networks(D=Discriminator(4, **SIZES)))
    keys = load_file(tmp_path / "x.safetensors").keys()
    assert "D.blocks.4x4.head.weight" in keys
    assert all(key.startswith("D.") for key in keys)


def test_a_file_is_replaced_in_one_go(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    networks.save(path, Networks(D=Discriminator(4, **SIZES)))
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        networks.save(path, some())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Networks(), "expected one of G, D and G_ema, got none"),
        (Networks(G=Discriminator(4)), "G: expected a Generator, got Discriminator"),
        (Networks(D=Discriminator(4), source={"x": object()}), "source: expected what JSON can hold"),
        (Networks(D=Discriminator(4), source={"x": float("nan")}), "source: expected what JSON can hold"),
    ],
)
def test_what_cannot_be_saved(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        networks.save(tmp_path / "x.safetensors", given)
    assert not os.listdir(tmp_path)


def about(**changes):
    return {"schema": 1, "networks": {"D": Discriminator(4, **SIZES).arguments}, "source": {}, **changes}


def arguments(**changes):
    return about(networks={"D": {**Discriminator(4, **SIZES).arguments, **changes}})


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "got safetensors of another program, without the metadata 'pggan_fast'"),
        ("{", "the metadata is not JSON"),
        ("[" * 100_000, "the metadata is not JSON"),
        ("[]", "expected schema 1, got list"),
        (about(schema=2), "expected schema 1, got 2"),
        (about(networks={}), "expected networks of the names G, D, G_ema"),
        (about(networks={"E": {}}), "expected networks of the names G, D, G_ema"),
        (about(networks={"D": 3}), "D: expected the arguments of Discriminator, got 3"),
        (about(source=3), "source: expected an object, got int"),
        (arguments(resolution=5), "D: resolution: expected a power of two >= 4, got 5"),
        (arguments(resolution=1 << 60), "D: resolution: expected a power of two >= 4"),
        (arguments(resolution="4"), "D: resolution: expected a power of two >= 4, got 4"),
        (arguments(colour=1), "unexpected keyword argument 'colour'"),
        (arguments(backend="cuda"), "D: backend: got cuda, which is no part of a network file"),
        (arguments(fmap_max=10**30), "expected shape"),
        (arguments(fmap_decay=-2000.0), "D: "),
        (arguments(fmaps=[8, 1 << 40]), "D: "),
        (arguments(fmaps="ab"), "D: "),
        (arguments(base_shape=3), "D: "),
        (arguments(resolution=8), "is missing"),
        (arguments(channels=2), "expected shape"),
    ],
)
def test_other_metadata_is_one_line(metadata, said, tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {f"D.{key}": t for key, t in Discriminator(4, **SIZES).state_dict().items()}
    text = metadata if isinstance(metadata, str) or metadata is None else json.dumps(metadata)
    save_file(tensors, path, None if text is None else {"pggan_fast": text})
    with pytest.raises(NetworkFileError) as caught:
        networks.load(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_other_tensors_are_named(tmp_path):
    path, tensors = tmp_path / "x.safetensors", Discriminator(4, **SIZES).state_dict()
    tensors = {f"D.{key}": t for key, t in tensors.items()}
    key = "D.blocks.4x4.head.bias"
    for changed, said in (
        ({**tensors, "D.x": torch.ones(1)}, "D.x is not expected"),
        ({k: t for k, t in tensors.items() if k != key}, f"{key} is missing"),
        ({**tensors, key: torch.ones(2)}, rf"{key}: expected shape \(1,\), got \(2,\)"),
        (
            {**tensors, key: torch.ones(1, dtype=torch.int64)},
            f"{key}: expected floating-point numbers, got torch.int64",
        ),
    ):
        save_file(changed, path, {"pggan_fast": json.dumps(about())})
        with pytest.raises(NetworkFileError, match=said):
            networks.load(path)


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        networks.load(tmp_path / "none")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "x.safetensors"
    networks.save(path, Networks(D=Discriminator(4, **SIZES)))
    return path.read_bytes()


@pytest.mark.parametrize("tenth", range(1, 10))
def test_truncated_files(tenth, whole, tmp_path):
    (tmp_path / "x").write_bytes(whole[: len(whole) * tenth // 10])
    with pytest.raises(NetworkFileError, match="not a whole safetensors file, perhaps truncated"):
        networks.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "an empty file"),
        ("# die Gewichte für G\n".encode(), "a text file that begins '# die Gewichte für G'"),
        (b"x" * 4095 + "ü".encode(), f"a text file that begins '{'x' * 40}...'"),  # a character in two halves
        (b"\x89PNG\r\n\x1a\n123", "a PNG image"),
        (pickle.dumps([1]), "a pickle"),
        (bytes(range(256)), "a file of no known kind"),
    ],
)
def test_files_of_another_kind_are_told_by_what_they_are(data, kind, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(NetworkFileError) as caught:
        networks.load(tmp_path / "x")
    assert str(caught.value).endswith(f"wrote, got {kind}")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_told_from_other_zips_and_pickles(zipped, tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    with pytest.raises(NetworkFileError, match=r"got a file of torch\.save"):
        networks.load(tmp_path / "x")


def test_a_header_that_claims_much_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(NetworkFileError, match="not a whole safetensors file"):
        networks.load(tmp_path / "x")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bytes(whole, tmp_path_factory, draw):
    data = bytearray(whole)
    header = struct.unpack("<Q", whole[:8])[0] + 8
    for place, value in draw.draw(st.lists(st.tuples(st.integers(0, header), st.integers(0, 255)), min_size=1)):
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    said = ""
    try:
        networks.load(path)
    except NetworkFileError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
