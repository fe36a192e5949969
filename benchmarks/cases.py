"""What is measured: the cases, their inputs, and the presets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pggan_fast.data import faces

FORWARDS = ("G.forward", "D.forward")
STEPS = ("D.step", "G.step")
SAMPLE = "G.sample"  # latents to bytes; in no preset, only where it is named
CASES = (*FORWARDS, *STEPS, SAMPLE)
COMBINED = "step"  # D.step + G.step, of the same round
RESOLUTIONS = tuple(2**i for i in range(2, 11))
LATENT = 512


@dataclass(frozen=True)
class Case:
    name: str
    resolution: int
    batch: int
    dtype: torch.dtype
    device: torch.device

    @property
    def title(self) -> str:
        return f"{self.name} {self.resolution}x{self.resolution} batch {self.batch}"

    @property
    def training(self) -> bool:
        return self.name in STEPS


# The cases that are timed in the same rounds: one forward, or D.step and G.step, whose sum is a row of its own.
Unit = tuple[Case, ...]


@dataclass(frozen=True)
class Inputs:
    """What a case feeds its networks, float64 on the CPU; every provider gets a copy in its own dtype and layout."""

    z: Tensor  # [N, LATENT]
    images: Tensor  # [N, 3, R, R] in [-1, 1]: faces for training, noise for D.forward
    u: Tensor  # [N, 1, 1, 1], the gradient penalty's mixing weight


def inputs(case: Case, seed: int, latent: int = LATENT) -> Inputs:
    """Random inputs, none of them zero; the images of a training step are the embedded faces."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(case.batch, latent, generator=generator)
    u = torch.rand(case.batch, 1, 1, 1, generator=generator)
    if case.training:
        images = face_images(case.resolution, case.batch, generator)
    else:
        images = torch.rand(case.batch, 3, case.resolution, case.resolution, generator=generator) * 2 - 1
    return Inputs(z.double(), images.double(), u.double())


def face_images(resolution: int, batch: int, generator: torch.Generator) -> Tensor:
    """[batch, 3, R, R] in [-1, 1]: faces drawn at random; above 32x32 the 32x32 ones, nearest-upsampled."""
    pictures = faces(min(resolution, 32))
    chosen = torch.randint(len(pictures), (batch,), generator=generator)
    images = pictures[chosen].float() / 127.5 - 1
    return F.interpolate(images, size=resolution, mode="nearest")


def units(
    preset: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    names: Sequence[str] = (),
    resolutions: Sequence[int] = (),
    batch: int | None = None,
) -> list[Unit]:
    """The units of a preset, training steps first.

    `names` keeps only those cases, and adds G.sample at the sizes of G.forward; `resolutions` and `batch` replace the
    preset's.
    """
    rows = PRESETS[preset](device)
    if SAMPLE in names:
        rows += [((SAMPLE,), r, n) for kind, r, n in rows if kind == ("G.forward",)]
    if resolutions:
        kinds = list(dict.fromkeys(kind for kind, _, _ in rows))
        known = {(kind, resolution): n for kind, resolution, n in rows}
        rows = [(k, r, known.get((k, r), default_batch(r, device))) for k in kinds for r in resolutions]
    result: list[Unit] = []
    for kind, resolution, size in rows:
        kept = tuple(name for name in kind if not names or name in names)
        unit = tuple(Case(name, resolution, batch or size, dtype, device) for name in kept)
        if unit and unit not in result:
            result.append(unit)
    return result


def default_batch(resolution: int, device: torch.device) -> int:
    """The minibatch that the official training uses on one GPU; an eighth of it on a CPU."""
    official = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4}[resolution]
    return official if device.type == "cuda" else max(1, official // 8)


_Plan = list[tuple[tuple[str, ...], int, int]]  # (case names, resolution, batch)


def _quick(device: torch.device) -> _Plan:
    # Large ones first: what is left of the budget for torch.compile goes where it says most.
    forwards: _Plan = [((name,), r, 4) for r in (128, 32) for name in FORWARDS]
    return [(STEPS, 32, 4), *forwards]


def _full(device: torch.device) -> _Plan:
    forwards: _Plan = [((name,), r, default_batch(r, device)) for r in RESOLUTIONS for name in FORWARDS]
    quick = [row for row in _quick(device) if row not in forwards]
    return [*quick, (STEPS, 64, 8), (("G.step",), 128, 4), *forwards]


PRESETS: dict[str, Callable[[torch.device], _Plan]] = {"quick": _quick, "full": _full}
# Seconds that a preset may take on two CPU cores; repeats are chosen to stay within them.
BUDGETS = {"quick": 165.0, "full": 3600.0}
