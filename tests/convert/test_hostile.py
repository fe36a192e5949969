"""Damaged and hostile files: one error of one line, nothing executed, nothing written, little allocated."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from convert import pickles
from convert.hostile_files import Calls, refused, torch_bytes, torch_data
from convert.test_official import Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pggan_fast import cli, convert
from pggan_fast.convert import unpickle


def networks_with(extra):
    """An official pickle with one more thing in G's static_kwargs."""
    with pickles.stand_in("tfutil") as cls:
        return pickles.written(pickles.tensorflow_network(cls, "G_paper", {"resolution": 16, "x": extra}, []))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (lambda mark: Calls(os.system, f"touch {mark}"), "posix.system"),
        (lambda mark: Calls(eval, f"open({mark!r}, 'w')"), "eval"),
        (lambda mark: Calls(exec, f"open({mark!r}, 'w')"), "exec"),
        (lambda mark: [{"deep": (Calls(Calls(getattr, os, "system"), f"touch {mark}"),)}], "getattr"),
        (lambda mark: Calls(subprocess.check_call, ["touch", mark]), "check_call"),
        (lambda mark: Calls(open, mark, "w"), "open"),
        (lambda mark: Calls(torch.load, mark), "torch"),
        (lambda mark: Calls(np.load, mark), "numpy"),
        (lambda mark: Calls(bytes, 1 << 40), "bytes"),
    ],
)
def test_nothing_is_called(payload, named, protocol, tmp_path):
    mark = tmp_path / "mark"
    what = payload(str(mark))
    if isinstance(what, list):
        what[0]["deep"][0].call = getattr, (1, "system")
    for data in (pickle.dumps(what, protocol), pickle.dumps((what, 1), protocol)):
        assert named in refused(data, tmp_path)
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"netG": what}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        assert named in refused(file.getvalue(), tmp_path)
    assert not mark.exists()


def test_the_payloads_would_have_run(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Calls(os.system, f"touch {mark}")))
    assert mark.exists()


def test_a_payload_inside_of_a_network_is_refused(tmp_path):
    assert "posix.system" in refused(networks_with(Calls(os.system, "true")), tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04.",
        b"not a pickle",
        b"(i__main__\nNetwork\n.",  # INST
        b"cos\nsystem\n.",  # a name alone is no network
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04ctfutil\nNetwork\n)\x81}(K\x01K\x02ub.",  # a state without text keys
        b"\x80\x04ctfutil\nNetwork\n)\x81K\x01b.",  # a state that is no dictionary
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n)R.",  # an array without a state
        b"(" * 100_000 + b"t" * 100_000 + b".",  # deep
        b"]" + b"q\x00h\x00a" * 1000 + b".",  # a list that holds itself
        b"PK\x03\x04" + bytes(100),
        b"(((((.",
        b"0.",
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ],
)  # fmt: skip
def test_odd_files(data, tmp_path):
    refused(data, tmp_path)


