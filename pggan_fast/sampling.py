"""Images by seed, and videos that go from seed to seed: latents and labels for `inference.Sampler`.

**Seeds.** z of seed s is `inference.latents(1, latent_dim, seed=s)`: it depends on s alone, bit by bit, as in
StyleGAN's tools. The image has the same bits for the same number of images at a time, whichever the others are; for
another number kernels may round otherwise: on a CPU up to 2 of 10,000 bytes differed, by 1, in float32, and in half
precision more of them and by more.

**Truncation.** `truncation=psi` draws z's components from N(0, 1) truncated to [-psi, psi], as BigGAN does: shorter
latents, more typical and less diverse images. That needs a generator that sees how long z is, `latent_norm="none"`.
The official one and most others normalise latents to a hypersphere, where all are equally long and no direction is
likelier than another: there is nothing to truncate (nor a mapping network's mean, which StyleGAN truncates to), and
`check_truncation` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pggan_fast.inference import PinnedCopies, Sampler, latents, one_behind
from pggan_fast.models import Generator
from pggan_fast.ops import _checks

__all__ = [
    "Inputs",
    "Loop",
    "check_truncation",
    "classes_of_seeds",
    "images",
    "labels_of_seeds",
    "latents_of_seeds",
    "slerp",
    "truncated",
]

# What G takes for the images of these numbers: z, and labels if it has them.
Inputs = Callable[[range], tuple[Tensor, Tensor | None]]


def latents_of_seeds(seeds: Sequence[int], latent_dim: int = 512, *, truncation: float | None = None) -> Tensor:
    """[len(seeds), latent_dim] in float32, each row of its seed alone; `truncation` as `truncated` has it.

    Raises ValueError for a seed outside of [0, 2^32).
    """
    _checks.counts(1, latent_dim=latent_dim)
    rows = [latents(1, latent_dim, seed=seed) for seed in seeds]
    z = torch.cat(rows) if rows else torch.empty(0, latent_dim)
    return z if truncation is None else truncated(z, truncation)


def truncated(z: Tensor, psi: float) -> Tensor:
    """N(0, 1) to N(0, 1) truncated to [-psi, psi], component by component, psi > 0.

    By the distribution functions, F_psi^-1(F(z)), so that a seed's z moves steadily with psi and is itself for a large
    one. Raises ValueError.
    """
    _checks.finite(truncation=psi)
    if psi <= 0:
        raise ValueError(f"truncation: expected a number > 0, got {psi}")
    x, most = z.double(), torch.tensor(psi, dtype=torch.float64)
    inside = (torch.special.ndtr(most) - torch.special.ndtr(-most)) * torch.special.ndtr(-x.abs())
    tail = torch.special.ndtr(-most) + inside  # of the side that z is on, where few digits cancel
    drawn: Tensor = (-torch.special.ndtri(tail)).clamp(0.0, psi).copysign(x).to(z.dtype)
    return drawn


def check_truncation(G: Generator, truncation: float | None) -> None:
    """Raise ValueError where truncation would mean nothing to G."""
    if truncation is not None and G.latent_norm != "none":
        raise ValueError(
            f"truncation: expected none, as the network normalises its latents (latent_norm={G.latent_norm!r}): all "
            f"are equally long, got {truncation}"
        )


def classes_of_seeds(seeds: Sequence[int], classes: int) -> list[int]:
    """A class in [0, classes) for each seed, all equally likely, of the seed alone and independent of its z.

    Raises ValueError for classes < 1.
    """
    _checks.counts(1, classes=classes)
    return [int(np.random.default_rng(seed).integers(classes)) for seed in seeds]  # not the generator of z


def labels_of_seeds(G: Generator, seeds: Sequence[int], label: int | None = None) -> Tensor | None:
    """One-hot [len(seeds), label_dim] of the class `label`, else of each seed's own; None where G takes none.

    Raises ValueError where there is no such class.
    """
    if label is not None and not 0 <= label < G.label_dim:
        expected = f"0 to {G.label_dim - 1}" if G.label_dim else "none, as the network has no classes"
        raise ValueError(f"class: expected {expected}, got {label}")
    if not G.label_dim:
        return None
    chosen = classes_of_seeds(seeds, G.label_dim) if label is None else [label] * len(seeds)
    return torch.eye(G.label_dim)[torch.tensor(chosen, dtype=torch.int64)]


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """From a at t = 0 to b at t = 1 on a hypersphere: directions turn evenly, lengths change linearly.

    a, b: [..., d] of one dtype; t: a number or [...]. Computed in float64. Directions that are opposite, between which
    no arc is the shortest, and vectors without a direction raise ValueError.
    """
    x, y = a.double(), b.double()
    share = torch.as_tensor(t, dtype=torch.float64)[..., None]
    lengths = x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True)
    if not all(bool((length > 0).all()) for length in lengths):
        raise ValueError("a, b: expected vectors with a direction, got zeros")
    x, y = x / lengths[0], y / lengths[1]
    # the angle by its tangent: of the cosine alone, small angles would be lost
    angle = 2.0 * torch.atan2((x - y).norm(dim=-1, keepdim=True), (x + y).norm(dim=-1, keepdim=True))
    if bool((angle > torch.pi - 1e-6).any()):
        raise ValueError("a, b: expected directions with a shortest arc between them, got opposite ones")
    small = angle < 1e-8  # where the arc is the chord
    sine = torch.where(small, torch.ones_like(angle), angle.sin())
    weights = [torch.where(small, part, (part * angle).sin() / sine) for part in (1.0 - share, share)]
    between: Tensor = ((weights[0] * x + weights[1] * y) * torch.lerp(*lengths, share)).to(a.dtype)
    return between


@dataclass(frozen=True)
class Loop:
    """A closed path over key frames for each cell of a picture: from each key to the next by `slerp`, and back.

    keys: latents [cells, K, d] with K >= 2; steps: frames from key to key; labels: [cells, label_dim], each cell's for
    all frames. Frame k * steps shows key k, and the frame after the last would be the first.
    """

    keys: Tensor
    steps: int
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        _checks.counts(1, steps=self.steps)
        if self.keys.ndim != 3 or self.keys.shape[1] < 2:
            raise ValueError(f"keys: expected [cells, 2 or more, d], got {list(self.keys.shape)}")

    @property
    def cells(self) -> int:
        return len(self.keys)

    @property
    def frames(self) -> int:
        return self.keys.shape[1] * self.steps

    def __call__(self, numbers: range) -> tuple[Tensor, Tensor | None]:
        """Latents and labels of images, numbered frame by frame and in each cell by cell."""
        number = torch.arange(numbers.start, numbers.stop)
        frame, cell = number // self.cells, number % self.cells
        key, step = frame // self.steps, frame % self.steps
        after = (key + 1) % self.keys.shape[1]
        z = slerp(self.keys[cell, key], self.keys[cell, after], step.double() / self.steps)
        return z, None if self.labels is None else self.labels[cell]


def images(sampler: Sampler, count: int, inputs: Inputs, batch: int) -> Iterator[Tensor]:
    """Images number 0 to count - 1, one by one: uint8 [C, H, W] on the CPU, `batch` of them computed at a time.

    On CUDA a batch is copied while the next is computed, as in `Sampler.stream`.
    """
    _checks.counts(0, count=count)
    _checks.counts(1, batch=batch)
    parts = (range(start, min(start + batch, count)) for start in range(0, count, batch))
    computed = (sampler.uint8(*inputs(part)) for part in parts)
    cuda = sampler.device.type == "cuda"
    for pixels in one_behind(computed, PinnedCopies(sampler.device)) if cuda else map(Tensor.cpu, computed):
        yield from pixels.permute(0, 3, 1, 2)
