"""What is measured: the cases, their inputs, and the presets."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pggan_fast.benchmarks.peers.training import PEERS
from pggan_fast.benchmarks.subjects import SUBJECTS, Widths
from torch import Tensor
from torch.nn import functional as F

from pggan_fast.data import faces
from pggan_fast.errors import counted, few

MODES = {
    "forward": "without gradients",
    "backward": "forward, and the gradients of inputs and parameters",
    "double": "the gradient of an input, and the gradients of that one, as a gradient penalty needs them",
}
FORWARDS = ("G.forward", "D.forward")
STEPS = ("D.step", "G.step")
COMBINED = "step"  # D.step + G.step, of the same round
SAMPLE = "G.sample"
RESOLUTIONS = tuple(2**i for i in range(2, 11))


def _cases() -> dict[str, str]:
    """Every case's name, and what it is."""
    found = {f"{subject}.{mode}": f"{s.text}; {t}" for subject, s in SUBJECTS.items() for mode, t in MODES.items()}
    found["D.step"] = "a step of D: WGAN-GP's loss with penalty and drift, and Adam"
    found["G.step"] = "a step of G; where both are measured, a row `step` has their sum"
    found[SAMPLE] = "latents to bytes, ours by inference.Sampler"
    for peer in PEERS:
        found[f"{peer}.step"] = f"both steps of {peer}'s networks, as they are (eager) and after fuse() (auto)"
        for network in ("G", "D"):
            found[f"{peer}.{network}.forward"] = f"{peer}'s {network}, as it is (eager) and after fuse() (auto)"
    return found


CASES = _cases()


