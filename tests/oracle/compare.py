"""The numbers and the one comparison that every oracle test uses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def draw(*shape: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def difference(got: npt.ArrayLike, want: npt.ArrayLike) -> float:
    """Largest absolute difference over the largest magnitude of `want`; infinite where a shape or a NaN differs."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
        return float("inf")
    if want.size == 0:
        return 0.0
    scale = float(np.abs(want).max())
    return float(np.abs(got - want).max()) / (scale if scale > 0.0 else 1.0)


def assert_close(got: npt.ArrayLike, want: npt.ArrayLike, tolerance: float = 1e-11) -> None:
    found = difference(got, want)
    assert found <= tolerance, f"relative difference {found:.3g} > {tolerance:.3g}"
