"""What fuse() reports: which module, what was compared, and no warnings of its own probing."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import pytest
import torch
from foreign_layers import Block
from rich.console import Console
from torch import Tensor, nn

from pggan_fast import fuse
from pggan_fast.swap import FuseReport, Row, families
from pggan_fast.swap.read import Unreadable
from pggan_fast.swap.report import merged


class Odd(nn.Module):
    """Numbers that no step has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(self.layer(x))


def shown(report: FuseReport, width: int = 200) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(report)
    return file.getvalue()


def test_rows_name_path_and_class() -> None:
    text = shown(fuse(nn.Sequential(Block(), Odd())))
    assert "Sequential: 1 part fused, 3 left as they are" in text
    for said in ("the model (Sequential)", "0 (Block)", "1 (Odd)", "1.layer (Conv2d)"):
        assert said in text, text
    assert "<" not in text


def test_what_is_not_known_has_no_pattern_and_columns_are_explained() -> None:
    text = shown(fuse(Odd()))
    assert "the model (Odd)" in text
    assert "unknown" in text
    assert "error:" not in text  # nothing was compared
    text = shown(fuse(nn.Sequential(Block(), nn.Tanh()), time=True))
    assert "error: largest relative error of outputs and gradients against the original, in float64" in text
    assert "before, after: median milliseconds" in text
    assert "X(): a module of class X that runs as it is" in text


def test_long_names_are_folded_and_never_cut() -> None:
    name = "a" * 60
    text = shown(FuseReport(nn.ReLU(), [Row(name, "x", False, "raises " + "b" * 60, kind="C" * 40)]), 80)
    assert "…" not in text
    assert min(text.count("a"), text.count("b")) >= 60


def test_repr_begins_with_what_was_done() -> None:
    text = repr(fuse(Block()))
    assert text.startswith("FuseReport('Block: 1 part fused', rows=[Row(name='', ")
    assert "Conv2d(" not in text


def test_all_that_was_tried_with_a_module_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        @staticmethod
        def match(model: nn.Module) -> None:
            if isinstance(model, (Block, Odd)):
                raise Unreadable("a generator of mine? no levels")

    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES)
    families.FAMILIES.insert(0, Wrong)
    try:
        done, left = fuse(Block()), fuse(Odd())
    finally:
        families.FAMILIES.remove(Wrong)
    (row,) = done.rows
    assert (row.replaced, row.reason, row.kind) == (True, "a generator of mine? no levels", "Block")
    assert row.pattern == "up conv3x3 lrelu norm conv3x3 lrelu norm"
    row = left.rows[0]
    assert not row.replaced
    assert row.reason == "a generator of mine? no levels; erf is none of the known steps"
    assert [row.name for row in left.rows] == ["", "layer"]


def test_one_reason_is_said_once() -> None:
    rows = [Row("a", "A", False, "x"), Row("a", "B", False, "x", kind="A"), Row("a", "C", False, "y")]
    assert merged(rows).reason == "x; y"
    assert merged(rows).pattern == "A"


class Warning_(nn.Module):
    """Warns in each call, as user code does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("pay attention", stacklevel=1)
        return nn.functional.leaky_relu(self.layer(x), 0.2)


def test_probing_shows_no_warnings_and_uses_none_up() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = fuse(Warning_())
    assert report.replaced
    model = Odd()
    fuse(model)
    with pytest.warns(UserWarning, match="pay attention"):
        Warning_()(torch.randn(1, 3, 4, 4))


ONCE = """
import warnings, torch
from torch import nn
from pggan_fast import fuse, unfuse

model = nn.Sequential(nn.Conv2d(3, 4, 4, padding="same"), nn.LeakyReLU(0.2))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fuse(model)
print(len(caught), torch.is_warn_always_enabled())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    unfuse(model)(torch.randn(1, 3, 8, 8))
print(sum("padding='same'" in str(w.message) for w in caught))
"""


def test_what_torch_says_once_in_a_process_is_still_to_come() -> None:
    done = subprocess.run([sys.executable, "-c", ONCE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False", "1"], done.stderr


def test_our_own_warnings_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def warning(self: object, name: str, m: nn.Module) -> None:
        warnings.warn("pggan_fast: conv runs on a slower backend", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr("pggan_fast.swap._Fusing.visit", warning)
    with pytest.warns(RuntimeWarning, match="slower backend"):
        fuse(Block())
