"""Ceilings have the sizes of a machine; the floor under made-up ones is what a hand computes."""

from __future__ import annotations

import pytest
import torch
from pggan_fast.benchmarks import ceilings
from pggan_fast.benchmarks.ceilings import Ceilings, attach, floor, form_of, least_form
from pggan_fast.benchmarks.schema import Row
from pggan_fast.benchmarks.work import Part, Work, work

from pggan_fast.backends import precision

CPU = torch.device("cpu")
MADE_UP = Ceilings(flops=1000.0, bytes=10.0, launch_s=0.5)


def test_the_machines_own() -> None:
    """Above what a calculator does and below any machine; bytes and launches are those of the calls."""
    found = ceilings.measure(CPU)
    assert 1e8 < found.flops < 1e16
    assert 1e8 < found.bytes < 1e14
    assert 1e-8 < found.launch_s < 1e-2


def test_rates_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every call takes a quarter of a second: sizes stop growing, and each rate is its size's."""
    monkeypatch.setattr(ceilings, "fastest", lambda run, device, rounds=7: 0.25)
    assert ceilings.product_ceiling() == 2 * 128**3 / 0.25
    assert ceilings.memory_ceiling() == 8 * (64 << 20) / 0.25
    assert ceilings.launch_ceiling() == 0.25 / 1000
    monkeypatch.setattr(ceilings, "fastest", lambda run, device, rounds=7: 1e-3)
    assert ceilings.product_ceiling() == 2 * 2048**3 / 1e-3


def test_halves_may_be_multiplied_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {torch.float32: 7.0, torch.float16: 2.0, torch.bfloat16: 9.0, torch.float64: 3.0}
    monkeypatch.setattr(ceilings, "product_ceiling", lambda device, dtype: rates[dtype])
    monkeypatch.setattr(ceilings, "memory_ceiling", lambda device: 1.0)
    monkeypatch.setattr(ceilings, "launch_ceiling", lambda device: 1.0)
    found = {dtype: ceilings.measure(CPU, dtype).flops for dtype in rates}
    assert found == {torch.float32: 7.0, torch.float16: 7.0, torch.bfloat16: 9.0, torch.float64: 3.0}


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(ceilings.timing, "timed", lambda run, device: next(times))
    assert ceilings.fastest(lambda: None, CPU, rounds=3) == 1.0


def test_settings_are_left_as_they_were() -> None:
    """TF32 only for float32 on CUDA, only within, and no setting asks for a GPU."""
    before = precision.matmul_fp32()
    for device, dtype, inside in (
        ("cpu", torch.float32, before),
        ("cuda", torch.float16, before),
        ("cuda", torch.float32, precision.conv_fp32()),
    ):
        with ceilings._as_convolutions(torch.device(device), dtype):
            assert precision.matmul_fp32() == inside
        assert precision.matmul_fp32() == before
    assert (before, precision.conv_fp32()) == ("ieee", "tf32")  # torch's defaults differ, or nothing was tested
    assert torch.get_float32_matmul_precision() == "highest"


def test_dict_and_back() -> None:
    data = MADE_UP.to_dict()
    assert data == {"flops": 1000.0, "bytes": 10.0, "launch_s": 0.5}
    assert Ceilings.from_dict({**data, "later": 1}) == MADE_UP


@pytest.mark.parametrize("bad", [{}, {"flops": 1.0, "bytes": 1.0}, {"flops": 1.0, "bytes": 0.0, "launch_s": 1.0}])
def test_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ceilings: expected positive numbers flops, bytes, launch_s"):
        Ceilings.from_dict(bad)


def test_the_floor_is_a_sum_over_parts() -> None:
    """Each of the longest: 4 s of products, 3 s of memory, 1 s of two launches; over sums of all it would be 4.9 s."""
    products, memory, launch = Part("a", 4000.0, 20.0, 1), Part("b", 900.0, 30.0, 1), Part("c", 1.0, 1.0, 2)
    assert floor(Work((products, memory, launch)), MADE_UP) == (8.0, "products")
    assert floor(Work((memory, launch)), MADE_UP) == (4.0, "memory")
    assert floor(Work((launch,)), MADE_UP) == (1.0, "launch")
    assert floor(Work((products, memory, memory)), MADE_UP) == (10.0, "memory")  # what most goes to, not the longest


def test_forms() -> None:
    forms = {name: form_of(name, "cpu") for name in ("eager", "eager_again", "compile", "aten", "cpu", "auto")}
    assert forms == dict.fromkeys(("eager", "eager_again", "compile"), "plain") | {
        "aten": "phases",
        "cpu": "tiles",
        "auto": "tiles",
    }
    assert {form_of(name, "cuda") for name in ("aten", "best_eager", "triton", "cuda", "auto")} == {"phases"}


def test_less_precision_allows_larger_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert least_form("cpu") == "tiles"
    monkeypatch.setattr(precision, "exact_matmul", lambda: False)
    assert (least_form("cpu"), least_form("cuda")) == ("large_tiles", "phases")
    assert (form_of("auto", "cpu"), form_of("eager", "cpu")) == ("large_tiles", "plain")


def test_attach() -> None:
    """The floor is the case's, the products are the provider's; a peer's case has neither."""
    rows = [Row("G.forward", provider, 8, 2, "float32", "cpu") for provider in ("eager", "auto")]
    rows += [
        Row("G.forward", "triton", 8, 2, "float16", "cuda:1"),
        Row("wsconv.step", "eager", 8, 2, "float32", "cpu"),
    ]
    attach(rows, MADE_UP)
    eager, auto, cuda, peer = rows
    case = "G.forward", 8, 2
    assert eager.flops == work(*case).flops
    assert auto.flops == work(*case, form="tiles").flops < eager.flops
    least = floor(work(*case, form="tiles"), MADE_UP)
    assert (eager.floor_s, eager.bound) == (auto.floor_s, auto.bound) == least
    assert eager.min_bytes == auto.min_bytes == work(*case).bytes
    halves = work(*case, torch.float16, form="phases")
    assert (cuda.flops, cuda.min_bytes) == (halves.flops, halves.bytes)
    assert (cuda.floor_s, cuda.bound) == floor(halves, MADE_UP)
    assert (peer.flops, peer.min_bytes, peer.floor_s, peer.bound) == (None, None, None, None)
