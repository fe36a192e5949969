"""The schedules by name: the official code's, the paper's own runs, and those of ours for a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pggan_fast.training.schedule import Schedule

_FP32_GPU = {256: 16, 512: 8, 1024: 4}  # the most images of one GPU of 16 GB


@dataclass(frozen=True)
class Preset:
    """A schedule for any full resolution, and what else a run of that name changes."""

    about: str
    schedule: Callable[[int], Schedule]
    networks: Mapping[str, Any] = field(default_factory=dict)  # arguments of both networks
    generator: Mapping[str, Any] = field(default_factory=dict)
    discriminator: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)  # fields of `Config`
    resolution: int | None = None  # the last one, where images are larger and none is asked for


def _official(total_kimg: float, **arguments: Any) -> Callable[[int], Schedule]:
    return lambda resolution: Schedule(resolution, total_kimg, **{"minibatch_gpu": _FP32_GPU, **arguments})


def _v2(base: int, minibatch: Mapping[int, int], lr: Mapping[int, float]) -> Callable[[int], Schedule]:
    return _official(12000, minibatch_base=base, minibatch=minibatch, lr=lr)


def _benchmark(resolution: int) -> Schedule:
    """3 kimg of each fade and of each level, to the end of the last."""
    levels = resolution.bit_length() - 2
    minibatch = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4}
    return Schedule(
        resolution, 3.0 * (2 * levels - 1), 3, 3, minibatch=minibatch, tick_kimg_base=3, tick_kimg={}, lr_base=0.001
    )  # fmt: skip


def _demo(resolution: int) -> Schedule:
    """Few updates, so a learning rate three times the official one."""
    levels = resolution.bit_length() - 2
    return Schedule(
        resolution, 10.0 * levels + 70, 5, 5, minibatch_base=16, minibatch={4: 32, 8: 32}, lr_base=0.003,
        tick_kimg_base=2, tick_kimg={},
    )  # fmt: skip


def _overnight(resolution: int) -> Schedule:
    """Phases four times the demo's, then the last level for what is left of about 8 hours on two cores.

    An estimate: in one run at the last level a thousand images took 3.3 times what the demo's take at 32x32, at 64x64
    7.3 times, and the demo's take 14 seconds on two cores.
    """
    return Schedule(
        resolution, 700 if resolution <= 32 else 400, 20, 20, minibatch_base=16, minibatch={4: 32, 8: 32},
        lr_base=0.002, tick_kimg_base=5, tick_kimg={},
    )  # fmt: skip


_TABLE1 = {"fmap_base": 2048}  # of the paper's ablation, at 128x128


PRESETS: Mapping[str, Preset] = {
    "demo": Preset(
        "half an hour on a CPU: 32x32, narrow networks",
        _demo,
        networks={"fmap_base": 1024, "fmap_max": 64},
        generator={"latent_dim": 64},
        training={"ema_beta": 0.995, "minibatch_repeats": 1},
        resolution=32,
    ),
    "overnight": Preset(
        "about 8 hours on a CPU: at most 64x64, twice the demo's width",
        _overnight,
        networks={"fmap_base": 2048, "fmap_max": 128},
        generator={"latent_dim": 128},
        training={"minibatch_repeats": 1},
        resolution=64,
    ),
    "v2-1gpu": Preset(
        "official default, one GPU",
        _v2(4, {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4}, {1024: 0.0015}),
    ),
    "v2-2gpus": Preset(
        "official, two GPUs",
        _v2(8, {4: 256, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8}, {512: 0.0015, 1024: 0.002}),
    ),
    "v2-4gpus": Preset(
        "official, four GPUs",
        _v2(16, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32, 128: 16}, {256: 0.0015, 512: 0.002, 1024: 0.003}),
    ),
    "v2-8gpus": Preset(
        "official, eight GPUs",
        _v2(32, {4: 512, 8: 256, 16: 128, 32: 64, 64: 32}, {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}),
    ),
    "v1-1gpu": Preset(
        "the paper's main runs: 19,000 kimg, minibatch 16",
        _official(19000, training_kimg=800, transition_kimg=800, minibatch={256: 14, 512: 6, 1024: 3}),
        discriminator={"stddev_group": 16},
    ),
    "table1-f": Preset(
        "row f of the paper's table 1: equalised learning rate, no pixel norm",
        _official(10000, training_kimg=800, transition_kimg=800),
        networks=_TABLE1,
        generator={"pixel_norm": "none"},
        discriminator={"stddev_group": 16},
    ),
    "table1-g": Preset(
        "row g: with pixel norm",
        _official(10000, training_kimg=800, transition_kimg=800),
        networks=_TABLE1,
        discriminator={"stddev_group": 16},
    ),
    "table1-h": Preset(
        "row h: full width, trained to convergence",
        _official(19000, training_kimg=800, transition_kimg=800),
        discriminator={"stddev_group": 16},
    ),
    "BENCHMARK": Preset("3 kimg of each phase through all resolutions; the official measure of speed", _benchmark),
}
