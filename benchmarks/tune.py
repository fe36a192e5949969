"""Measure the plans of the convolutions of G and D on a CUDA device, and keep the fastest of each.

    python -m pggan_fast.benchmarks.tune [--resolution R ...] [--batch N] [--dtype float32 bfloat16] [--again]

What was measured before is left alone, so that a run that was cut short goes on. The result is the table of
backends/triton/tuning.py, in PGGAN_FAST_CACHE. float32 is measured as cuDNN is set: in TF32, unless that is off.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pggan_fast.benchmarks.layers import layers
from torch import Tensor

from pggan_fast import nn
from pggan_fast.backends import layout, registry, unavailable
from pggan_fast.ops.conv import ADJOINT

# Six roundings of the products' type, TF32's being float16's: how far the default plan may be from torch's own result
GROSS = {torch.float32: 6e-3, torch.float16: 6e-3, torch.bfloat16: 5e-2}
Outputs = tuple[Tensor, ...]


class Job(NamedTuple):
    """One problem: an internal op, its arguments and the plans to choose from."""

    op: str
    problem: Any
    plans: tuple[Any, ...]
    args: tuple[Any, ...]

    def run(self, backend: str | None) -> Outputs:
        """By "triton", or None: the automatic choice, which is torch's own way while nothing else is known."""
        found = registry.choose(self.op, backend, self.args[0].device.type, self.args)(*self.args)
        results = found if isinstance(found, tuple) else (found,)
        return tuple(t for t in results if t is not None and t.is_floating_point())


def jobs(layer: nn.ScaledConv2d, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Iterator[Job]:
    """The layer itself, its gradients in the input and in the weight, and the convolution of the second order."""
    from pggan_fast.kernels.configs import conv_plans, gradient_plans

    from pggan_fast.backends.triton.conv import _problem

    def image(size: Any) -> Tensor:
        return torch.randn(tuple(size), device=device, dtype=dtype).to(memory_format=torch.channels_last)

    c, cin, k, _ = layer.weight.shape
    scale, resample, norm = layer.weight_scale, layer.resample, layer.pixel_norm
    family = "none" if resample == "pool" else resample
    x, w, b = image(shape), torch.randn(layer.weight.shape, device=device), torch.randn(c, device=device)
    dy = image(layout.output_shape(x, w, family, False))
    slope, eps = layer.negative_slope, layer.eps
    whole = x, w, b, scale, layer.bias_scale, resample, slope, norm, eps, layer.eps_mode
    problem = _problem(x, c, k, resample, norm != "none")
    yield Job("scaled_conv2d_forward", problem, conv_plans(problem), whole)
    other, factor = ADJOINT[family]
    problem = _problem(dy, cin, k, other, False)
    yield Job("conv", problem, conv_plans(problem), (dy, w, scale * factor, other, True))
    problem = _problem(x, c, k, family, False)
    yield Job("conv", problem, conv_plans(problem), (x, w, scale, family, False))
    yield Job("conv_weight_grad", problem, gradient_plans(problem), (x, dy, scale, family, k, torch.float32))


def distances(got: Outputs, want: Outputs) -> list[float]:
    """Of each result, on the scale of its largest element."""
    pairs = [(a.double(), b.double()) for a, b in zip(got, want, strict=True)]
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


def measure(job: Job, device: torch.device, milliseconds: Callable[[Callable[[], Any]], float]) -> Any:
    """Tune one job. Raises FloatingPointError where the default plan is off; another plan that is off never wins."""
    from pggan_fast.backends.triton import tuning

    tuning.prefer(job.op, job.problem, device, job.plans[0])
    want = job.run(None)
    default = distances(job.run("triton"), want)
    if not all(d <= GROSS[job.args[0].dtype] for d in default):
        raise FloatingPointError(f"{job.op} {job.problem}: the default plan is off by {default}")
    current = None

    def run(plan: Any) -> Outputs:
        nonlocal current
        if plan is not current:
            current = plan
            tuning.prefer(job.op, job.problem, device, plan)
        return job.run("triton")

    def seconds(f: Callable[[], Outputs]) -> float:
        from triton.runtime.errors import OutOfResources

        try:
            got = distances(f(), want)
        except OutOfResources as error:
            print(f"  does not fit: {error}")
            return float("inf")
        if not all(d <= 2.0 * most + 1e-5 for d, most in zip(got, default, strict=True)):
            print(f"  WRONG, left out: off by {got}, the default plan by {default}: {current}")
            return float("inf")
        return milliseconds(f) / 1e3

    return tuning.tune(job.op, job.problem, device, job.plans, run, lambda: job.run(None), seconds)


def tune(
    resolution: int, batch: int, dtype: torch.dtype, device: torch.device,
    milliseconds: Callable[[Callable[[], Any]], float], again: bool = False,
) -> int:  # fmt: skip
    """Tune every problem of G and D that has no measurement yet; return how many were measured."""
    from pggan_fast.backends.triton import tuning

    known = set() if again else set(tuning.load(tuning.device_key(device)))
    before = len(known)
    for layer, shape in layers(resolution, batch):
        for job in jobs(layer, shape, dtype, device):
            name = tuning.bucket(job.op, job.problem)
            if name in known:
                continue
            known.add(name)
            best = measure(job, device, milliseconds)
            print(
                f"{best.aten_seconds / best.seconds:5.2f} x torch's {best.aten_seconds * 1e6:8.1f} us  {name}",
                flush=True,
            )
    return len(known) - before


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the plans of the convolutions of G and D.")
    parser.add_argument("--resolution", type=int, nargs="+", default=[32])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "float16", "bfloat16"], default=["bfloat16", "float32"]
    )
    parser.add_argument("--again", action="store_true", help="measure again what has a measurement")
    options = parser.parse_args()
    reason = unavailable("triton") or (None if torch.cuda.is_available() else "torch sees no CUDA device")
    if reason is not None:
        raise SystemExit(f"tune: {reason}")
    from triton.testing import do_bench

    from pggan_fast.backends.triton import tuning

    device = torch.device("cuda", torch.cuda.current_device())
    for resolution in options.resolution:
        for dtype in options.dtype:
            count = tune(resolution, options.batch, getattr(torch, dtype), device, do_bench, options.again)
            print(f"{resolution}x{resolution} batch {options.batch} {dtype}: {count} problems measured")
    print(tuning.table_path(tuning.device_key(device)))


if __name__ == "__main__":
    main()
