"""Work shared by the processes of a torchrun: results do not depend on how many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number and how many there are."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Of the process group that there is; alone, where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def in_order(self, chunks: Sequence[range], compute: Callable[[range], T]) -> Iterator[tuple[range, T]]:
        """What `compute` gives for each chunk: on rank 0 in the order of the chunks, elsewhere nothing.

        Chunk i is computed by rank i modulo their number, whole, so that a batch is the same batch for any number of
        ranks. What is computed holds tensors of the CPU only. All ranks must iterate to the end.
        """
        for start in range(0, len(chunks), self.world):
            turn = chunks[start : start + self.world]
            mine = compute(turn[self.rank]) if self.rank < len(turn) else None
            found = [mine] * self.world if self.rank == 0 else None
            if self.world > 1:
                dist.gather_object(mine, found)
            for numbers, each in zip(turn, found or [], strict=False):
                assert each is not None
                yield numbers, each
