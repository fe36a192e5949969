"""The counts behind the roofline: products that the forms really make, and the bytes of the kernels' tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pggan_fast.benchmarks import ceilings, roofline, schema
from pggan_fast.benchmarks.ceilings import Ceilings
from pggan_fast.benchmarks.work import work
from torch import Tensor

from pggan_fast import nn, ops
from pggan_fast.backends import cpu

pytestmark = pytest.mark.skipif(cpu.native is None, reason=f"no native kernels: {cpu.why_missing()}")


def image(channels: int, size: int) -> Tensor:
    return torch.randn(2, channels, size, size).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("resample", "out", "products"), [("none", 32, 4), ("up", 64, 9), ("down", 16, 9 / 4)])
def test_a_layer(resample: str, out: int, products: float) -> None:
    layer, x = nn.ScaledConv2d(16, 24, resample=resample, negative_slope=0.2), image(16, 32)
    with torch.no_grad():
        layer(x)  # with the self-check
        with roofline.watched() as counted:
            layer(x)
    assert counted.flops == 2 * products * x.numel() * 24
    assert counted.bytes == 4 * (x.numel() + 2 * 24 * out * out + 9 * 16 * 24 + 24)


def test_a_stage() -> None:
    """Two convolutions in one kernel, whose image alone is written."""
    up, conv, rgb = nn.ScaledConv2d(16, 8, resample="up"), nn.ScaledConv2d(8, 8), nn.ToRGB(8)
    x = image(16, 16)
    with torch.no_grad():
        ops.generator_stage(x, up.scaled, conv.scaled, rgb.scaled)  # with the self-check
        with roofline.watched() as counted:
            ops.generator_stage(x, up.scaled, conv.scaled, rgb.scaled)
    stage = 9 * x.numel() * 8 + 4 * (2 * 8 * 32 * 32) * 8
    assert counted.flops == 2 * stage
    read = x.numel() + sum(p.numel() for layer in (up, conv, rgb) for p in layer.parameters())
    assert counted.bytes == 4 * (read + 2 * 3 * 32 * 32)


def test_torchs_own_products_without_ours() -> None:
    layer, x = nn.ScaledConv2d(16, 24), image(16, 32)
    with torch.no_grad():
        assert roofline.torchs_flops(lambda: (layer(x), torch.mm(torch.ones(3, 5), torch.ones(5, 7)))) == 2 * 3 * 5 * 7


def test_kernels_are_restored() -> None:
    before = [module.launch for module in (roofline.cpu, roofline.cpu_stage, roofline.tiled)]
    with pytest.raises(ZeroDivisionError), roofline.watched():
        raise ZeroDivisionError
    assert before == [module.launch for module in (roofline.cpu, roofline.cpu_stage, roofline.tiled)]


@pytest.mark.parametrize("name", ["up", "conv", "down"])
def test_the_structure_says_what_the_kernels_multiply(name: str) -> None:
    """At 64x64, where channels change; the counts of work.py without a look at what runs."""
    layer = {
        "up": lambda: nn.ScaledConv2d(512, 256, resample="up", negative_slope=0.2, pixel_norm="after_act"),
        "conv": lambda: nn.ScaledConv2d(256, 256, negative_slope=0.2, pixel_norm="after_act"),
        "down": lambda: nn.ScaledConv2d(256, 512, resample="down", negative_slope=0.2),
    }[name]()
    size = 32 if name == "up" else 64
    x = torch.randn(1, layer.weight.shape[1], size, size).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    layer(x).sum().backward()  # with the self-checks
    with roofline.watched() as forward, torch.no_grad():
        layer(x)
    with roofline.watched() as both:
        layer(x).sum().backward()
    assert forward.flops == work(f"{name}.forward", 64, 1, form="tiles").flops
    assert both.flops == work(f"{name}.backward", 64, 1, form="tiles").flops


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One small case, a step, at ceilings that make its floor two seconds of products."""
    of_step = work("step", 4, 4, form="tiles").flops
    made_up = Ceilings(of_step / 2, 1e20, 1e-20)
    monkeypatch.setattr(roofline, "measure", lambda device: made_up)
    monkeypatch.setattr(roofline, "cases", lambda: iter([roofline.step(4, 4)]))
    path = tmp_path / "roofline.json"
    assert roofline.main(["--rounds", "3", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["results"]
    assert (row["case"], row["resolution"], row["batch"], len(row["samples"])) == ("step", 4, 4, 3)
    assert row["flops"] == of_step
    assert row["floor_s"] == pytest.approx(2.0)
    assert row["bound"] == "products"
    assert row["min_bytes"] == work("step", 4, 4).bytes
    assert row["counted_bytes"] > 0
    report = schema.loads(path.read_text())
    assert Ceilings.from_dict(report.machine["ceilings"]) == made_up
    assert report.results[0].median_s == row["median_s"]
    line = next(line for line in capsys.readouterr().out.splitlines() if "step 4x4 x4" in line)
    assert "2.00 s" in line
    assert "products" in line


def test_torchs_products_inside_of_ours() -> None:
    """D at 4x4: so few pixels, one of whose layers has too few channels, are left to torch, all but the head."""
    D, image = roofline.Discriminator(4), torch.randn(4, 3, 4, 4)
    torchs = roofline.torchs_flops(lambda: D(image))
    with roofline.watched() as native, torch.no_grad():
        D(image)
    assert native.flops == 2.0 * 4 * 512
    assert torchs + native.flops == work("D.forward", 4, 4).flops


def test_a_measured_forward() -> None:
    """G at 8x8, batch 16, whose 3x3 convolutions are ours, all but the first, of few pixels."""
    G, z = roofline.Generator(8), torch.randn(16, 512)
    case = roofline.Watched("G.forward", 8, 16, G, torch.no_grad()(lambda: G(z)))
    row = roofline.measured(case, 3, Ceilings(1e12, 1e12, 1e-9))
    ours, plain = ({p.name: p.flops for p in work("G.forward", 8, 16, form=f).parts} for f in ("tiles", "plain"))
    assert row.counted_flops == sum(ours.values()) + plain["4x4.conv forward"] - ours["4x4.conv forward"]
    assert row.flops == sum(ours.values())
    assert (row.threads, len(row.samples)) == (torch.get_num_threads(), 3)
    assert roofline.transforms(case, 3, 1e9) == "100 %"


def test_ceilings_are_measured_in_one_place() -> None:
    assert roofline.measure is ceilings.measure
