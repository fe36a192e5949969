"""launch(): tensors become addresses, and nothing else in the package takes one."""

import gc
import re
import weakref
from pathlib import Path

import pytest
import torch

import pggan_fast
from pggan_fast.backends import launch as launching
from pggan_fast.backends.launch import launch


def test_arguments_become_addresses_and_scalars():
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


def test_tensors_elsewhere_are_refused():
    with pytest.raises(ValueError, match=r"all of a call on cpu.*shape \(2,\) on meta; move it with \.to\('cpu'\)"):
        launch(lambda *args: None, torch.ones(2), torch.ones(2, device="meta"))


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
