"""An endless order of a data set's images that is one for all processes, and may be gone on with anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pggan_fast.errors import line
from pggan_fast.ops import _checks


class Sampler:
    """Every image once in each pass, each pass in an order of its own; process r of w takes every w-th, from the r-th.

    What stands at a position depends on the seed, the size of the set and the position alone: not on batches, workers
    or how many processes share them, so that a state may be loaded with another `world_size`. Each position has a
    coin too, for mirroring. numpy's RandomState draws both: its numbers are the same in all versions.

    Raises ValueError for an empty set, a rank that is not below world_size, a seed outside of [0, 2^64).
    """

    def __init__(self, count: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        _checks.counts(1, count=count, world_size=world_size)
        _checks.counts(0, seed=seed, rank=rank)
        if rank >= world_size:
            raise ValueError(f"rank: expected one below world_size = {world_size}, got {rank}")
        if seed >= 1 << 64:
            raise ValueError(f"seed: expected an integer < 2^64, got {seed}")
        self.count, self.seed, self.rank, self.world_size = count, seed, rank, world_size
        self.position = 0  # images that all processes have taken
        self._pass: tuple[int, npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None = None

    def at(self, steps: int, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """(numbers, coins) of this process's images steps .. steps + n - 1 from `position` on; nothing moves."""
        places = self.position + self.rank + self.world_size * np.arange(steps, steps + n, dtype=np.int64)
        numbers, coins = np.empty(n, np.int64), np.empty(n, np.bool_)
        passes, offsets = np.divmod(places, self.count)
        for number in np.unique(passes):
            here = passes == number
            order, sides = self._drawn(int(number))
            numbers[here], coins[here] = order[offsets[here]], sides[offsets[here]]
        return numbers, coins

    def advance(self, n: int) -> None:
        """n images were taken by this process, and by each of the others."""
        self.position += n * self.world_size

    def _drawn(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        if self._pass is None or self._pass[0] != number:
            draw = np.random.RandomState([self.seed & 0xFFFFFFFF, self.seed >> 32, number & 0xFFFFFFFF, number >> 32])
            self._pass = number, draw.permutation(self.count), draw.random_sample(self.count) < 0.5
        return self._pass[1], self._pass[2]

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "seed": self.seed, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that sampler was. Raises ValueError for one of a set of another size, and for what is none."""
        if set(state) != {"count", "seed", "position"}:
            raise ValueError(f"state: expected count, seed and position, got {', '.join(map(str, state)) or 'nothing'}")
        _checks.counts(0, **state)
        for name, most in (("seed", 1 << 64), ("position", 1 << 60)):
            if state[name] >= most:
                raise ValueError(f"state: {name}: expected a number below {most}, got {line(state[name])}")
        if state["count"] != self.count:
            raise ValueError(
                f"state: count: expected {self.count}, the images of this set, got {state['count']}; go on with that "
                "of the state"
            )
        self.seed, self.position, self._pass = state["seed"], state["position"], None
