"""Backend "triton": the kernels of kernels/, on CUDA devices, and on CPU tensors under TRITON_INTERPRET=1.

Arguments and results are those of the ops' schemas (pggan_fast/ops). The modules here allocate outputs and register;
they are imported only where the kernels could run, so that other installations do not pay for importing Triton.
"""

from __future__ import annotations

from pggan_fast.backends.registry import backend_status
from pggan_fast.backends.triton.availability import why_missing

backend_status("triton", why_missing)
if why_missing() is None:
    from pggan_fast.backends.triton import blend, conv, epilogue, stddev

    __all__ = ["blend", "conv", "epilogue", "stddev"]
