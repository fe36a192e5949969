"""Random numbers by place: what is drawn for image i depends on the seed and i, never on batches or processes."""

from __future__ import annotations

import numpy as np

# What is drawn: each has numbers of its own.
PATCHES, DIRECTIONS, MIRROR, LABELS = range(4)


def at(seed: int, what: int, stream: int = 0, index: int = 0) -> np.random.Generator:
    """The generator of one image (`index`) of one set (`stream`)."""
    return np.random.Generator(np.random.Philox(key=[seed, what], counter=[0, 0, stream, index]))
