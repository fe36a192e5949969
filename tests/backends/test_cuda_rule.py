"""Where the automatic choice on a CUDA device prefers launches from C++ to Triton's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pggan_fast.backends import cuda, cuda_layer, registry

OP = "bias_act_forward"
FEW, MANY = (torch.empty(n, 64, 128, 128, device="meta") for n in (8, 9))  # of 2^20 elements each


def run(*args: Any) -> None:
    raise AssertionError("only asked for")


@pytest.fixture
def rival(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Triton is there, and has a kernel of each op unless there is a reason."""

    def says(reason: str | None) -> None:
        found = registry.Implementation(run, lambda *args: reason, lambda *args: None, None)
        for name, op in (("triton", OP), ("aten+triton", "scaled_conv2d_forward")):
            monkeypatch.setitem(registry._TABLE, (name, op), found)

    monkeypatch.setitem(registry._UNAVAILABLE, "triton", lambda: None)
    monkeypatch.setattr(cuda, "why_missing", lambda: None)
    says(None)
    return says


def test_large_tensors_are_left_to_triton(rival: Callable[[str | None], None]) -> None:
    rule = cuda.cheap_to_launch("triton", OP)
    assert rule(FEW) is None
    assert "Triton's kernels are faster" in rule(MANY)


def test_but_not_what_triton_cannot_do(rival: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch) -> None:
    rule = cuda.cheap_to_launch("triton", OP)
    rival("no pool after a norm")
    assert rule(MANY) is None
    rival(None)
    monkeypatch.setitem(registry._UNAVAILABLE, "triton", lambda: "not installed")
    assert rule(MANY) is None


def test_where_nothing_is_compiled_nobody_misses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "why_missing", lambda: "no nvcc")
    assert cuda.cheap_to_launch("triton", OP)(FEW) == "it is not installed"


@pytest.mark.parametrize(("resample", "width", "few"), [("none", 64, True), ("up", 64, False), ("down", 512, True)])
def test_of_a_layer_what_the_epilogue_reads_counts(
    rival: Callable[[str | None], None], resample: str, width: int, few: bool
) -> None:
    rule = registry._TABLE["aten+cuda", "scaled_conv2d_forward"].rule
    weight: Tensor = torch.empty(width, 64, 3, 3, device="meta")
    args = FEW, weight, None, 1.0, 1.0, resample, 0.2, "none", 0.0, "inside"
    assert cuda_layer._convolved(*args) == FEW.numel() * width // 64 * {"none": 4, "up": 16, "down": 1}[resample] // 4
    assert (rule(*args) is None) == few if width == 64 else rule(*args) is not None
