"""examples/swap: each script, and the same one in three more lines, train alike."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pggan_fast.swap.fused import Forward

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "swap"
NAMES = ("wsconv", "pro_gan_pth")
STEPS = 10


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_three_lines_more(name: str) -> None:
    plain, fused = ((EXAMPLES / f"{n}.py").read_text().splitlines() for n in (name, f"{name}_fused"))
    changes = [line for line in difflib.ndiff(plain, fused) if line[0] in "+-"]
    assert len(changes) == 3
    assert all(line.startswith("+ ") and "pggan_fast" in line for line in changes)


@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_with_the_same_losses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as PyTorch's own other convolutions come: training makes more of every rounding, in any program."""
    arguments = ["--steps", str(STEPS), "--batch", "4", "--width", "16"]
    plain = np.array(script(name).main(arguments))
    with torch.backends.mkldnn.flags(enabled=False):
        other = np.array(script(name).main(arguments))
    ran = set()
    real = Forward.__call__
    monkeypatch.setattr(Forward, "__call__", lambda self, *a, **k: (ran.add(self.pattern), real(self, *a, **k))[1])
    fused = np.array(script(f"{name}_fused").main(arguments))
    assert len(ran) == 2  # a generator and a discriminator
    apart = np.maximum.accumulate(np.abs(other - plain).max(axis=1))
    allowed = 8.0 * apart + 1e-5 * np.abs(plain).max()
    assert (np.abs(fused - plain).max(axis=1) <= allowed).all(), (fused - plain, allowed)
    assert allowed[0] < 1e-3 * np.abs(plain[0]).max()
    assert plain.shape == (STEPS, 2)
