"""The table of host overheads: every layer in every mode, agreeing results, and none timed that are wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pggan_fast.benchmarks import overhead
from pggan_fast.benchmarks.schema import loads
from torch import Tensor

CPU = torch.device("cpu")
QUICK = ["--rounds", "1", "--calls", "1"]


def test_every_layer_in_every_mode_agrees_and_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, threads = tmp_path / "overhead.json", torch.get_num_threads()
    assert overhead.main([*QUICK, "--json", str(file)]) == 0
    assert torch.get_num_threads() == threads
    shown = capsys.readouterr().out
    rows = loads(file.read_text()).results
    names = [layer.name for layer in overhead.layers(CPU)]
    cases = [f"{name}: {mode}" for name in names for mode in overhead.MODES]
    cases += ["G to 16x16: no grad", "G to 16x16: forward", "D to 16x16: step"]
    expected = ["eager", "ours"] if not torch.cuda.is_available() else ["eager", "ours", "eager graph", "ours graph"]
    assert list(dict.fromkeys(row.case for row in rows)) == cases
    for case in cases:
        providers = [row.provider for row in rows if row.case == case]
        assert providers == (expected[:2] if case.endswith("penalty") else expected)
    assert all(len(row.samples) == 1 and row.median_s and not row.failed for row in rows)
    assert all((row.ratio is None) == (row.provider != "ours") for row in rows)
    assert all(name in shown for name in [*names, *overhead.MODES])
    assert "wrong" not in shown


def test_the_modes_compute_what_they_say() -> None:
    """On y = w x^2: an output, its gradients, and those of dy/dx . direction."""
    x, w = (torch.tensor([[value]], requires_grad=True) for value in (3.0, 5.0))
    run = functools.partial(overhead.in_mode, f=lambda x, w: w * x * x, tensors=[x, w])
    (y,), (recorded,) = run("no grad")(), run("forward")()
    assert isinstance(y, Tensor)
    assert isinstance(recorded, Tensor)
    assert (y.item(), y.requires_grad, recorded.requires_grad) == (45.0, False, True)
    dy, direction = (torch.randn(1, 1, generator=torch.Generator().manual_seed(seed)).item() for seed in (1, 2))
    first = [g.item() for g in run("forward+backward")() if g is not None]
    assert first == pytest.approx([30.0 * dy, 9.0 * dy])
    second = [g.item() for g in run("penalty")() if g is not None]
    assert second == pytest.approx([30.0 * direction, 10.0 * dy * direction, 6.0 * dy * direction])
    assert x.grad is None
    assert w.grad is None


@pytest.mark.parametrize("mode", overhead.MODES)
def test_a_wrong_layer_is_told_and_not_timed(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = overhead.layers

    def faulty(device: torch.device) -> list[overhead.Layer]:
        layer = real(device)[0]
        wrong: Callable[..., Tensor] = functools.partial(layer.ours, negative_slope=0.21)
        return [overhead.Layer(layer.name, wrong, layer.eager, layer.tensors)]

    monkeypatch.setattr(overhead, "layers", faulty)
    monkeypatch.setattr(overhead, "MODES", (mode,))
    assert overhead.main([*QUICK, "--only", "G layer"]) == 1
    shown = capsys.readouterr().out
    assert f"G layer: {mode}, ours: wrong, differs from eager by" in shown


def test_disagreement() -> None:
    one, zero = torch.ones(2), torch.zeros(2)
    assert overhead.disagreement([one * 1.25, zero], [one, None]) == 0.25
    assert overhead.disagreement([None, None], [None, zero]) == 0.0
    assert overhead.disagreement([None], [one]) == float("inf")
    assert overhead.disagreement([one], [None]) == float("inf")
    assert not overhead.disagreement([one, one * float("nan"), one], [one] * 3) <= overhead.AGREEMENT
    with pytest.raises(ValueError, match="zip"):
        overhead.disagreement([one], [one, one])


def test_names_select_rows_and_layer_calls_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    rows = overhead.subjects(CPU, ["norm", "16x16"], compiled=False)
    assert {row.name for row in rows} == {"pixel_norm", "G to 16x16", "D to 16x16"}
    per = {row.mode: row.layers for row in rows if "16x16" in row.name}
    assert per["forward"] == per["no grad"] == 1 + 1 + 2 * 2 + 1  # dense, conv, two blocks, to_rgb
    assert per["step"] == per["forward"] + 3 * (1 + 2 * 2 + 1 + 1 + 2)  # D three times: to the head
    with pytest.raises(SystemExit):
        overhead.main(["--json", "/no/such/folder/x.json"])
    assert "is no folder" in capsys.readouterr().err


def test_compiled_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a compiler that compiles nothing: a network takes a minute otherwise."""
    monkeypatch.setattr(torch, "compile", lambda f, fullgraph: f)
    assert overhead.main([*QUICK, "--compile", "--only", "G layer", "to_rgb"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "grad" in line or "penalty" in line]
    assert ["/" in line for line in lines] == [True, *[False] * 5]  # both formats, and to_rgb
