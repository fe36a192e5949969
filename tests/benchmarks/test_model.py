"""The model's arithmetic by hand at made-up rates, and its list of plain PyTorch's kernels against what torch runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pggan_fast.benchmarks import model
from pggan_fast.benchmarks.ceilings import Ceilings
from pggan_fast.benchmarks.model import CHIPS, Chip, chip_of, predict, render, unfused
from pggan_fast.benchmarks.schema import Report, Row
from pggan_fast.benchmarks.work import Layer, chain_of
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pggan_fast.models import Discriminator, Generator

CPU, FLOAT = torch.device("cpu"), torch.float32


def made_up(flops: float = 1e30, rate: float = 1e30, launch_s: float = 1e-30, **options: Any) -> Chip:
    """Of two peaks whose halves and quarters are the rates."""
    return Chip(
        "made up", "a chip", {FLOAT: 2 * flops, torch.float16: 4 * flops}, 4 * rate, launch_s, 0.5, 0.25, **options
    )


def of(layer: str, chip: Chip, name: str = "G", resolution: int = 8, dtype: torch.dtype = FLOAT) -> model.Prediction:
    return next(p for p in predict(chip, name, resolution, 2, dtype) if p.layer == layer)


def test_products_by_hand() -> None:
    """`conv_up` at 8x8 of two images: 9 taps of 512 x 512 at 64 pixels, or 4 as phases; the rate is half the peak."""
    found = of("8x8.conv_up", made_up(flops=1e9))
    products = 2 * 2 * 64 * 512 * 512
    assert found.plain_s == pytest.approx(9 * products / 1e9)
    assert found.ours_s == pytest.approx(4 * products / 1e9)
    assert found.bound == "products"
    assert found.ratio == pytest.approx(9 / 4)
    assert of("8x8.conv_up", made_up(flops=1e9, form="tiles")).ours_s == pytest.approx(9 / 4 * products / 1e9)
    assert of("8x8.conv_up", made_up(flops=1e9), dtype=torch.float16).ours_s == pytest.approx(4 * products / 2e9)


def test_bytes_by_hand() -> None:
    """`to_rgb` at 8x8: ours reads x and its parameters and writes y; torch scales the weight and the bias before."""
    x, y, w, b = 2 * 512 * 64, 2 * 3 * 64, 3 * 512, 3
    found = of("8x8.to_rgb", made_up(rate=1000.0))
    assert found.ours_s == pytest.approx(4 * (x + y + w + b) / 1000)
    assert found.plain_s == pytest.approx(4 * (2 * w + 2 * b + x + w + y + 2 * y) / 1000)
    assert found.bound == "memory"
    found = of("8x8.to_rgb", made_up(rate=1000.0, bias_apart=False))
    assert found.plain_s == pytest.approx(4 * (2 * w + 2 * b + x + w + y) / 1000)


def test_launches_by_hand() -> None:
    """`conv`: weight, bias, convolution, its bias, leaky ReLU, square, mean, epsilon, root, factor."""
    found = of("8x8.conv", made_up(launch_s=1.0))
    assert (found.plain_s, found.ours_s, found.bound) == (10.0, 1.0, "launch")
    down = of("8x8.conv_down", made_up(launch_s=1.0), "D")
    assert (down.plain_s, down.ours_s) == (6.0, 1.0)


class Kernels(TorchDispatchMode):
    """Counts ops that are no views, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        tensors = [t for arg in args for t in (arg if isinstance(arg, list) else [arg]) if isinstance(t, Tensor)]
        if tensors and not function.is_view and out.numel():  # neither empty ones that carry a dtype
            self.launches += 1
            self.bytes += sum(t.numel() * t.element_size() for t in (*tensors, out))
        return out


@pytest.mark.parametrize("dtype", [FLOAT, torch.float16])
@pytest.mark.parametrize("name", ["G", "D"])
def test_plain_pytorch_runs_what_the_model_says(name: str, dtype: torch.dtype) -> None:
    """The networks of plain PyTorch at 64x64, on a CPU's ops, whose convolutions add their bias."""
    with torch.device("meta"):
        network = (Generator if name == "G" else Discriminator)(64, backend="reference").to(dtype)
        x = torch.empty(4, 512, dtype=dtype) if name == "G" else torch.empty(4, 3, 64, 64, dtype=dtype)
    with Kernels() as kernels, torch.no_grad():
        network(x)
    expected = [unfused(layer, 4, dtype, False) for layer in chain_of(name, 64)]
    assert sum(found.launches for found in expected) == kernels.launches
    assert sum(found.bytes for found in expected) == pytest.approx(kernels.bytes, rel=0.01)


def test_networks_in_order() -> None:
    for name in ("G", "D"):
        found = predict(CHIPS["h100"], name, 64, 4, torch.bfloat16)
        assert [p.layer for p in found] == [layer.name for layer in chain_of(name, 64)]
        assert all(p.ratio >= 1 for p in found)


def test_high_levels_hang_on_memory_and_low_ones_on_launches() -> None:
    """As the arithmetic of 16 channels and of 16 pixels has it, on any of the chips."""
    for chip in CHIPS.values():
        found = {p.layer: p.bound for p in predict(chip, "G", 1024, 1, torch.float16)}
        assert found["1024x1024.conv"] == "memory"
        assert found["latent_norm"] == "launch"


