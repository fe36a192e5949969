"""What the launchers would launch: recorded instead of run, and specialised as Triton's JIT would specialise it.

Launchers look at shapes, strides and dtypes only, so meta tensors of the largest network cost nothing here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from pggan_fast.kernels import launch as launching
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime import jit

HALF = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Launch:
    """One call of kernels.launch.launch."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def dtype(self) -> str:
        """The data's: half precision where anything is."""
        dtypes = [t.dtype for t in self.tensors.values()]
        return next((HALF[d] for d in dtypes if d in HALF), "float32")

    @property
    def tensors(self) -> dict[str, Tensor]:
        named = zip(self.kernel.arg_names, self.args, strict=False)
        return {name: a for name, a in named if isinstance(a, Tensor)}

    @property
    def shapes(self) -> str:
        return ", ".join(f"{name} {list(t.shape)}" for name, t in self.tensors.items())


@dataclass(frozen=True)
class Job:
    """One program that the JIT would compile; launches that differ in nothing that it compiles for share one."""

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    attributes: tuple[tuple[tuple[int, ...], str], ...]
    options: tuple[tuple[str, Any], ...]
    cc: int  # compute capability: 80 is sm_80

    @property
    def name(self) -> str:
        return f"{self.module.rpartition('.')[2]}.{self.kernel}"

    def constant(self, name: str) -> Any:
        """The value of a tl.constexpr argument; None where there is none of that name."""
        names = [n for n, _ in self.signature]
        return dict(self.constants).get((names.index(name),)) if name in names else None


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Inside the block launches are put in the list, whoever holds `launch`, and nothing runs."""
    launches: list[Launch] = []

    def record(kernel: Any, grid: tuple[int, ...], x: Tensor, *args: Any, **options: Any) -> None:
        if 0 not in grid:
            launches.append(Launch(kernel, grid, (x, *args), options))

    real = launching.launch
    holders = [m for m in sys.modules.values() if getattr(m, "launch", None) is real]
    for module in holders:
        module.launch = record
    try:
        yield launches
    finally:
        for module in holders:
            module.launch = real


def specialise(launch: Launch, cc: int) -> Job:
    """By the JIT's own code: pointer types, what is divisible by 16, an int of 1 and None as constants."""
    kernel = launch.kernel
    backend = make_backend(GPUTarget("cuda", cc, 32))
    bind = jit.create_function_from_signature(kernel.signature, kernel.params, backend)
    # Fusion is pinned because its default changes with Triton.
    bound, specialization, options = bind(*launch.args, **{"enable_fp_fusion": True, **launch.options})
    _, signature, constants, attributes = kernel._pack_args(backend, options, bound, specialization, options)
    return Job(
        kernel.fn.__module__,
        kernel.fn.__name__,
        tuple(signature.items()),
        tuple(constants.items()),
        tuple((path, "divisible by 16") for path, attribute in attributes.items() if attribute),
        tuple(sorted(options.items())),
        cc,
    )


def source_of(job: Job) -> triton.compiler.ASTSource:
    kernel = getattr(sys.modules[job.module], job.kernel)
    attributes = {path: [["tt.divisibility", 16]] for path, _ in job.attributes}
    return triton.compiler.ASTSource(
        fn=kernel, signature=dict(job.signature), constexprs=dict(job.constants), attrs=attributes
    )


def unique(launches: list[Launch], cc: int) -> dict[Job, list[Launch]]:
    """The jobs of `launches`, each with those that it serves."""
    jobs: dict[Job, list[Launch]] = {}
    for launch in launches:
        jobs.setdefault(specialise(launch, cc), []).append(launch)
    return jobs
