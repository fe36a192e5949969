"""Who can run an op, and the choice among them. `pggan-fast info` prints what this machine has."""

from pggan_fast.backends import aten, cpu, cpu_layer, cpu_stage, cuda, cuda_grad, cuda_layer, cuda_stage, triton
from pggan_fast.backends.registry import BACKENDS, BackendUnavailable, ops_of, unavailable

__all__ = [
    "BACKENDS", "BackendUnavailable", "aten", "cpu", "cpu_layer", "cpu_stage", "cuda", "cuda_grad", "cuda_layer",
    "cuda_stage", "ops_of", "triton", "unavailable",
]  # fmt: skip
