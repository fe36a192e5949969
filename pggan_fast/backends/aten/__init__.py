"""Backend "aten": torch's own kernels, with exact phase decomposition of the resampling convolutions."""

from pggan_fast.backends.aten import blend, conv, epilogue, layer

__all__ = ["blend", "conv", "epilogue", "layer"]
