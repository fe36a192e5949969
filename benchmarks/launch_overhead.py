"""Host microseconds of a Triton layer before its kernels start: ours alone, every launch replaced by nothing.

usage: python -m pggan_fast.benchmarks.launch_overhead. Needs Triton and no GPU; Triton's own share of a launch, which
only a device can show, comes on top.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from pggan_fast.kernels import bias_act, conv_weight_grad, pack_weight, scaled_conv2d

from pggan_fast.backends.triton import conv, epilogue


def microseconds(f: Callable[[], Any], calls: int = 200, rounds: int = 15) -> float:
    """The median over rounds of one call's time."""
    f()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            f()
        times.append((time.perf_counter() - start) / calls)
    return 1e6 * statistics.median(times)


def main() -> None:
    launches = [0]

    def nothing(*args: Any, **options: Any) -> None:
        launches[0] += 1

    for module in (bias_act, conv_weight_grad, pack_weight, scaled_conv2d):
        vars(module)["launch"] = nothing
    x = torch.randn(4, 64, 16, 16, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    w, b = torch.randn(64, 64, 3, 3), torch.randn(64)
    layer = 0.1, 1.0, "none", 0.2, "after_act", 1e-8, "inside"
    y, r, mask = conv.scaled_conv2d_forward(x, w, b, *layer)
    calls: dict[str, Callable[[], Any]] = {
        "layer, forward": lambda: conv.scaled_conv2d_forward(x, w, b, *layer),
        "input gradient": lambda: conv.conv(x, w, 0.1, "none", True),
        "weight gradient": lambda: conv.conv_weight_grad(x, y, 0.1, "none", 3, torch.float32),
        "epilogue, backward": lambda: epilogue.bias_act_backward(
            y, None, y, r, mask, 1.0, 1.0, 0.2, "after_act", 1e-8, "inside", False, True
        ),
    }
    for name, call in calls.items():
        before = launches[0]
        call()
        print(f"{name:20} {launches[0] - before} launches  {microseconds(call):6.1f} us")


if __name__ == "__main__":
    main()
