"""launch(): tensors become addresses, and nothing else in the package takes one."""

import gc
import re
import weakref
from pathlib import Path

import pytest
import torch

import pggan_fast
from pggan_fast import ops
from pggan_fast.backends import cpu
from pggan_fast.backends import launch as launching
from pggan_fast.backends.launch import launch

native = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")


@pytest.fixture
def by_addresses(monkeypatch):
    """As where torch has no C functions for tensors."""
    monkeypatch.setattr(launching._Host, "reads", False)


def test_arguments_become_addresses_and_scalars(by_addresses):
    x, seen = torch.ones(3), []
    launch(lambda *args: seen.extend(args), x, None, 2, 0.5, True, torch.nn.Parameter(x))
    assert seen == [x.data_ptr(), 0, 2, 0.5, True, x.data_ptr()]


def test_tensors_live_for_the_whole_call():
    alive = []

    def probe(address):
        gc.collect()
        alive.append(reference() is not None)

    def call(tensor):
        nonlocal reference
        reference = weakref.ref(tensor)
        return tensor

    reference = None
    launch(probe, call(torch.ones(1000)))
    gc.collect()
    assert alive == [True]
    assert reference() is None


@native
@pytest.mark.parametrize("reads", [True, False])
def test_tensors_elsewhere_are_refused(reads, monkeypatch):
    monkeypatch.setattr(launching._Host, "reads", reads)
    x = torch.ones(1, 1, 2, 2)
    message = r"all of a call on cpu.*shape \(1, 1, 2, 2\) on meta; move it with \.to\('cpu'\)"
    with pytest.raises(ValueError, match=message):
        launch(cpu.native.fade_reals, x, torch.ones(()), x.to("meta"), 0, 1, 1, 2, 2, False)


@native
def test_native_functions_read_tensors_as_their_addresses():
    """Of a part of a tensor, of a parameter, of one that wants gradients: where they begin."""
    assert launching._Host.reads
    image = torch.nn.Parameter(torch.arange(48.0).view(3, 1, 4, 4))
    outs = torch.full((2, 2, 1, 4, 4), float("nan"))
    alpha = torch.tensor([0.5, 0.25])
    for out, first in zip(outs, (image[1:], image[1:].data_ptr()), strict=True):
        cpu.native.fade_reals(first, alpha[1:], out, 0, 2, 1, 4, 4, False)
    assert torch.equal(outs[0], outs[1])
    torch.testing.assert_close(outs[0], ops.fade_reals(image[1:].detach(), 0.25, backend="reference"))


@native
@pytest.mark.parametrize("wrong", [1.5, "x", torch.ones(2).to_sparse(), torch.ones(2, device="meta"), -1], ids=repr)
def test_native_functions_take_nothing_else_for_a_tensor(wrong):
    out = torch.ones(1, 1, 2, 2)
    with pytest.raises(TypeError):
        cpu.native.fade_reals(wrong, torch.ones(()), out, 0, 1, 1, 2, 2, False)
    assert torch.equal(out, torch.ones(1, 1, 2, 2))


@native
def test_functions_that_misread_a_tensor_are_not_used():
    """As of another version of DLPack's interface: what they find has to be what and where the tensor is."""
    functions, probe = torch.Tensor.__dlpack_c_exchange_api__, torch.empty(3, 2)[1:]
    kinds = torch.nn.Parameter, torch.dtype
    try:
        assert not cpu.native.read_tensors(functions, probe.double(), probe.data_ptr(), *kinds)
        assert not cpu.native.read_tensors(functions, probe.t(), probe.data_ptr(), *kinds)
        assert not cpu.native.read_tensors(functions, probe, probe.data_ptr() + 4, *kinds)
        with pytest.raises(TypeError):
            cpu.native.fade_reals(probe, probe, probe, 0, 1, 1, 2, 2, False)
        assert cpu.native.signature((probe,)) is None
    finally:
        assert cpu.native.read_tensors(functions, probe, probe.data_ptr(), *kinds)


