"""What was published of progressive GANs, to stand beside a user's own numbers of the same data set and resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

DatasetName = Literal["celeba", "celebahq", "lsun-bedroom", "lsun-cat", "lsun-church"]
LEVELS = (128, 64, 32, 16)  # of the sliced Wasserstein distances


@dataclass(frozen=True)
class Row:
    """One configuration: distances x 1000 by level, their average, similarity of pairs, FID; None: not published."""

    name: str
    swd: tuple[float, ...] = ()
    average: float | None = None
    msssim: float | None = None
    fid: float | None = None


@dataclass(frozen=True)
class Published:
    resolution: int
    source: str
    rows: Sequence[Row]


_PAPER = "Karras et al. 2018, table 1 (their TensorFlow code does not reproduce it); mmgen: MMGeneration's own PGGAN"
_FID = "FID of the official networks, as listed by Papers with Code"

PUBLISHED: Mapping[str, Published] = {
    "celeba": Published(
        128,
        _PAPER,
        (
            Row("(a) Gulrajani et al.", (12.99, 7.79, 7.62, 8.73), 9.28, 0.2854),
            Row("(b) + progressive growing", (4.62, 2.64, 3.78, 6.06), 4.28, 0.2838),
            Row("(c) + small minibatch", (75.42, 41.33, 41.62, 26.57), 46.23, 0.4065),
            Row("(d) + revised training", (9.20, 6.53, 4.71, 11.84), 8.07, 0.3027),
            Row("(e*) + minibatch discrimination", (10.76, 6.28, 6.04, 16.29), 9.84, 0.3057),
            Row("(e) minibatch stddev", (13.94, 5.67, 2.82, 5.71), 7.04, 0.2950),
            Row("(f) + equalized learning rate", (4.42, 3.28, 2.32, 7.52), 4.39, 0.2902),
            Row("(g) + pixelwise normalization", (4.06, 3.04, 2.02, 5.13), 3.56, 0.2845),
            Row("(h) converged", (2.42, 2.17, 2.24, 4.99), 2.96, 0.2828),
            Row("mmgen", (3.42, 4.04, 4.78, 20.38), 8.15, 0.3023),
        ),
    ),
    "lsun-bedroom": Published(
        128,
        _PAPER,
        (
            Row("(a) Gulrajani et al.", (11.97, 10.51, 8.03, 14.48), 11.25, 0.0587),
            Row("(b) + progressive growing", (7.09, 6.27, 7.40, 9.64), 7.60, 0.0615),
            Row("(c) + small minibatch", (72.73, 40.16, 42.75, 42.46), 49.52, 0.1061),
            Row("(d) + revised training", (7.39, 5.51, 3.65, 9.63), 6.54, 0.0662),
            Row("(e*) + minibatch discrimination", (10.29, 6.22, 5.32, 11.88), 8.43, 0.0648),
            Row("(e) minibatch stddev", (7.77, 5.23, 3.27, 9.64), 6.48, 0.0671),
            Row("(f) + equalized learning rate", (3.61, 3.32, 2.71, 6.44), 4.02, 0.0668),
            Row("(g) + pixelwise normalization", (3.89, 3.05, 3.24, 5.87), 4.01, 0.0640),
            Row("(h) converged", (3.47, 2.60, 2.30, 4.87), 3.31, 0.0636),
            Row("mmgen", (), 4.72, 0.0602),
        ),
    ),
    "celebahq": Published(1024, _FID, (Row("official", fid=7.30),)),
    "lsun-bedroom-256": Published(256, _FID, (Row("official", fid=8.34),)),
    "lsun-church": Published(256, _FID, (Row("official", fid=6.42),)),
    "lsun-cat": Published(256, _FID, (Row("official", fid=37.52),)),
}


def beside(dataset: str, resolution: int) -> Published | None:
    """What was published of a data set at this resolution, if anything."""
    found = (PUBLISHED.get(name) for name in (dataset, f"{dataset}-{resolution}"))
    return next((p for p in found if p is not None and p.resolution == resolution), None)