def test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measured ceilings as they are, and the forms of a CPU."""
    monkeypatch.setattr(model, "measure", lambda device, dtype: Ceilings(1e9, 2e9, 3e-6))
    chip = chip_of("here", CPU, FLOAT)
    assert chip.ceilings(FLOAT) == Ceilings(1e9, 2e9, 3e-6)
    assert (chip.form, chip.bias_apart) == ("tiles", False)
    assert of("8x8.conv", chip).ours_s == pytest.approx(2 * 4 * 2 * 64 * 512 * 512 / 1e9)
    assert chip_of("here", torch.device("cuda"), FLOAT).form == "phases"


def text(table: Any) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_says_that_it_predicts() -> None:
    drawn = render(CHIPS["h100"], "G", 8, 4, torch.bfloat16)
    assert drawn is not None
    assert str(drawn.title).startswith("PREDICTED, not measured: G forward 8x8 x4 bfloat16, NVIDIA H100")
    lines = text(drawn)
    assert "measured plain" not in lines
    assert "assumed 50% of peak products, 85% of bandwidth" in lines
    assert drawn.row_count == len(chain_of("G", 8)) + 1
    (last,) = (line for line in lines.splitlines() if line.startswith("|all"))
    found = predict(CHIPS["h100"], "G", 8, 4, torch.bfloat16)
    assert f"{sum(p.plain_s for p in found) / sum(p.ours_s for p in found):.2f}" in last


def test_measured_layers_stand_beside() -> None:
    """Only those of the same network, batch and dtype; a row without a time leaves its cell empty."""

    def row(case: str, provider: str, resolution: int, median: float | None, batch: int = 4) -> Row:
        return Row(f"{case}.forward", provider, resolution, batch, "float32", "cpu", median_s=median)

    rows = [
        row("up", "eager", 8, 0.5), row("up", "auto", 8, 0.25), row("up", "auto", 8, 99.0, batch=2),
        row("dense", "eager", 4, 0.125), row("dense", "auto", 4, None), row("down", "eager", 8, 77.0),
        row("conv", "auto", 8, 0.0625),
    ]  # fmt: skip
    run = Report({"device": "A CPU", "threads": 1}, {}, None, rows)
    drawn = render(CHIPS["l4"], "G", 8, 4, FLOAT, run)
    assert drawn is not None
    assert str(drawn.title).endswith("NVIDIA L4; beside it MEASURED on A CPU, 1 thread")
    lines = {line.split("|")[1].strip(): line for line in text(drawn).splitlines() if line.count("|") > 2}
    cells = {name: [cell.strip() for cell in line.split("|")[6:9]] for name, line in lines.items()}
    assert cells["layer"] == ["measured plain", "measured ours", "measured x"]
    assert cells["8x8.conv_up"] == ["500 ms", "250 ms", "2.00"]
    assert cells["4x4.dense"] == ["125 ms", "", ""]
    assert cells["8x8.conv"] == ["", "62.5 ms", ""]
    assert cells["4x4.conv"] == cells["8x8.to_rgb"] == ["", "", ""]
    of_d = text(render(CHIPS["l4"], "D", 8, 4, FLOAT, run))
    assert "77.0 s" in of_d
    assert "62.5 ms" not in of_d  # D's `conv` has no norm: it is another case


def test_rows_of_the_most_threads_stand_beside_and_none_are_told() -> None:
    rows = [Row("up.forward", "auto", 8, 4, "float32", "cpu", 0.001 * n, threads=n) for n in (2, 8, 4)]
    run = Report({"device": "A CPU", "threads": 2}, {}, None, rows)
    told = " ".join(text(render(CHIPS["l4"], "G", 8, 4, FLOAT, run)).split())
    assert "MEASURED on A CPU, 8 threads" in told
    assert "8.00 ms" in told
    assert "4.00 ms" not in told
    told = " ".join(text(render(CHIPS["l4"], "G", 8, 3, FLOAT, run)).split())
    assert "which has no row of batch 3 in float32" in told


def test_only_the_layers_of_the_cases() -> None:
    drawn = render(CHIPS["l4"], "G", 16, 4, FLOAT, cases=["up.forward", "from_rgb.forward"])
    assert drawn is not None
    assert list(drawn.columns[0].cells) == ["8x8.conv_up", "16x16.conv_up", "all of these"]
    assert render(CHIPS["l4"], "D", 16, 4, FLOAT, cases=["up.forward"]) is None
    whole = render(CHIPS["l4"], "D", 16, 4, FLOAT, cases=["D.forward"])
    assert whole is not None
    assert whole.row_count == len(chain_of("D", 16)) + 1


@pytest.mark.parametrize("name", ["tpu", ""])
def test_refuses_a_chip(name: str) -> None:
    with pytest.raises(ValueError, match="model: expected one of h100, h200, a100, l4, b200, rtx4090, here, got"):
        chip_of(name, CPU, FLOAT)


def test_refuses_a_network_and_a_dtype() -> None:
    with pytest.raises(ValueError, match="name: expected G or D, got 'E'"):
        predict(CHIPS["l4"], "E", 8, 4, FLOAT)
    with pytest.raises(ValueError, match=r"dtype: expected one of torch.float32, .* on l4, got torch.float64"):
        predict(CHIPS["l4"], "G", 8, 4, torch.float64)


def test_data_sheets() -> None:
    """Dense tensor rates: halves double TF32's, within the rounding of the sheets."""
    for name, chip in CHIPS.items():
        assert chip.name == name
        assert chip.flops[torch.float16] == chip.flops[torch.bfloat16]
        assert 1.9 < chip.flops[torch.float16] / chip.flops[FLOAT] < 2.1
        assert 50 < chip.flops[torch.float16] / chip.bytes < 500  # FLOP per byte, as every GPU of these years


def test_a_matrix_adds_its_bias_apart() -> None:
    layer = Layer("dense", 8, 4, weights=32, biases=4, products=32)
    assert unfused(layer, 2, FLOAT, False) == unfused(layer, 2, FLOAT, True)
