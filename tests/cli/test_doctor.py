"""`pggan-fast doctor`: every op and backend against the reference, faults seen, and a remedy for what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pggan_fast import cli, diagnosis, ops
from pggan_fast.backends import cpu, registry, tables
from pggan_fast.cli import doctor

CPU = torch.device("cpu")
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path))
    monkeypatch.setattr(diagnosis, "TIMED", 1)
    tables.forget()
    yield
    tables.forget()


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *args])
    return int(stop.value.code or 0), capsys.readouterr().out


def test_every_public_op_is_examined() -> None:
    names = {case.name.split()[0] for case in diagnosis.CASES}
    assert names == set(ops.__all__) - {"Scaled", "no_weight_grads"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_this_machine_is_well(dtype: torch.dtype) -> None:
    found = list(diagnosis.examine(CPU, dtype))
    assert not [f for f in found if f.wrong]
    ran = {(f.case, f.backend) for f in found if f.share is not None}
    for backend in ("aten", "cpu"):
        if registry.unavailable(backend) is None:
            assert {case for case, name in ran if name == backend} == {case.name for case in diagnosis.CASES}
    assert all(f.seconds is not None for f in found if f.share is not None)


FAULTS: dict[str, tuple[str, str, Callable[[Run], Run]]] = {
    # the internal op, the public one that shows it, the fault
    "forward": ("fade_reals", "fade_reals", lambda right: lambda *a: right(*a) * 1.001),
    "input gradient": ("conv", "scaled_conv2d up", lambda right: lambda *a: right(*a) * 1.001),
    "weight gradient": ("conv_weight_grad", "scaled_conv2d down", lambda right: lambda *a: right(*a) * 1.001),
    "statistics": (
        "minibatch_stddev_backward",
        "minibatch_stddev",
        lambda right: lambda dy, x, *a: right(dy, x, *a) + 1e-3,
    ),
    "bias": (
        "bias_act_backward",
        "bias_act",
        lambda right: lambda *a: (right(*a)[0], None if right(*a)[1] is None else right(*a)[1] * 1.01),
    ),
    "raises": ("fade_in_forward", "fade_in", lambda right: lambda *a: 1 / 0),
    "nan": ("to_rgb_fade_in_forward", "to_rgb_fade_in", lambda right: lambda *a: right(*a) * float("nan")),
}


@pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")
@pytest.mark.parametrize(("op", "case", "fault"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_seen(
    op: str, case: str, fault: Callable[[Run], Run], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for way in ("cpu", "aten+cpu"):
        if (row := registry._TABLE.get((way, op))) is not None:
            monkeypatch.setitem(registry._TABLE, (way, op), row._replace(run=fault(row.run), plan=None))
    status, out = run(capsys, "--dtype", "float32")
    assert status == 1
    assert f"WRONG {case} by cpu, float32: " in out


def test_what_is_missing_comes_with_its_remedy(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._UNAVAILABLE, "cpu", lambda: "the native module is missing; install a compiler")
    monkeypatch.setattr(cpu, "serial_reason", "CPU kernels run on one thread")
    monkeypatch.setattr(cpu, "native", SimpleNamespace(isa=lambda: "baseline"))
    monkeypatch.setenv("PGGAN_FAST_BACKEND", "aten")
    status, out = run(capsys, "--dtype", "float32")
    assert status == 0  # missing is slow, not wrong
    for said in (
        "* backend cpu: the native module is missing; install a compiler",
        "* CPU kernels run on one thread",
        "* nothing has been measured on this device: `pggan-fast tune`",
        "* PGGAN_FAST_BACKEND=aten is set",
    ):
        assert said in out


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_FAST_CACHE", str(tmp_path / "file" / "cache"))
    assert any("cannot be written" in text and "PGGAN_FAST_CACHE" in text for text in doctor._remedies(CPU))


def test_nothing_is_asked_for_where_the_device_is_tuned() -> None:
    before = len(doctor._remedies(CPU))
    tables.add(CPU, "ways", {"a": {"best": "cpu", "seconds": {"cpu": 1.0}}})
    assert len(doctor._remedies(CPU)) == before - 1


def test_json(capsys: Any) -> None:
    status, out = run(capsys, "--json", "--dtype", "float32")
    found = json.loads(out)
    assert status == 0
    assert set(found) == {"device", "findings", "remedies"}
    assert {"dtype", "case", "backend", "share", "seconds", "reason", "wrong"} == set(found["findings"][0])
