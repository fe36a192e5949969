"""Files of torch.save: what torch reads in them, and nothing more."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from convert.hostile_files import Calls, refused, torch_bytes, torch_data

from pggan_fast import convert
from pggan_fast.convert import torch_file

HUGE = 1 << 45


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_what_torch_reads(zipped):
    shared = torch.arange(6, dtype=torch.int32)
    tensors = {str(dtype): torch.tensor([[1, 2], [0, 1]]).to(dtype) for dtype in torch_file._STORAGES.values()}
    tensors |= {"view": shared[2:4], "whole": shared, "none": torch.ones(0, 3), "number": torch.tensor(2.5)}
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    data = torch_data(zipped, size=torch.Size((2, 3)), device=torch.device("cpu"), path=Path("x"), **tensors)
    ours, theirs = torch_file.load(data), torch.load(io.BytesIO(data), weights_only=False)
    assert ours.keys() == theirs.keys()
    for key, t in [*theirs["netG"].items(), *((key, theirs[key]) for key in tensors)]:
        made = ours["netG"][key] if key in theirs["netG"] else ours[key]
        assert torch.equal(made, t)
        assert made.dtype == t.dtype
    assert (ours["n"], ours["size"]) == (3, (2, 3))
    assert [ours[key].cls.name for key in ("device", "path")] == ["torch.device", "pathlib.PosixPath"]


def test_another_version_of_the_older_format_is_refused(tmp_path):
    whole = torch_data(zipped=False)
    version = pickle.dumps(1001, 2)
    assert whole.count(version) == 1
    assert "not a file of torch.save" in refused(whole.replace(version, pickle.dumps(1002, 2)), tmp_path)
    with pytest.raises(convert.ConversionError, match=r"not a file of torch\.save"):
        torch_file.load(whole.replace(pickle.dumps(torch_file.MAGIC, 2), pickle.dumps(1, 2)))


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath"])
def test_paths_of_every_system_and_python_are_names(name, module):
    data = rewritten(torch_bytes({}), lambda body: b"c" + f"{module}\n{name}\n".encode() + b"(Vx\ntR.")
    path = torch_file.load(data)
    assert (path.cls.name, path.state) == (f"pathlib.{name}", {"args": ("x",)})


THEIR_CLASSES = (
    "torch.nn.modules.linear.Linear", "torch.optim.adam.Adam", "__main__.Net", "model.Generator", "network.Generator",
    "models.utils.config.BaseConfig", "networks.Generator", "custom_layers.equalized_conv2d", "config.Config",
    "utils.Options", "progan.architectures.ProGenerator", "stylegan.architectures.StyleGenerator", "_int.LearnerConfig",
    "resnetgan.architectures.Generator32PixResnet", "pro_gan_pytorch.PRO_GAN.Generator", "gan_lab.config.Config",
    "argparse.Namespace",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        *((name, True) for name in THEIR_CLASSES),
        ("torch.nnx.Thing", False),
        ("modelzoo.Thing", False),
        ("argparse.ArgumentParser", False),
    ],
)
def test_which_classes_stay_names(name, stays):
    module, _, cls = name.rpartition(".")
    data = torch_bytes({"n": 1})
    named = rewritten(data, lambda body: b"\x80\x02c" + f"{module}\n{cls}\n".encode() + b")\x81.")
    if stays:
        assert str(torch_file.load(named).cls) == name
    else:
        with pytest.raises(convert.ConversionError, match=f"an object of the class {name}, which is not loaded"):
            torch_file.load(named)


def rewritten(data, change):
    """The zip with another pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            body = old.read(info)
            new.writestr(info.filename, change(body) if info.filename.endswith("data.pkl") else body)
    return out.getvalue()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((0, (HUGE,), (0,)), "which has 6"),
        ((0, (3, 2), (1, 1000)), "up to element"),
        ((5, (3, 2), (1, 3)), "up to element"),
        ((-1, (2,), (1,)), "impossible"),
        ((0, (2,), (-1,)), "impossible"),
        ((0, (2,), (1, 1)), "impossible"),
        ((0, (HUGE, HUGE), (0, 0)), "which has 6"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(args, said, tmp_path):
    assert said in refused(with_tensor(args, 6), tmp_path)


@pytest.mark.parametrize(
    ("part", "offset", "told"),
    [
        (None, 1, None),
        (("k", 1, 5), 0, None),
        (("k", 1, 5), "0", "a storage of an impossible part"),
        (("k", True, 5), 0, "a storage of an impossible part"),
        (("k", 1), 0, "a storage of an impossible part"),
        (["k", 1, 5], 0, "a storage of an impossible part"),
        (("k", -1, 5), 0, "a tensor of impossible size"),
    ],
)
def test_a_storage_may_be_a_part_of_another(part, offset, told, tmp_path):
    data = with_tensor((offset, (2,), (2,)), 6, part)
    if told is None:
        assert torch_file.load(data)["netG"]["a"].tolist() == [1.0, 3.0]
    else:
        assert told in refused(data, tmp_path)


def with_tensor(args, *stored):
    """A file with a tensor of offset, size and stride `args` in the storage 0..5, the end of whose id is `stored`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", torch.FloatStorage, "0", "cpu", *stored) if obj is self else None

    def change(body):
        file = io.BytesIO()
        pickler = Pickler(file, 2)
        pickler.dump({"netG": {"a": Calls(torch._utils._rebuild_tensor_v2, pickler, *args, False, OrderedDict())}})
        return file.getvalue()

    return rewritten(torch_data(), change)


def test_a_compressed_member_is_refused(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_data())) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert "compressed" in refused(out.getvalue(), tmp_path)


class OfSomebody(torch.nn.Linear):
    """A module whose class is nobody's that is known."""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_told_with_what_to_save(zipped, tmp_path):
    said = refused(torch_bytes(OfSomebody(2, 2), zipped), tmp_path)
    assert f"an object of the class {__name__}.OfSomebody, which is not loaded, as that would run" in said
    assert "torch.save(net.state_dict(), ...)" in said
