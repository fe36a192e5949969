"""pggan_fast: fused layers that make progressive growing of GANs in PyTorch fast."""

from pggan_fast import backends, nn, ops
from pggan_fast.backends import BackendUnavailable
from pggan_fast.backends.forced import use_backend
from pggan_fast.backends.frozen import frozen
from pggan_fast.explain import explain
from pggan_fast.ops import no_weight_grads
from pggan_fast.warmup import warm_up

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "__version__",
    "backends",
    "explain",
    "frozen",
    "nn",
    "no_weight_grads",
    "ops",
    "use_backend",
    "warm_up",
]
