"""Synthetic power laws, with noise and with bends that are known."""

import dataclasses

import numpy as np
import pytest
from pggan_fast.benchmarks import growth
from pggan_fast.benchmarks.schema import Row

SIZES = [2**i for i in range(2, 11)]


def rows(seconds, case="other", along="resolution", xs=SIZES, batch=1, provider="auto", **fields):
    made = []
    for x, time in zip(xs, seconds, strict=True):
        row = Row(case, provider, 32, batch, "float32", "cpu", median_s=float(time))
        setattr(row, along, x)
        for name, of in fields.items():
            setattr(row, name, of(x))  # fields too that older rows do not have
        made.append(row)
    return made


def only(of):
    (found,) = growth.of(of)
    return found


def noisy(values, relative, seed):
    return np.asarray(values) * np.exp(relative * np.random.default_rng(seed).standard_normal(len(values)))


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_exponent_of_a_power_law_and_no_bend(exponent, seed):
    found = only(rows(noisy(3e-4 * np.array(SIZES, float) ** exponent, 0.03, seed)))
    assert found.exponent == pytest.approx(exponent, abs=0.05)
    assert found.bend is None


@pytest.mark.parametrize("at", [16, 32, 256])
@pytest.mark.parametrize("seed", range(5))
def test_a_bend_is_found_where_it_is(at, seed):
    x = np.array(SIZES, float)
    time = np.where(x <= at, (x / at) ** 0.2, (x / at) ** 1.8)
    found = only(rows(noisy(time, 0.03, seed))).bend
    assert found.at == at
    assert (found.before, found.after) == (pytest.approx(0.2, abs=0.15), pytest.approx(1.8, abs=0.15))


def test_noise_alone_seldom_bends():
    x = np.array(SIZES, float)
    bends = [growth.bend(x, noisy(x, 0.1, seed)) for seed in range(300)]
    assert sum(bend is not None for bend in bends) <= 6


def test_a_gentle_change_and_too_few_points_are_no_bend():
    x = np.array(SIZES, float)
    assert growth.bend(x, np.where(x <= 32, x, 32 * (x / 32) ** 1.2)) is None
    assert growth.bend(x[:4], [1, 1, 1, 100]) is None
    assert growth.bend(x[:5], [1, 1, 1, 10, 100]) is not None


def test_along_the_resolution_it_is_the_time_of_one_image():
    batches = {4: 16, 8: 16, 16: 16, 32: 4, 64: 4, 128: 1}
    of = rows([1e-3 * r**2 * n for r, n in batches.items()], xs=list(batches))
    for row in of:
        row.batch = batches[row.resolution]
    found = only(of)
    assert found.exponent == pytest.approx(2.0)
    assert found.series.fixed == "float32, batch 1 to 16"
    for row in of:  # as a training's samples, of a thousand images each
        row.images_per_s = 1000 / row.median_s
    assert only(of).series.seconds == [row.median_s / 1000 for row in of]


def test_batch_and_threads():
    batches = rows([2.0, 4.0, 8.0], along="batch", xs=[1, 2, 4])
    threads = rows([8.0, 4.0, 2.0], along="threads", xs=[1, 2, 4])
    assert [(f.series.along, round(f.exponent, 6)) for f in growth.of(batches)] == [("batch", 1.0)]
    assert [(f.series.along, round(f.exponent, 6)) for f in growth.of(threads)] == [("threads", -1.0)]
    assert growth.of(threads[:2]) == []
    threads[0].median_s = None
    assert growth.of(threads) == []


def test_a_resolution_with_more_batches_stays_on_the_line():
    ladder = rows([float(r) for r in SIZES])
    for row in ladder:
        row.batch = max(1, 256 // row.resolution)
        row.median_s *= row.batch
    extra = [dataclasses.replace(ladder[4], batch=n, median_s=99.0 * n) for n in (1, 2, 8, 16, 32)]
    along = [found for found in growth.of([*ladder, *extra]) if found.series.along == "resolution"]
    assert [row.batch for row in along[0].series.rows] == [row.batch for row in ladder]
    assert len(along) == 1
    every = [dataclasses.replace(row, batch=n) for row in ladder for n in (1, 2)]
    assert len([f for f in growth.of(every) if f.series.along == "resolution"]) == 2


def test_what_is_expected_comes_from_the_rows_then_from_the_networks():
    x = np.array(SIZES, float)
    assert only(rows(x, floor_s=lambda r: 2.0 * r**3, flops=lambda r: r)).work == (pytest.approx(3.0),)
    assert only(rows(x, flops=lambda r: r**1.5)).work == (pytest.approx(1.5),)
    assert only(rows(x)).work == ()
    assert only(rows(x**2, case="to_rgb.forward", xs=SIZES)).work[0] == pytest.approx(1.3, abs=0.1)
    network = growth.products("G.forward", 64) - growth.products("G.forward", 32)
    assert network == pytest.approx(9 * 64**2 * (512 * 256 + 256 * 256) + 3 * (256 * 64**2 - 512 * 32**2))
    assert growth.products("conv.double", 1024) == 9 * 16 * 16 * 1024**2
    assert growth.products("pro-gan-pth.step", 32) == growth.products("step", 32)
    assert growth.products("3x3 none 512->3: forward", 32) is None


def test_why_it_bends_is_what_the_rows_tell():
    x = np.array(SIZES, float)
    time = np.where(x <= 64, 1e-4, 1e-4 * (x / 64) ** 2)
    told = only(
        rows(time, floor_s=lambda r: max(1.0, (r / 64) ** 2), bound=lambda r: "launch" if r <= 64 else "memory")
    )
    text = growth.sentence(told)
    assert "bends at resolution 64, its exponent from 0.00 to 2.00" in text
    assert "the machine's bound is launch below and memory above" in text
    assert "the work bends the same way, from 0.00 to 2.00" in text
    assert "below, time grows as the work; above, as the work" in text
    other = growth.sentence(only(rows(time, flops=lambda r: r**2)))
    assert "the work does not bend this way" in other
    assert "below, time grows slower (costs weigh that do not grow with the work); above, as the work" in other
    assert "the rows do not tell why" in growth.sentence(only(rows(time)))
    assert growth.sentence(only(rows(x))) == ""
