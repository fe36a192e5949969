"""Backend "aten": torch's own kernels, with exact phase decomposition of the resampling convolutions.

Under `torch.use_deterministic_algorithms` torch's convolutions choose deterministic algorithms by themselves, and on a
CUDA device its matrix products want CUBLAS_WORKSPACE_CONFIG set, as torch's documentation says; nothing else that is
called here is on torch's lists. On the CPU, sums over pixels (weight gradients) round by the number of threads.
"""

from pggan_fast.backends.aten import blend, conv, epilogue, layer

__all__ = ["blend", "conv", "epilogue", "layer"]
