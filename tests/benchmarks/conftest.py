"""Tiny networks, one test-sized unit per case, and rows made by hand."""

import pytest
import torch
from pggan_fast.benchmarks import timing
from pggan_fast.benchmarks.cases import Case
from pggan_fast.benchmarks.providers import EAGER, provider
from pggan_fast.benchmarks.schema import Report, Row
from pggan_fast.benchmarks.subjects import Widths
from pggan_fast.benchmarks.suite import Plan

CPU = torch.device("cpu")
TINY = Widths(fmap_base=32, fmap_max=8, latent=16)


@pytest.fixture
def plan(monkeypatch):
    """A plan of tiny networks at 8x8, three rounds of one call, for the case names given."""
    monkeypatch.setattr(timing, "WARM_UP_S", 0.0)

    def make(*names, providers=None, resolution=8, batch=4, **options):
        unit = tuple(Case(name, resolution, batch, torch.float32, CPU) for name in names)
        chosen = providers or [EAGER, provider("auto")]
        settings = {"widths": TINY, "repeats": 3, "noise": False, **options}
        return Plan(units=[unit], providers=chosen, **settings)

    return make


@pytest.fixture
def report():
    """Every kind of row: timed, refused by torch, wrong, and a name as long as names get."""
    rows = []
    for case, resolution, base in (
        ("D.step", 32, 5.8),
        ("G.step", 32, 1.4),
        ("step", 32, 7.2),
        ("G.forward", 32, 0.27),
        ("D.forward", 128, 0.9),
    ):
        for name, factor in (("auto", 2.41), ("eager", 1.0), ("eager_channels_last", 1.13), ("compile", 1.6)):
            row = Row(case, name, resolution, 4, "float32", "cpu", fp32_precision="ieee", threads=2)
            rows.append(row)
            if name == "compile":
                row.mode = "default"
            if name == "compile" and "step" in case:
                row.reason = "torch.compile with aot_autograd does not currently support double backward"
                continue
            time = base / factor
            row.median_s, row.p20_s, row.p80_s = time, 0.95 * time, 1.2 * time
            row.samples = [time, 0.95 * time, 1.2 * time]
            row.images_per_s, row.peak_bytes, row.error = 4 / time, 3 << 28, 2.5e-6
            row.ratio, row.ratio_p20, row.ratio_p80 = factor, 0.9 * factor, 1.1 * factor
    rows[-1] = Row("D.forward", "compile", 128, 4, "float32", "cpu", reason="wrong: score is off", failed=True)
    machine = {"device": "A CPU with a rather long name @ 2.00 GHz", "threads": 2, "fp32_precision": "ieee"}
    return Report(machine, {"torch": "2.13.0+cpu"}, "0123abc", rows, preset="quick", seed=0, elapsed_s=161.0)