def test_names_that_only_sound_right_are_refused(tmp_path):
    assert "dnnlib.tflib.network.Network" in refused(b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81.", tmp_path)


def test_reading_imports_nothing_that_the_file_names(tmp_path):
    assert "antigravity.fly" in refused(b"\x80\x02cantigravity\nfly\n)R.", tmp_path)
    assert not {"antigravity", "tfutil"} & set(sys.modules)


HUGE = 1 << 45


def _array(shape, data, code="f4"):
    """A pickle of an array that claims a shape."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    sizes = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", n) for n in shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\nU\x02"
        + code.encode()
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    return head + sizes + dtype + b"\x89T" + struct.pack("<i", len(data)) + data + b"tb."


@pytest.mark.parametrize(
    "data",
    [
        _array((HUGE,), b"1234"),
        _array((-1,), b"1234"),
        _array((1,) * 40, b"1234"),
        b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"x.",  # BINBYTES8
        b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"x.",  # BYTEARRAY8
        b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"].",  # FRAME
        b"\x80\x04]r\xff\xff\xff\xff.",  # LONG_BINPUT: Python's own unpickler makes a memo of that length
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",  # LONG4
        b"\x80\x04]\x94(" + b"K\x01" * 50_000 + b"e" + b"\x8c\x08builtins\x8c\x03set\x93h\x00\x85R" * 5_000 + b".",
    ],
)  # fmt: skip
def test_little_is_allocated(data, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(data, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_an_array_has_the_bytes_that_it_claims(tmp_path):
    assert "an array of shape (2,) and dtype float32 has 4 bytes" in refused(_array((2,), b"1234"), tmp_path)
    assert "an array of shape (0,) and dtype float32 has 4 bytes" in refused(_array((0,), b"1234"), tmp_path)


def test_such_an_array_is_read_where_it_is_one(tmp_path):
    data = _array((2,), b"\x00\x00\x80?" * 2)
    value = unpickle.Interpreter(io.BytesIO(data), unpickle.NUMPY, lambda cls: False).load()
    assert value.value.tolist() == [1.0, 1.0]
    assert "an array of O8, expected numbers" in refused(_array((1,), b"12345678", "O8"), tmp_path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", ["<f4", ">f4", "<f8", "<f2", "|u1", "|i1", "|b1", ">i8", "<u4"])
def test_arrays_of_numpy_are_read(code, protocol):
    square = np.arange(6).reshape(2, 3).astype(code)
    values = [square, np.asfortranarray(square), square[1, 2], square[:0], square[0, 0].reshape(())]
    data = pickle.dumps(values, protocol)
    made = unpickle.Interpreter(io.BytesIO(data), unpickle.NUMPY, lambda cls: False).load()
    for ours, theirs in zip(made, values, strict=True):
        assert ours.value.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.value, theirs, strict=True)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "a numpy dtype of None, expected its code"),
        (8, "a numpy dtype of 8, expected its code"),
        ("f4" + " " * 15, "expected its code"),
        ("f9", "no numpy dtype: f9"),
        ("f4,f4", "an array of f4,f4, expected numbers"),
        ("c8", "an array of c8, expected numbers"),
    ],
)
def test_a_dtype_is_one_of_numbers(code, said):
    with pytest.raises(convert.ConversionError) as caught:
        unpickle.Dtype(code)
    assert said in str(caught.value)


@pytest.mark.parametrize("state", [None, (), (3,), (3, "!"), (3, "<>"), [3, "<"]])
def test_a_dtypes_state_has_an_order_of_bytes(state):
    with pytest.raises(convert.ConversionError, match="a dtype's state is not that of a numpy dtype"):
        unpickle.Dtype("f4").build(state)


def doubled(head, wrap, tail):
    """A pickle of a value in a value, sixty deep, each of which holds the one below twice."""
    body = head + b"q\x00"
    for k in range(60):
        body += wrap.replace(b"#", bytes([k])) + b"q" + bytes([k + 1])
    return b"\x80\x02" + body + tail + b"."


NETWORK = b"ctfutil\nNetwork\n)\x81}U\x07version"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + NETWORK + b"](" * 100_000 + b"e" * 100_000 + b"sb.",
        doubled(b"]", b"](h#h#e", NETWORK + b"h\x3csb"),
        doubled(b"]", b"](h#h#e", b""),
        doubled(b")", b"h#h#\x86", b""),
        doubled(b")", b"h#h#\x86", b"}h\x3cK\x01s"),  # as a key it would be hashed
    ],
)
def test_values_that_are_endless_when_shown_compared_or_hashed(data, tmp_path):
    refused(data, tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_modules_and_dictionaries_that_hold_one_another(zipped, tmp_path):
    module = torch.nn.Sequential()
    for _ in range(60):
        module = torch.nn.Sequential(module, module)
    wide = {"x": 1}
    for _ in range(4):
        wide = dict.fromkeys(map(str, range(1000)), wide)
    ring: dict = {"a": 1}
    ring["b"] = ring
    for value, said in (
        (module, "without end"),
        (wide, "without end"),
        (ring, "it holds the entries a, b, no"),
    ):
        file = io.BytesIO()
        torch.save(value, file, _use_new_zipfile_serialization=zipped)
        assert said in refused(file.getvalue(), tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file, expected a checkpoint: a file of torch.save or"),
        (b"hello\nworld\n", "a text file that begins 'hello', expected a checkpoint"),  # GET 101 in a pickle
        (b"import torch\n\nprint(1)\n", "a text file that begins 'import torch'"),
        (torch_bytes({"a": torch.ones(9)})[:-30], "it looks truncated: the end of the ZIP that torch.save writes"),
        (torch_bytes({"a": torch.ones(9)}, zipped=False)[:-3], "it looks truncated: the storage"),
        (pickle.dumps({"a": list(range(99))})[:50], "it looks truncated: the pickle ends early"),
        (pickle.dumps({"a": 1, "b": 2}), "a pickle of the entries a, b, expected networks of the official code"),
        (
            torch_bytes({"output0.weight": torch.ones(3)}),
            "genforce: G: output0.weight: expected 4 dimensions, got shape (3,)",
        ),
        (
            torch_bytes({"output0.weight": torch.ones(2, 0, 1, 1)}),
            "genforce: G: output0.weight: expected numbers, got shape (2, 0, 1, 1)",
        ),
        (
            torch_bytes({"initial.1.weight": torch.ones(1, 1, 1, 1)}),
            "wsconv: G: shapes of another network: ",
        ),
        (
            torch_bytes([1]),
            "of no known program: it holds a list, no state dict; expected a state dict with",
        ),
        (
            torch_bytes({"net": OrderedDict((f"layer{k}.weight", torch.ones(1)) for k in range(5))}),
            "'net' has layer0.weight, layer1.weight, layer2.weight and 2 more; expected a state dict with a key "
            "such as rgb_converters.0.weight (akanimax), gen_blocks.0.0.linear.weight (gan_lab), ",
        ),
    ],
)
def test_what_the_file_is_and_what_was_expected(data, said, tmp_path):
    assert said in refused(data, tmp_path)


def test_a_state_of_our_own_training_is_told_from_others(tmp_path):
    path = tmp_path / "training-state-000000064.pt"
    path.write_bytes(torch_bytes({"G": OrderedDict(weight=torch.ones(1)), "images": 64}))
    with pytest.raises(convert.ConversionError, match="of no known program") as raised:
        convert.read(path)
    assert f"; it is a training's state: its networks are in {tmp_path}, as network-snapshot-*" in str(raised.value)


@pytest.fixture(scope="module")
def whole():
    return Case(resolution=8, labels=2, dtype="float32").data


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_file_is_one_line_and_writes_nothing(tenth, whole, tmp_path, capsys):
    (tmp_path / "in.pkl").write_bytes(whole[: len(whole) * tenth // 10])
    (tmp_path / "out.safetensors").write_bytes(b"before")
    with pytest.raises(SystemExit) as stop:
        cli.main(["convert", str(tmp_path / "in.pkl"), str(tmp_path / "out.safetensors")])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    (text,) = said.err.strip().splitlines()
    assert text.startswith(f"pggan-fast: error: {tmp_path / 'in.pkl'}: ")
    assert (tmp_path / "out.safetensors").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["in.pkl", "out.safetensors"]


def _structure(data):
    """Where the pickle's bytes are not numbers of an array: damage there is worth more."""
    places, last = [], 0
    for _, _, position in pickletools.genops(data):
        if position - last < 64:
            places += range(last, position)
        last = position
    return places


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_are_an_error_or_numbers(whole, tmp_path_factory, draw):
    if not hasattr(test_flipped_bytes_are_an_error_or_numbers, "places"):
        test_flipped_bytes_are_an_error_or_numbers.places = _structure(whole)
    places = st.sampled_from(test_flipped_bytes_are_an_error_or_numbers.places) | st.integers(0, len(whole) - 1)
    data = bytearray(whole)
    for place, value in draw.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        data[place] = value
    only_known_errors(bytes(data), tmp_path_factory.getbasetemp() / "fuzz")


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_of_torch_files(tmp_path_factory, draw):
    data = bytearray(torch_data(draw.draw(st.booleans())))
    for place, value in draw.draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), min_size=1)):
        data[place] = value
    only_known_errors(bytes(data), tmp_path_factory.getbasetemp() / "fuzz-torch")


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes(tmp_path_factory, data):
    only_known_errors(b"\x80\x04" + data, tmp_path_factory.getbasetemp() / "fuzz-any")


def only_known_errors(data, folder):
    folder.mkdir(exist_ok=True)
    (folder / "in").write_bytes(data)
    said = ""
    try:
        convert.read(folder / "in").networks()
    except convert.ConversionError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert os.listdir(folder) == ["in"]
