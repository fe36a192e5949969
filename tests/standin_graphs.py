"""In place of CUDA graphs, on any device: a replay runs the captured function again, on the captured tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor


class StandIn:
    """The `Device` of pggan_fast.backends.graphs; counts, and can be told to fail.

    spoil: makes a wrong output of a replay's. refuse: the capture raises this. users_capture: the caller captures.
    after: runs after a replay, for what it would have written wrong. A capture runs the function too, as the warm-ups
    of a real one do.
    """

    def __init__(
        self,
        spoil: Callable[[Tensor], Tensor] = lambda y: y,
        refuse: Exception | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.spoil, self.refuse, self.after, self.users_capture = spoil, refuse, after, False
        self.captures = self.replays = 0
        self._lock = threading.Lock()

    def capture(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        if self.refuse is not None:
            raise self.refuse
        self.captures += 1
        output = run().clone()

        def replay() -> None:
            self.replays += 1
            output.copy_(self.spoil(run()))
            self.after()

        return replay, output

    def turn(self) -> AbstractContextManager[bool]:
        return self._lock

    def capturing(self) -> bool:
        return self.users_capture
