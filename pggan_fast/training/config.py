"""All that decides what a training computes: kept in its checkpoints, and compared when it goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pggan_fast.data import Dataset
from pggan_fast.errors import counted, line
from pggan_fast.training.objectives import OBJECTIVES, Objective
from pggan_fast.training.presets import PRESETS
from pggan_fast.training.schedule import Schedule

__all__ = ["Config", "configure"]

PRECISIONS: Mapping[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOOKED_AT = 64  # images of a set that its fingerprint has
HALF_EPS = 1e-4  # of pixel norms in float16, where 1e-8 is 0: the official half-precision preset's


@dataclass(frozen=True)
class Config:
    """Source of the defaults: Karras et al. 2017, appendix A.1, and the official configuration.

    G, D: arguments of the networks. loss: one of `OBJECTIVES`, with its arguments. betas, adam_eps: Adam's, for both.
    Torch's eps is TensorFlow's "epsilon hat" over sqrt(1 - beta2^t): a tenth in the first step, see docs/numerics.md.
    ema_beta: what G_ema keeps of itself in each step of D. minibatch_repeats: pairs of steps before the schedule is
    looked at again; d_repeats: steps of D for one of G. data: `fingerprint` of the images. Raises ValueError.
    """

    schedule: Schedule
    G: Mapping[str, Any]
    D: Mapping[str, Any]
    data: Mapping[str, Any]
    loss: str = "wgan-gp"
    loss_options: Mapping[str, float] = field(default_factory=dict)
    precision: str = "fp32"
    betas: tuple[float, float] = (0.0, 0.99)
    adam_eps: float = 1e-8
    ema_beta: float = 0.999
    minibatch_repeats: int = 4
    d_repeats: int = 1
    mirror: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("loss", OBJECTIVES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {line(getattr(self, name))}")
        for name in ("G", "D", "data", "loss_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name}: expected a table of names, got {line(getattr(self, name))}")
        if not 0.0 <= self.ema_beta < 1.0:
            raise ValueError(f"ema_beta: expected a number in [0, 1), got {self.ema_beta}")
        for name in ("minibatch_repeats", "d_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        self.objective  # the check  # noqa: B018

    @property
    def objective(self) -> Objective:
        try:
            return OBJECTIVES[self.loss](**self.loss_options)
        except TypeError as error:
            raise ValueError(f"loss_options: of {self.loss}: {error}") from None

    def check_batches(self, processes: int, batch_gpu: int | None = None) -> None:
        """Raises ValueError where a minibatch cannot be shared evenly, or does not fit the minibatch deviation."""
        for resolution in self.schedule.levels:
            minibatch = self.schedule.minibatch.get(resolution, self.schedule.minibatch_base)
            if minibatch % processes:
                raise ValueError(
                    f"batch: expected a multiple of the {processes} processes, got {minibatch} at "
                    f"{resolution}x{resolution}"
                )
            local = min(minibatch // processes, self.schedule.minibatch_gpu.get(resolution, minibatch))
            parts = parts_of(local, batch_gpu)
            if not self.fits_groups(local, parts):
                told = f"in {counted(parts, 'part')}"
                raise ValueError(
                    f"batch: {local} images of a process at {resolution}x{resolution}, {told}, "
                    f"do not fit groups of {self.D.get('stddev_group', 4)} of the minibatch deviation; choose another "
                    "batch, batch_gpu or stddev_group"
                )

    def fits_groups(self, images: int, parts: int) -> bool:
        """Whether the groups of the minibatch deviation are whole in each of so many parts of a process's images."""
        group = min(int(self.D.get("stddev_group", 4)), images)
        return not group or not any(len(range(part, images, parts)) % group for part in range(parts))

    def as_json(self) -> dict[str, Any]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        whole = {**fields, "schedule": self.schedule.as_json(), "betas": list(self.betas)}
        return dict(json.loads(json.dumps(whole, allow_nan=False)))

    @classmethod
    def from_json(cls, text: Mapping[str, Any]) -> Config:
        """Of `as_json`. Raises ValueError, KeyError, TypeError, AttributeError for what is none."""
        made = cls(**{**text, "schedule": Schedule.from_json(text["schedule"]), "betas": tuple(text["betas"])})
        made.as_json()  # NaN and the like have not come from there
        return made

    def differences(self, other: Config) -> list[str]:
        """What is not the same in `other`, which may train for longer or tick at other times: "name: this, that"."""
        ours, theirs = _flat(self.as_json()), _flat(other.as_json())
        free = ("schedule.total_kimg", "schedule.tick_kimg", "data.path")
        names = [name for name in {**ours, **theirs} if not name.startswith(free)]
        return [
            line(f"{name}: {ours.get(name)!r}, {theirs.get(name)!r}")
            for name in names
            if ours.get(name) != theirs.get(name)
        ]


def parts_of(images: int, most: int | None) -> int:
    """How many parts of at most so many images."""
    return 1 if most is None else -(-images // most)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{before}{name}.") if isinstance(inner, Mapping) else {before + name: inner}
    return found


def fingerprint(dataset: Dataset, path: str) -> dict[str, Any]:
    """What tells this set of images from another, whatever its file is called: count, shape, and the sha256 of its
    labels and of pixels from the first image to the last."""
    digest = hashlib.sha256()
    for number in np.linspace(0, len(dataset) - 1, min(len(dataset), _LOOKED_AT)).astype(int):
        digest.update(np.ascontiguousarray(dataset.usable(int(number))[1]).tobytes())
    if dataset.labels is not None:
        digest.update(np.ascontiguousarray(dataset.labels).tobytes())
    return {
        "path": path,
        "images": len(dataset),
        "shape": list(dataset.shape),
        "label_dim": dataset.label_dim,
        "sha256": digest.hexdigest(),
    }


def configure(
    dataset: Dataset,
    path: str,
    preset: str,
    *,
    networks: Mapping[str, Any] | None = None,
    generator: Mapping[str, Any] | None = None,
    discriminator: Mapping[str, Any] | None = None,
    schedule: Mapping[str, Any] | None = None,
    **training: Any,
) -> Config:
    """A preset's configuration for these images, changed by what is named: arguments of both networks, of G and of D,
    of the schedule, and fields of `Config`. Raises ValueError."""
    if preset not in PRESETS:
        raise ValueError(f"cfg: expected one of {', '.join(PRESETS)}, got {preset!r}")
    chosen = PRESETS[preset]
    common = {
        "resolution": dataset.resolution,
        "base_shape": list(dataset.base_shape),
        "channels": dataset.shape[0],
        "label_dim": dataset.label_dim,
        **chosen.networks,
        **(networks or {}),
    }
    plan = chosen.schedule(dataset.resolution)
    if schedule:
        plan = dataclasses.replace(plan, **schedule)
    fields = {**chosen.training, **training}
    half = {"eps": HALF_EPS} if fields.get("precision") == "fp16" else {}
    return Config(
        plan,
        {**common, **half, **chosen.generator, **(generator or {})},
        {**common, **chosen.discriminator, **(discriminator or {})},
        fingerprint(dataset, path),
        **fields,
    )
