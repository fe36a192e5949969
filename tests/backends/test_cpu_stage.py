"""The generator's block in one pass of the backend "cpu" against its parts in float64, and when it is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DTYPES, FORMATS, random_tensor, relative_errors
from torch import Tensor

from pggan_fast import nn, ops, reference
from pggan_fast.backends import cpu, cpu_stage, selfcheck
from pggan_fast.models import Generator
from pggan_fast.ops import Scaled

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")

# (N, Cin, C, H, W) of x: less rows than the window, one row, several pieces, samples that share a piece
SHAPES = [(1, 8, 9, 1, 2), (2, 5, 12, 2, 3), (3, 17, 16, 5, 4), (1, 16, 32, 70, 6), (5, 24, 8, 9, 7), (1, 8, 8, 3, 100)]
SHOWS = ("features", "image", "blend")
EPILOGUE = 0.2, "after_act", 0.1, "inside"


def scaled(*shape: int, dtype: torch.dtype) -> Scaled:
    return Scaled(random_tensor(*shape, dtype=dtype), random_tensor(shape[0], dtype=dtype), 0.3, 0.5)


def arguments(shape: tuple[int, ...], shows: str, dtype: torch.dtype, memory_format: torch.memory_format) -> list[Any]:
    n, cin, c, h, w = shape
    x = random_tensor(n, cin, h, w, dtype=dtype, memory_format=memory_format)
    layers = [scaled(c, cin, 3, 3, dtype=dtype), scaled(c, c, 3, 3, dtype=dtype)]
    layers.append(None if shows == "features" else scaled(3, c, 1, 1, dtype=dtype))
    layers.append(scaled(3, cin, 1, 1, dtype=dtype) if shows == "blend" else None)
    return [x, *layers, torch.tensor(0.3) if shows == "blend" else None]


def exact(x: Tensor, *layers: Any) -> Tensor:
    *layers, alpha = layers
    double = [None if s is None else Scaled(s.weight.double(), s.bias.double(), *s[2:]) for s in layers]
    names = dict(zip(("negative_slope", "pixel_norm", "eps", "eps_mode"), EPILOGUE, strict=True))
    return reference.generator_stage(x.double(), *double, 1.0 if alpha is None else alpha, **names)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shows", SHOWS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(
    shape: tuple[int, ...], shows: str, dtype: torch.dtype, memory_format: torch.memory_format, poison: None
) -> None:
    """Features between the layers are not rounded to half: one rounding of the results is left."""
    given = arguments(shape, shows, dtype, memory_format)
    got, right = cpu_stage.generator_stage(*given, *EPILOGUE), exact(*given)
    assert got.is_contiguous(memory_format=memory_format)
    roundings = {torch.float64: 64.0, torch.float32: 6.0}.get(dtype, 1.0)
    assert relative_errors([got], [right])[0] <= roundings * torch.finfo(dtype).eps


@pytest.mark.parametrize("isa", cpu.native.isas() if cpu.native else [])
def test_every_instruction_set(isa: str, poison: None) -> None:
    before = cpu.native.isa()
    given = arguments((2, 24, 40, 9, 10), "blend", torch.float32, FORMATS[1])
    try:
        cpu.set_isa(isa)
        assert relative_errors([cpu_stage.generator_stage(*given, *EPILOGUE)], [exact(*given)])[0] < 1e-6
    finally:
        cpu.set_isa(before)


def test_a_row_of_the_window_that_is_not_there_is_seen() -> None:
    """Each row of features is read three times, the last time after four newer ones: a result without it differs."""
    given = arguments((1, 8, 8, 6, 4), "features", torch.float64, FORMATS[1])
    right = exact(*given)
    given[0][:, :, 2] = 0.0
    assert relative_errors([cpu_stage.generator_stage(*given, *EPILOGUE)], [right])[0] > 1e-3


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that run from here on."""
    launched: list[str] = []
    monkeypatch.setattr(selfcheck, "failure", lambda *args: None)  # whose own launches are no user's

    def launch(function: Any, *args: Any) -> Any:
        launched.append(function.__name__)
        return real(function, *args)

    real = cpu_stage.launch
    monkeypatch.setattr(cpu_stage, "launch", launch)
    return launched


def test_a_generator_runs_it_by_itself_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    G = Generator(16, latent_dim=8, fmap_base=128, fmap_max=16)
    launched, z = calls(monkeypatch), torch.randn(2, 8)
    with_gradients = G(z, alpha=0.4).detach()
    assert not launched
    with torch.no_grad():
        image = G(z, alpha=0.4)
    assert launched == ["tiled_stage"] * 2
    torch.testing.assert_close(image, with_gradients, rtol=1e-5, atol=1e-5)


def test_what_is_left_to_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = calls(monkeypatch)
    with torch.no_grad():
        for cin, c in ((16, cpu_stage.MOST_CHANNELS + 1), (16, 7), (7, 16)):
            given = arguments((1, cin, c, 4, 4), "image", torch.float32, FORMATS[1])
            ops.generator_stage(*given[:-1])
        x = torch.randn(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
        layers = [scaled(16, 16, 3, 3, dtype=torch.float32) for _ in range(2)]
        ops.generator_stage(x, *layers, backend="aten")
        assert not launched
        ops.generator_stage(x, *layers)
    ops.generator_stage(x, *layers)
    assert launched == ["tiled_stage"] * 2
    conv = nn.ScaledConv2d(16, 16)
    ops.generator_stage(x, conv.scaled, conv.scaled)
    assert len(launched) == 2
