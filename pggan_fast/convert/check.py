"""A converted network against the numpy forward straight from the file's variables, both in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from pggan_fast.backends.forced import use_backend
from pggan_fast.convert.layout import Floats, Layout
from pggan_fast.models import Discriminator, Generator

ALLOWED = 1e-5  # of the largest number: rescaled weights were rounded once to the file's dtype
_SEED = 1
# alpha is a float32 for our networks: a quarter is one exactly


class Agreement(NamedTuple):
    """The largest difference at a level, as a part of the largest number that should come out."""

    kind: str
    resolution: int
    alpha: float
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= ALLOWED  # NaN fails


def compare(kind: str, layout: Layout, net: Generator | Discriminator) -> Iterator[Agreement]:
    """Every level, fading in and alone; of the large ones between, which take long, fading in, which has all layers.

    Of the file's RGB layers some may be absent: what would show them is left out. `layout` must have a `forward`.
    """
    if layout.forward is None:
        raise ValueError(f"layout: expected one with a forward, got none for {kind}")
    exact = copy.deepcopy(net).double().eval()
    for r in net.levels.resolutions:
        for alpha in (1.0,) if r == 4 else (0.25,) if 64 < r < net.levels.resolution else (1.0, 0.25):
            if layout.absent and not _complete(layout, net, r, alpha):
                continue
            with torch.no_grad(), use_backend("reference"):
                theirs, ours = _outputs(layout, exact, r, alpha)
            largest = max(float(np.abs(theirs).max()), np.finfo(np.float64).tiny)
            yield Agreement(kind, r, alpha, float(np.abs(theirs - ours).max()) / largest)


def _complete(layout: Layout, net: Generator | Discriminator, r: int, alpha: float) -> bool:
    """Whether the file has every layer that this level shows."""
    rgb = "to_rgb" if isinstance(net, Generator) else "from_rgb"
    shown = {f"{rgb}.{v}x{v}" for v in ((r,) if alpha == 1.0 else (r, r // 2))}
    return not shown & set(layout.absent)


def _outputs(layout: Layout, net: Generator | Discriminator, r: int, alpha: float) -> tuple[Floats, Floats]:
    assert layout.forward is not None
    draw = np.random.default_rng(_SEED)
    if isinstance(net, Generator):
        batch = 2
        z = draw.standard_normal((batch, net.latent_dim))
        labels = np.eye(net.label_dim)[draw.integers(net.label_dim, size=batch)] if net.label_dim else None
        theirs = layout.forward(z, labels, resolution=r, alpha=alpha)
        one_hot = None if labels is None else torch.from_numpy(labels)
        return theirs, net(torch.from_numpy(z), one_hot, resolution=r, alpha=alpha).numpy()
    groups = 2 * net.stddev.group_size if net.stddev is not None and net.stddev.group_size <= 16 else 8
    batch = groups if r <= 8 else 2
    size = [side * r // 4 for side in net.levels.base_shape]
    image = draw.standard_normal((batch, net.channels, *size))
    score, logits = net(torch.from_numpy(image), alpha=alpha)
    ours = score[:, None] if logits is None else torch.cat([score[:, None], logits], dim=1)
    return layout.forward(image, alpha=alpha), ours.numpy()