@dataclass(frozen=True)
class Case:
    name: str
    resolution: int
    batch: int
    dtype: torch.dtype
    device: torch.device
    threads: int | None = None  # of the CPU; None: as torch is set

    @property
    def title(self) -> str:
        threads = "" if self.threads is None else f", {counted(self.threads, 'thread')}"
        return f"{self.name} {self.resolution}x{self.resolution} batch {self.batch}{threads}"

    @property
    def subject(self) -> str:
        """What runs: one of SUBJECTS or PEERS."""
        return self.name.split(".")[0] if self.peer else self.name.rpartition(".")[0]

    @property
    def mode(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def peer(self) -> str | None:
        """Whose networks these are, if others'."""
        first = self.name.split(".")[0]
        return first if first in PEERS else None

    @property
    def kind(self) -> str:
        """ "op", "layer", "block", "network", or "peer"."""
        return "peer" if self.peer else SUBJECTS[self.subject].kind

    @property
    def training(self) -> bool:
        """Whether it is a whole step: parameters stay float32, and half types are autocast's."""
        return self.mode == "step"

    @property
    def differentiates_twice(self) -> bool:
        return self.mode == "double" or self.name == "D.step"

    def reason(self) -> str | None:
        """Why there is no such case; None where there is."""
        if self.peer is None:
            return SUBJECTS[self.subject].reason(self.resolution)
        if self.dtype != torch.float32:
            return "peers' networks are measured in float32"
        return "peers' networks begin at 8x8" if self.resolution < 8 else None


# The cases that are timed in the same rounds: one, or D.step and G.step, whose sum is a row of its own.
Unit = tuple[Case, ...]


@dataclass(frozen=True)
class Inputs:
    """What a case feeds its module, float64 on the CPU; every provider gets a copy in its own dtype and layout."""

    inputs: tuple[Tensor, ...]  # of the module: latents, maps or images
    z: Tensor  # [N, latent], of a training step
    images: Tensor  # [N, 3, R, R] in [-1, 1], of a training step: faces
    u: Tensor  # [N, 1, 1, 1], the gradient penalty's mixing weight
    seed: int = 0  # of what is drawn in the shape of an output


def inputs(case: Case, seed: int, widths: Widths) -> Inputs:
    """Random inputs, none of them zero; the images of a training step are the embedded faces."""
    generator = torch.Generator().manual_seed(seed)
    n, none = case.batch, torch.empty(0).double()
    if not (case.training or case.peer or case.mode == "sample"):
        shapes = SUBJECTS[case.subject].shapes(case.resolution, n, widths)
        # images in [-1, 1], all else normal
        drawn = (
            torch.rand(s, generator=generator) * 2 - 1 if len(s) == 4 and s[1] == 3 else _normal(s, generator)
            for s in shapes
        )
        return Inputs(tuple(t.double() for t in drawn), none, none, none, seed)
    z = _normal((n, widths.latent), generator)
    u = torch.rand(n, 1, 1, 1, generator=generator)
    images = face_images(case.resolution, n, generator) if case.mode != "sample" else none
    return Inputs((z.double(),), z.double(), images.double(), u.double(), seed)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def face_images(resolution: int, batch: int, generator: torch.Generator) -> Tensor:
    """[batch, 3, R, R] in [-1, 1]: faces drawn at random; above 32x32 the 32x32 ones, nearest-upsampled."""
    pictures = faces(min(resolution, 32))
    chosen = torch.randint(len(pictures), (batch,), generator=generator)
    images = pictures[chosen].float() / 127.5 - 1
    return F.interpolate(images, size=resolution, mode="nearest")


def matching(patterns: Sequence[str]) -> list[str]:
    """The names of CASES that one of `patterns` (as a shell has them) matches; ValueError for one without any."""
    for pattern in patterns:
        if not fnmatch.filter(CASES, pattern):
            below = any(name.startswith(f"{pattern}.") for name in CASES)
            like = f"as {', '.join(list(CASES)[:3])}" if not below else f"{pattern}.* is all of {pattern}"
            raise ValueError(f"got {pattern!r}, which is no case; --list shows them, {like}")
    return [name for name in CASES if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def units(preset: str, device: torch.device, dtype: torch.dtype, **options: Sequence[Any]) -> list[Unit]:
    """Those of `candidates` that there are."""
    return [unit for unit, reason in candidates(preset, device, dtype, **options).items() if reason is None]


def left_out(found: Mapping[Unit, str | None]) -> list[str]:
    """The names of `candidates` that exist at none of their sizes, and why."""
    there = {unit[0].name for unit, reason in found.items() if reason is None}
    lost = {unit[0].name: reason for unit, reason in found.items() if unit[0].name not in there}
    return [f"{name}: {reason}" for name, reason in lost.items()]


def candidates(
    preset: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    names: Sequence[str] = (),
    resolutions: Sequence[int] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
) -> dict[Unit, str | None]:
    """The units of a preset, training steps first, and why there is none such at this size; each of the others replaces
    what the preset says.

    Cases that the preset has not are measured at the sizes of its G.forward, or at `resolutions` where it has not that
    either. Raises ValueError for names that have no size by either.
    """
    rows = PRESETS[preset](device)
    if names:
        sizes = list(dict.fromkeys((r, n) for kind, r, n in rows if kind == ("G.forward",)))
        sizes = sizes or [(r, default_batch(r, device)) for r in resolutions]
        known = {name for kind, _, _ in rows for name in kind}
        unsized = [name for name in names if name not in known]
        if unsized and not sizes:
            raise ValueError(f"the preset {preset} has no size for {few(unsized)}; --resolution tells one")
        rows = [(tuple(name for name in kind if name in names), r, n) for kind, r, n in rows]
        rows += [((name,), r, n) for name in unsized for r, n in sizes]
    if resolutions:
        kinds = list(dict.fromkeys(kind for kind, _, _ in rows))
        of = {(kind, resolution): n for kind, resolution, n in rows}
        rows = [(k, r, of.get((k, r), default_batch(r, device))) for k in kinds for r in resolutions]
    result: dict[Unit, str | None] = {}
    for kind, resolution, size in rows:
        for batch in batches or [size]:
            for count in (*threads,) or (None,):
                unit = tuple(Case(name, resolution, batch, dtype, device, count) for name in kind)
                if unit:
                    result[unit] = unit[0].reason()
    return result


def default_batch(resolution: int, device: torch.device) -> int:
    """The minibatch that the official training uses on one GPU; an eighth of it on a CPU."""
    official = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4}[resolution]
    return official if device.type == "cuda" else max(1, official // 8)


_Plan = list[tuple[tuple[str, ...], int, int]]  # (case names, resolution, batch)


def _quick(device: torch.device) -> _Plan:
    """A step at 32x32, forwards at 32x32 and 128x128"""
    # Large ones first: what is left of the budget for torch.compile goes where it says most.
    forwards: _Plan = [((name,), r, 4) for r in (128, 32) for name in FORWARDS]
    return [(STEPS, 32, 4), *forwards]


def _full(device: torch.device) -> _Plan:
    """quick, a step at 64x64, a step of G at 128x128, forwards from 4x4 to 1024x1024, layers"""
    forwards: _Plan = [((name,), r, default_batch(r, device)) for r in RESOLUTIONS for name in FORWARDS]
    quick = [row for row in _quick(device) if row not in forwards]
    return [*quick, (STEPS, 64, 8), (("G.step",), 128, 4), *forwards, *_layers(device)]


def _layers(device: torch.device) -> _Plan:
    """Every layer, forward and with its gradients, as large as training has it"""
    names = [name for name, s in SUBJECTS.items() if s.kind == "layer"]
    return [
        ((f"{name}.{mode}",), r, default_batch(r, device))
        for mode in ("forward", "backward")
        for name in names
        for r in RESOLUTIONS
    ]


def _growth(device: torch.device) -> _Plan:
    """Networks by resolution at batch 1 and by batch at 32x32; steps from 4x4 to 64x64"""
    by_resolution: _Plan = [((name,), r, 1) for name in FORWARDS for r in RESOLUTIONS]
    by_batch: _Plan = [((name,), 32, 4**k) for name in FORWARDS for k in range(5)]
    steps: _Plan = [(STEPS, r, 4) for r in RESOLUTIONS[:5]]
    return [*steps, *(row for row in by_batch if row not in by_resolution), *by_resolution]


def _peers(device: torch.device) -> _Plan:
    """Published networks at 32x32: steps and forwards, as they are and after fuse()"""
    names = [name for name in CASES if name.split(".")[0] in PEERS]
    return [((name,), 32, 16 if name.startswith("genforce") else 4) for name in names]  # whose groups are of 16


PRESETS: dict[str, Callable[[torch.device], _Plan]] = {
    "quick": _quick,
    "full": _full,
    "layers": _layers,
    "growth": _growth,
    "peers": _peers,
}
# Seconds that a preset may take on two CPU cores; repeats are chosen to stay within them.
BUDGETS = {"quick": 165.0, "full": 3600.0, "layers": 600.0, "growth": 900.0, "peers": 600.0}
