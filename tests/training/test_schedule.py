"""The schedule against the official tables, written down here a second time from the paper's description."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pggan_fast.training.presets import PRESETS
from pggan_fast.training.schedule import Schedule, Stage, resets


def walked(schedule: Schedule, kimg: float) -> tuple[float, int, float]:
    """(lod, resolution, alpha) by walking through the phases: train, then fade, level by level."""
    level, left = 0, kimg
    last = int(math.log2(schedule.resolution / schedule.initial))
    while level < last:
        if left <= schedule.training_kimg:
            return float(last - level), schedule.initial << level, 1.0
        left -= schedule.training_kimg
        level += 1
        if left < schedule.transition_kimg:
            alpha = left / schedule.transition_kimg
            return last - level + 1 - alpha, schedule.initial << level, alpha
        left -= schedule.transition_kimg
    return 0.0, schedule.resolution, 1.0


@given(
    levels=st.integers(1, 9),
    skipped=st.integers(0, 3),
    training=st.sampled_from([0.5, 3.0, 600.0, 800.0]),
    transition=st.sampled_from([0.0, 0.5, 3.0, 600.0, 800.0]),
    images=st.integers(0, 20_000_000),
)
def test_level_and_alpha_are_those_of_a_walk(
    levels: int, skipped: int, training: float, transition: float, images: int
) -> None:
    initial = 4 << min(skipped, levels - 1)
    schedule = Schedule(4 << (levels - 1), 20000, training, transition, initial=initial)
    stage = schedule.at(images)
    lod, resolution, alpha = walked(schedule, images / 1000)
    assert stage.lod == pytest.approx(lod, abs=1e-6)
    if min(stage.lod % 1, 1 - stage.lod % 1) > 1e-6 or stage.lod == round(stage.lod) == lod:
        assert stage.resolution == resolution
        assert stage.alpha == pytest.approx(alpha, abs=1e-6)
    assert 0.0 <= stage.alpha <= 1.0


# kimg: (lod, resolution) of a 1024x1024 run with 600 kimg a phase, by the official code's own table
OFFICIAL = {
    0: (8, 4), 599: (8, 4), 600: (8, 4), 750: (7.75, 8), 900: (7.5, 8), 1199: (7 + 1 / 600, 8), 1200: (7, 8),
    1800: (7, 8), 2100: (6.5, 16), 2400: (6, 16), 4800: (4, 64), 6900: (2.5, 256), 9300: (0.5, 1024), 9600: (0, 1024),
    12000: (0, 1024),
}  # fmt: skip

# What each preset trains with at 4, 8, ..., 1024: (minibatch, learning rate)
TABLES: dict[str, tuple[list[int], list[float]]] = {
    "v2-1gpu": ([128, 128, 128, 64, 32, 16, 8, 4, 4], [1e-3] * 8 + [1.5e-3]),
    "v2-2gpus": ([256, 256, 128, 64, 32, 16, 8, 8, 8], [1e-3] * 7 + [1.5e-3, 2e-3]),
    "v2-4gpus": ([512, 256, 128, 64, 32, 16, 16, 16, 16], [1e-3] * 6 + [1.5e-3, 2e-3, 3e-3]),
    "v2-8gpus": ([512, 256, 128, 64, 32, 32, 32, 32, 32], [1e-3] * 5 + [1.5e-3, 2e-3, 3e-3, 3e-3]),
    "v1-1gpu": ([16, 16, 16, 16, 16, 16, 14, 6, 3], [1e-3] * 9),
}
GPUS = {"v2-2gpus": 2, "v2-4gpus": 4, "v2-8gpus": 8}


def test_the_official_levels_of_detail() -> None:
    for kimg, (lod, resolution) in OFFICIAL.items():
        stage = Schedule(1024, 12000).at(kimg * 1000)
        assert stage.lod == pytest.approx(lod)
        assert stage.resolution == resolution


@pytest.mark.parametrize("preset", TABLES)
def test_minibatch_and_learning_rate_of_the_official_presets(preset: str) -> None:
    schedule = PRESETS[preset].schedule(1024)
    minibatches, rates = TABLES[preset]
    phase = int(schedule.training_kimg + schedule.transition_kimg)
    assert schedule.total_kimg == (19000 if preset == "v1-1gpu" else 12000)
    for level, (minibatch, lr) in enumerate(zip(minibatches, rates, strict=True)):
        for kimg in {level * phase, max(0, level * phase - 1)}:  # trained, and still fading in
            stage = schedule.at(1000 * kimg, GPUS.get(preset, 1))
            assert (stage.resolution, stage.minibatch, stage.lr) == (4 << level, minibatch, lr)


def test_ticks_are_the_official_ones() -> None:
    assert [Schedule(1024, 12000).at(1_200_000 * k).tick_kimg for k in range(9)] == [
        160, 140, 120, 100, 80, 60, 40, 20, 10,
    ]  # fmt: skip


def test_the_benchmark_goes_through_every_phase() -> None:
    schedule = PRESETS["BENCHMARK"].schedule(1024)
    assert (schedule.total_kimg, schedule.training_kimg, schedule.transition_kimg) == (51, 3, 3)
    assert schedule.at(48_000) == Stage(0.0, 1024, 1.0, 4, 0.001, 3)


# Seconds for a thousand images at 4, 8, ..., measured beside the demo's 14 at 32x32 on two cores
OVERNIGHT = {4: 0.7, 8: 4, 16: 15, 32: 46, 64: 101}


@pytest.mark.parametrize("resolution", [32, 64])
def test_a_night_has_about_eight_hours(resolution: int) -> None:
    schedule = PRESETS["overnight"].schedule(resolution)
    stages = [schedule.at(1000 * kimg) for kimg in range(int(schedule.total_kimg))]
    hours = sum(OVERNIGHT[stage.resolution] for stage in stages) / 3600
    assert 7.5 < hours < 8.5
    assert sum(stage.lod == 0 for stage in stages) > len(stages) / 2
    assert {stage.minibatch for stage in stages if stage.resolution > 8} == {16}


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_ends_at_its_last_level(preset: str) -> None:
    chosen = PRESETS[preset]
    most = 128 if preset.startswith("table1") else 1024
    for resolution in [4 << k for k in range(9) if 4 << k <= most]:
        schedule = chosen.schedule(resolution)
        assert schedule.resolution == resolution
        last = schedule.at(round(1000 * schedule.total_kimg))
        assert (last.lod, last.resolution, last.alpha) == (0, resolution, 1)
        before = (len(schedule.levels) - 1) * (schedule.training_kimg + schedule.transition_kimg)
        assert schedule.total_kimg > before
        assert chosen.about
        sizes = [schedule.at(round(1000 * kimg)).resolution for kimg in range(0, int(schedule.total_kimg), 2)]
        assert sorted(set(sizes)) == schedule.levels
        assert sizes == sorted(sizes)


def test_optimisers_forget_twice_a_resolution() -> None:
    schedule = Schedule(16, 100, 10, 10)
    lods = [schedule.at(1000 * kimg).lod for kimg in range(100)]
    changes = [kimg for kimg in range(1, 100) if resets(lods[kimg - 1], lods[kimg])]
    assert changes == [11, 20, 31, 40]  # a fade has begun, and ended
    assert resets(None, 2.0)


def test_a_minibatch_is_shared_evenly() -> None:
    schedule = Schedule(8, 10, minibatch_base=10, minibatch_gpu={4: 2})
    assert schedule.at(0, 4).minibatch == 8
    assert schedule.at(0, 3).minibatch == 6  # at most 2 each
    with pytest.raises(ValueError, match="minibatch: expected at least 11"):
        schedule.at(0, 11)


def test_the_learning_rate_may_rise_after_each_change() -> None:
    schedule = Schedule(8, 100, 10, 10, lr_base=0.1, lr_rampup_kimg=4)
    assert [round(schedule.at(1000 * kimg).lr, 6) for kimg in (0, 1, 4, 10, 11, 14, 20, 22)] == [
        0.0, 0.025, 0.1, 0.1, 0.025, 0.1, 0.0, 0.05,
    ]  # fmt: skip


def test_the_last_change_is_the_last_time_that_it_rises() -> None:
    schedule = Schedule(8, 10, training_kimg=1, transition_kimg=1, lr_rampup_kimg=0.5, lr_base=0.25)
    assert [schedule.at(images).lr for images in (2000, 2250, 2500, 3001, 3250, 5001)] == [0, 0.125, *[0.25] * 4]


def test_what_nobody_gave() -> None:
    plain = Schedule(4, 1)
    assert (plain.tick_kimg_base, plain.minibatch_base, plain.lr_base, plain.training_kimg) == (1, 16, 0.001, 600)
    assert plain.at(0) == plain.at(0, 1)
    assert Schedule(4, 1, training_kimg=0, transition_kimg=0).at(500).lod == 0  # nothing fades in
    assert Schedule(4, 1, minibatch={4: 1}, minibatch_gpu={4: 1}).at(0).minibatch == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"resolution": 24}, "resolution: expected a power of two >= 4, got 24"),
        ({"initial": 32}, "initial: expected at most the resolution 16, got 32"),
        ({"total_kimg": -1}, "total_kimg: expected a number >= 0, got -1"),
        ({"training_kimg": 0, "transition_kimg": 0}, "expected a sum above 0"),
        ({"minibatch": {8: 0}}, r"minibatch\[8\]"),
        ({"lr": {8: math.nan}}, "lr: expected numbers > 0"),
        ({"tick_kimg": {8: math.inf}}, "tick_kimg: expected numbers > 0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        Schedule(**{"resolution": 16, "total_kimg": 10, **arguments})  # type: ignore[arg-type]


def test_json_and_back() -> None:
    schedule = PRESETS["v2-8gpus"].schedule(256)
    assert (
        Schedule.from_json({**schedule.as_json(), "lr": {"128": 0.0015, "256": 0.002, "512": 0.003, "1024": 0.003}})
        == schedule
    )
