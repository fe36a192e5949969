"""Measure the tile sizes of the Triton convolutions for one call: the part of `pggan-fast tune` that needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Outputs = list[Tensor]


def tune_plans(
    op: str, args: tuple[Any, ...], run: Callable[[], Outputs], plain: Outputs, gross: float,
    distance: Callable[[Outputs, Outputs], float], seconds: Callable[[Callable[[], Any]], float],
    say: Callable[[str], None],
) -> Any:  # fmt: skip
    """Time `run` by every plan of its problem, and keep the fastest in the device's table; returns that plan.

    A plan that is off by more than twice the default one's `distance` from the `plain` result never wins; raises
    FloatingPointError where the default plan's is above `gross`.
    """
    from triton.runtime.errors import OutOfResources

    from pggan_fast.backends.triton import conv, tuning

    device = args[0].device
    problem, plans = conv.plans_of(op, args)
    tuning.prefer(op, problem, device, plans[0])
    default = distance(run(), plain)
    if not default <= gross:
        raise FloatingPointError(f"{op} {problem}: the default plan is off by {default:.2g}")

    def timed(plan: Any) -> float:
        tuning.prefer(op, problem, device, plan)
        try:
            off = distance(run(), plain)
        except OutOfResources as error:
            say(f"does not fit: {error}")
            return float("inf")
        if not off <= 2.0 * default + 1e-5:
            say(f"WRONG, left out: off by {off:.2g}, the default plan by {default:.2g}: {plan}")
            return float("inf")
        return seconds(run)

    return tuning.tune(op, problem, device, plans, timed)