@native
@pytest.mark.parametrize("functions", [None, object(), 7])
def test_a_torch_without_such_functions_is_read_by_addresses(functions, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", functions, raising=False)
    monkeypatch.setattr(launching._Host, "reads", False)
    monkeypatch.setattr(launching._Host, "signature", lambda args: None)
    launching.let_read(cpu.native)
    assert not launching._Host.reads
    x, w = torch.randn(2, 9, 6, 4, requires_grad=True), torch.randn(17, 9, 3, 3, requires_grad=True)
    results = []
    for backend in ("cpu", "cpu", "reference"):
        y = ops.scaled_conv2d(x, w, weight_scale=0.3, resample="down", negative_slope=0.2, backend=backend)
        results.append([y, *torch.autograd.grad(y.square().sum(), (x, w))])
    for got in results[:2]:
        torch.testing.assert_close(got, results[2], rtol=1e-4, atol=1e-4)


@native
def test_zeros_that_are_nowhere():
    """torch's forward mode makes such: without memory, and of a size."""
    zeros, w = torch._efficientzerotensor((2, 9, 6, 4)), torch.randn(17, 9, 3, 3)
    assert launching.signature((zeros,)) is None
    assert not ops.scaled_conv2d(zeros, w, weight_scale=0.3, backend="cpu").any()
    assert launching.signature((torch.empty(0, 3),)) is not None


X = torch.arange(32.0).view(1, 2, 4, 4)
KINDS = {
    "shape": X[:, :, :2].contiguous(),
    "rank": X[0],
    "strides": X.contiguous(memory_format=torch.channels_last),
    "strides of ones": X.as_strided(X.shape, (99, 16, 4, 1)),
    "dtype": X.double(),
    "half": X.half(),
    "bfloat16": X.bfloat16(),
    "negation": torch._neg_view(X),
    "none": None,
    "int": 1,
    "float": 1.0,
    "true": True,
    "false": False,
    "zero": 0,
    "negative zero": -0.0,
    "text": "1",
    "longer text": "11",
    "a type": torch.float32,
    "another type": torch.float64,
}


@native
def test_arguments_of_other_kinds_have_other_signatures():
    signatures = {name: launching.signature((X, kind, 0.5)) for name, kind in KINDS.items()}
    assert None not in signatures.values()
    assert len(set(signatures.values())) == len(KINDS)
    assert launching.signature((X, "a", "bc")) != launching.signature((X, "ab", "c"))
    assert launching.signature((X, None)) != launching.signature((None, X)) != launching.signature((X,))


@native
def test_arguments_of_equal_kinds_have_the_same_signature():
    args = X, None, 3, -2.5, True, "down", torch.float16
    others = torch.nn.Parameter(X + 1), None, 3, -2.5, True, "".join(["do", "wn"]), torch.half
    assert launching.signature(args) == launching.signature(others)


class Kind(torch.Tensor):
    pass


@native
@pytest.mark.parametrize(
    "other",
    [[], (), 2**70, "x" * 5000, "\ud800", X.as_subclass(Kind), X.to_sparse(), X.to("meta"), object(), X.numpy()],
    ids=lambda other: type(other).__name__,
)
def test_what_is_no_plain_tensor_or_scalar_has_none(other):
    assert launching.signature((X, other)) is None


@native
def test_tensors_of_transforms_that_are_over_have_none():
    leaked = []
    torch.func.vmap(lambda x: (leaked.append(x), x)[1])(X)
    torch.func.grad(lambda x: (leaked.append(x), x.sum())[1])(X)
    assert [launching.signature((x,)) for x in leaked] == [None, None]


def test_a_call_on_a_device_names_it_and_its_stream(monkeypatch):
    monkeypatch.setattr(launching, "_raw_stream", lambda index: 1000 + index)
    monkeypatch.setattr(torch.Tensor, "get_device", lambda x: 3)
    x, seen = torch.ones(3), []
    device = torch.device("cuda", 3)
    launching.launch_cuda(lambda *args: seen.extend(args), device, x, None, 2, 0.5, True, torch.nn.Parameter(x))
    assert seen == [3, 1003, x.data_ptr(), 0, 2, 0.5, True, x.data_ptr()]


def test_a_call_on_a_device_refuses_what_is_elsewhere(monkeypatch):
    monkeypatch.setattr(launching, "_raw_stream", lambda index: 0)
    with pytest.raises(ValueError, match=r"all of a call on cuda:3.*on cpu"):
        launching.launch_cuda(lambda *args: None, torch.device("cuda", 3), torch.ones(2))


def test_addresses_are_taken_nowhere_else():
    package = Path(pggan_fast.__file__).parent
    sources = [p for p in package.rglob("*.py") if p != package / "backends" / "launch.py"]
    assert len(sources) > 10
    pattern = re.compile(r"\bdata_ptr\b")
    assert [str(p) for p in sources if pattern.search(p.read_text())] == []
    assert pattern.search((package / "backends" / "launch.py").read_text()), "the pattern finds what it looks for"
